"""Targets of segmentations: a class's logits, gathered over its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from radiolucent.errors import BadInput, Nothing
from radiolucent.targets.parts import called, check_range, segmentation, whole


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Region:
    """A segmented class as one number: its logits, gathered over the voxels that the model gives to it.

        S_l = sum_v w_l[v] f_l(x)[v],     output f (b, classes, *grid)

    reduce="sum": w_l[v] = 1 where the unperturbed model predicts l, else 0 (Agg2Exp, eq. 1-2);
    "mean": the same divided by the number of those voxels;
    "probability": w_l[v] = softmax(f)_l[v] of the unperturbed model, at every voxel.

    The weights are fixed before the explanation starts (`fix`) and do not move with the perturbed input.
    `mask` replaces the prediction: an integer label map (b, *grid) or (*grid), or a boolean one whose voxels
    count for every label. A single-channel output f is read as the two classes (-f, f), with the
    probabilities 1 - sigmoid(f) and sigmoid(f).
    """

    labels: tuple[int, ...]
    mask: Tensor | None
    reduce: Literal["sum", "mean", "probability"]

    def __init__(self, *labels: int, mask: Tensor | None = None, reduce: Literal["sum", "mean", "probability"] = "sum") -> None:
        if not labels:
            raise BadInput("at least one label", "none", "For example Region(1) or Region(1, 2).")
        if reduce not in ("sum", "mean", "probability"):
            raise BadInput('reduce "sum", "mean" or "probability"', repr(reduce), "Choose one of them.")
        if mask is not None and not isinstance(mask, Tensor):
            raise BadInput("a tensor as the mask", type(mask).__name__, "Convert it: torch.as_tensor(mask).")
        object.__setattr__(self, "labels", whole(labels, "Region"))
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "reduce", reduce)

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask=<{'x'.join(map(str, self.mask.shape))}>"
        reduce = "" if self.reduce == "sum" else f", reduce={self.reduce!r}"
        return f"Region({', '.join(map(str, self.labels))}{mask}{reduce})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region) or (self.labels, self.reduce) != (other.labels, other.reduce):
            return False
        if self.mask is None or other.mask is None:
            return self.mask is other.mask
        return torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.labels, self.reduce))

    def _logits(self, output: Any) -> Tensor:
        output = segmentation(output, repr(self))
        if output.shape[1] == 1:
            output = torch.cat([-output, output], 1)
        check_range(self.labels, output.shape[1], repr(self))
        return output

    def __call__(self, output: Any) -> Tensor:
        logits = self._logits(output)
        if self.mask is None:
            raise BadInput(
                "a Region whose voxels are fixed before the explanation starts",
                f"{self!r}, which has none yet",
                "Call `targets = targets.fix(model(x))` first; explain() does.",
            )
        return WeightedSums.apply(logits, self.labels, self._weights(self.mask, logits))

    def _weights(self, mask: Tensor, logits: Tensor) -> list[Tensor]:
        """For each label its weights (b or 1, *grid), after checking that the mask fits the output."""
        given = mask.is_floating_point()
        if given != (self.reduce == "probability"):
            raise BadInput(
                "a mask of whole numbers or booleans for a sum or a mean, and none for probabilities",
                f"{mask.dtype} and reduce={self.reduce!r}",
                "Convert the mask (mask.long() or mask > 0.5), or leave it out.",
            )
        shape = (len(self.labels), *logits.shape[2:]) if given else tuple(logits.shape[2:])
        if tuple(mask.shape) == shape:
            mask = mask[None]
        if tuple(mask.shape[1:]) != shape or len(mask) not in (1, len(logits)):
            raise BadInput(
                f"a mask on the output's grid: {(len(logits), *shape)} or {shape}",
                f"shape {tuple(mask.shape)}",
                "Resample it, or take away its channel axis.",
            )
        if given:
            return list(mask.unbind(1))
        inside = [mask if mask.dtype == torch.bool else mask == l for l in self.labels]
        if self.reduce == "mean":
            return means(inside)
        return inside

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(called(i, classes, "label") for i in self.labels)

    def fix(self, output: Any) -> Self:
        """Decide the weights from the unperturbed `output`; a label without a voxel is an error."""
        logits = self._logits(output).detach()
        mask = self.mask
        if mask is None and self.reduce == "probability":
            single = output.shape[1] == 1
            mask = (logits / 2 if single else logits).softmax(1)[:, list(self.labels)]
        elif mask is None:
            mask = logits.argmax(1).to(torch.uint8 if logits.shape[1] < 256 else torch.int32)
        mask = mask.to(logits.device)
        weights = self._weights(mask, logits)
        empty = [l for l, w in zip(self.labels, weights, strict=True) if not (w > 0).flatten(1).any(1).all()]
        if empty:
            raise Nothing(
                "at least one voxel in each target region",
                f"none for label {', '.join(map(str, empty))}",
                "The model predicts no such voxel here: leave the label out, or give a mask.",
            )
        return type(self)(*self.labels, mask=mask, reduce=self.reduce)


def means(inside: Sequence[Tensor]) -> list[Tensor]:
    """Weights that add up to 1 for each item, from the voxels that count."""
    return [w / w.flatten(1).sum(1).reshape(-1, *[1] * (w.ndim - 1)) for w in inside]


class WeightedSums(torch.autograd.Function):
    """S[t, i] = sum_v w_t[i, v] f[i, l_t, v]; backward writes only the channels of targets whose gradient is asked for.

    Written out because autograd would fill and add up all channels of all targets for each one of them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: tuple[int, ...], weights: list[Tensor]) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.labels, ctx.like = labels, (logits.shape, logits.dtype, logits.device)
        dtype = torch.promote_types(logits.dtype, torch.float32)  # a sum over a volume leaves the range of half precision
        return torch.stack([(logits[:, l] * w).flatten(1).sum(1, dtype=dtype) for l, w in zip(labels, weights, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shape, dtype, device = ctx.like
        result = torch.zeros(shape, dtype=dtype, device=device)
        for row, label, weights in zip(gradient, ctx.labels, ctx.saved_tensors, strict=True):
            if row.any():
                result[:, label] += (row.reshape(-1, *[1] * (len(shape) - 2)) * weights).to(dtype)
        return result, None, None
