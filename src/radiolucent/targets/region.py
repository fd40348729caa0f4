"""Targets of segmentations: a class's logits, gathered over its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
        inside = [_of(mask, l) for l in self.labels]
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

    def only(self, rows: Sequence[int]) -> Self:
        """Some of the labels, by their places."""
        mask = self.mask
        if mask is not None and mask.is_floating_point() and len(rows) < len(self.labels):  # (b, labels, *grid) or (labels, *grid)
            mask = mask[list(rows)] if len(mask) == len(self.labels) else mask[:, list(rows)]
        return type(self)(*(self.labels[t] for t in rows), mask=mask, reduce=self.reduce)

    def adds_up(self, grid: Sequence[int]) -> bool:
        """Whether the weights are fixed, on this grid: S is then a sum over voxels, and over windows."""
        return self.mask is not None and tuple(self.mask.shape[-len(grid) :]) == tuple(grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[_Within, tuple[int, ...]]:
        """S on the part `where` of the grid with weights w_l * factor, and the numbers of the labels with weight there."""
        assert self.mask is not None
        index: tuple[Any, ...] = (..., *where)
        axes, cut = len(where), self.mask[index]
        inside = cut.unbind(-axes - 1) if cut.is_floating_point() else [_of(cut, l) for l in self.labels]
        rows = tuple(t for t, w in enumerate(inside) if w.any())
        scale: list[Tensor | float] = [1.0] * len(self.labels)
        if self.reduce == "mean":
            if axes not in self._counts:  # once for all windows
                self._counts[axes] = [_voxels(_of(self.mask, l)[(None,) * (self.mask.ndim == axes)]) for l in self.labels]
            scale = [1 / n for n in self._counts[axes]]
        part = Region(*self.labels, mask=cut, reduce="probability" if cut.is_floating_point() else "sum")
        return _Within(part, factor, scale), rows

    @cached_property
    def _counts(self) -> dict[int, list[Tensor]]:
        """By the number of the grid's axes: the voxels of each label."""
        return {}


@dataclass(frozen=True, eq=False)
class _Within:
    """A Region on a part of the grid: its weights there, times a factor for each voxel and a number for each label."""

    part: Region
    factor: Tensor
    scale: list[Tensor | float]

    def __call__(self, output: Any) -> Tensor:
        logits = self.part._logits(output)
        assert self.part.mask is not None
        weights = self.part._weights(self.part.mask, logits)
        weights = [w * (self.factor * s) for w, s in zip(weights, self.scale, strict=True)]
        return WeightedSums.apply(logits, self.part.labels, weights)

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.part.names(classes)

    def fix(self, output: Any) -> Self:
        return self

    def adds_up(self, grid: Sequence[int]) -> bool:
        return self.part.adds_up(grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[_Within, tuple[int, ...]]:
        part, rows = self.part.within(where, self.factor[where] * factor)
        return replace(part, scale=self.scale), rows


def _of(mask: Tensor, label: int) -> Tensor:
    """The voxels of a label; a boolean mask is every label's."""
    return mask if mask.dtype == torch.bool else mask == label


def _voxels(inside: Tensor) -> Tensor:
    """How many, of a mask (b, *grid), for each item: (b, 1, ..., 1)."""
    return inside.flatten(1).sum(1).reshape(-1, *[1] * (inside.ndim - 1))


def means(inside: Sequence[Tensor]) -> list[Tensor]:
    """Weights that add up to 1 for each item, from the voxels that count."""
    return [w / _voxels(w) for w in inside]


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
