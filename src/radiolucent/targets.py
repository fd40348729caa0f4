"""Targets: which number of the model's output is explained.

Each gives scores (t, b) for t targets and b batch items. Several targets in one object share one
forward pass: `Logits(0, 3, 7)` costs one forward and three backward passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal, Self

import torch
from torch import Tensor

from radiolucent.errors import BadInput, Nothing
from radiolucent.protocols import Target


def _called(index: int, classes: Sequence[str], kind: str) -> str:
    return classes[index] if 0 <= index < len(classes) else f"{kind} {index}"


def as_tensor(output: Any) -> Tensor:
    """The output, if it is one tensor; else an error that says what it is and how to choose."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            return output
        raise BadInput(
            "scores as the model's output",
            f"a tensor of {output.dtype} (labels after an argmax?)",
            "Let the model return its logits, or choose a perturbation method.",
        )
    if isinstance(output, dict):
        came = f"a dict with the keys {', '.join(repr(k) for k in output)}"
    elif isinstance(output, (list, tuple)):
        inside = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in output]
        came = f"a {type(output).__name__} of {len(output)}: {inside}"
    else:
        came = type(output).__name__
    raise BadInput("a tensor as the model's output", came, "Name the part to explain: output=KEY or Select(KEY, target).")


def label_map(output: Tensor) -> Tensor:
    """A segmentation's labels (b, *grid) from its logits (b, classes, *grid); one channel is label 1 where it is above 0."""
    return (output > 0)[:, 0].long() if output.shape[1] == 1 else output.argmax(1)


def _vector(output: Any, indices: tuple[int, ...], target: str) -> Tensor:
    """output as (b, k), with indices that exist."""
    output = as_tensor(output)
    if output.ndim != 2:
        raise BadInput(
            f"an output of shape (batch, values) for {target}",
            f"shape {tuple(output.shape)}",
            "For a segmentation model use Region(label, ...).",
        )
    _check_range(indices, output.shape[1], target)
    return output


def _check_range(indices: tuple[int, ...], size: int, target: str) -> None:
    wrong = [i for i in indices if not 0 <= i < size]
    if wrong:
        raise BadInput(
            f"target indices from 0 to {size - 1} for {target}", f"{wrong}", f"The model has {size} outputs; choose among them."
        )


def _whole(numbers: tuple[Any, ...], target: str) -> tuple[int, ...]:
    try:
        return tuple(index(n) for n in numbers)
    except TypeError:
        raise BadInput(f"whole numbers in {target}", f"{numbers}", "Classes, outputs and labels are counted from 0.") from None


@dataclass(frozen=True, init=False, repr=False)
class Logits:
    """S_i = f_i(x): the score of class i before any softmax, output (b, classes)."""

    indices: tuple[int, ...]

    def __init__(self, *indices: int) -> None:
        if not indices:
            raise BadInput("at least one class", "none", "For example Logits(1) or Logits(0, 1, 2).")
        object.__setattr__(self, "indices", _whole(indices, "Logits"))

    def __repr__(self) -> str:
        return f"Logits({', '.join(map(str, self.indices))})"

    def __call__(self, output: Any) -> Tensor:
        return _vector(output, self.indices, repr(self))[:, list(self.indices)].T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(_called(i, classes, "logit") for i in self.indices)

    def fix(self, output: Any) -> Self:
        return self


@dataclass(frozen=True)
class Predicted:
    """S = f_k(x) with k the class that the unperturbed model ranks highest, for each batch item its own.

    Output (b, classes). `classes` holds k for each item once the target is fixed.
    """

    classes: tuple[int, ...] = ()

    def __call__(self, output: Any) -> Tensor:
        if not self.classes:
            raise BadInput("a class for each item, fixed before the explanation starts", "none yet", "Call targets.fix(model(x)).")
        output = _vector(output, self.classes, repr(self))
        return output.gather(1, torch.tensor(self.classes, device=output.device)[:, None]).T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        same = len(set(self.classes)) == 1
        return (_called(self.classes[0], classes, "logit") if same else "predicted class",)

    def fix(self, output: Any) -> Self:
        return type(self)(tuple(_vector(output, (), repr(self)).argmax(1).tolist()))


@dataclass(frozen=True)
class Contrast:
    """S = f_yes(x) - f_no(x): why this class rather than that one."""

    yes: int
    no: int

    def __post_init__(self) -> None:
        _whole((self.yes, self.no), "Contrast")

    def __call__(self, output: Any) -> Tensor:
        output = _vector(output, (self.yes, self.no), repr(self))
        return (output[:, self.yes] - output[:, self.no])[None]

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return (f"{_called(self.yes, classes, 'logit')} rather than {_called(self.no, classes, 'logit')}",)

    def fix(self, output: Any) -> Self:
        return self


@dataclass(frozen=True, init=False, repr=False)
class Outputs:
    """S_i = f_i(x) of a regression: output (b, values) or (b,). `Outputs()` explains all of them."""

    indices: tuple[int, ...] | None

    def __init__(self, *indices: int) -> None:
        object.__setattr__(self, "indices", _whole(indices, "Outputs") or None)

    def __repr__(self) -> str:
        return f"Outputs({', '.join(map(str, self.indices or ()))})"

    def __call__(self, output: Any) -> Tensor:
        output = as_tensor(output)
        output = output[:, None] if output.ndim == 1 else output
        output = _vector(output, self.indices or (), repr(self))
        return output[:, list(self.indices)].T if self.indices else output.T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(_called(i, classes, "output") for i in self.indices or range(len(classes)))

    def fix(self, output: Any) -> Self:
        """`Outputs()` becomes the list of all outputs."""
        return self if self.indices else type(self)(*range(len(self(output))))


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
        object.__setattr__(self, "labels", _whole(labels, "Region"))
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
        output = as_tensor(output)
        if output.ndim < 4:
            raise BadInput(
                f"an output of shape (batch, classes, *grid) for {self!r}",
                f"shape {tuple(output.shape)}",
                "For a classifier use Logits(class, ...), for a regression Outputs(index, ...).",
            )
        if output.shape[1] == 1:
            output = torch.cat([-output, output], 1)
        _check_range(self.labels, output.shape[1], repr(self))
        return output

    def __call__(self, output: Any) -> Tensor:
        logits = self._logits(output)
        if self.mask is None:
            raise BadInput(
                "a Region whose voxels are fixed before the explanation starts",
                f"{self!r}, which has none yet",
                "Call `targets = targets.fix(model(x))` first; explain() does.",
            )
        return _WeightedSums.apply(logits, self.labels, self._weights(self.mask, logits))

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
            return [w / w.flatten(1).sum(1).reshape(-1, *[1] * (w.ndim - 1)) for w in inside]
        return inside

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(_called(i, classes, "label") for i in self.labels)

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


class _WeightedSums(torch.autograd.Function):
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


def part_of(output: Any, key: str | int) -> Any:
    """The part of a dict, tuple or list that `key` names."""
    try:
        if isinstance(output, Tensor):  # an index would be a batch item
            raise TypeError
        if isinstance(key, str) and not isinstance(output, dict) and isinstance(getattr(output, key, None), Tensor):
            return getattr(output, key)  # a named tuple or a class of its own
        return output[key]
    except (KeyError, IndexError, TypeError):
        if isinstance(output, dict):
            have = f"the keys {list(output)}"
        elif isinstance(output, (list, tuple)):
            have = f"positions 0 to {len(output) - 1}"
        else:
            have = f"a {type(output).__name__}, which needs no selector"
        raise BadInput(f"a part {key!r} in the model's output", have, "Choose one of those.") from None


@dataclass(frozen=True)
class Select:
    """A target on one part of an output that is a dict, tuple or list (`key`: its name or position)."""

    key: str | int
    target: Target

    def __call__(self, output: Any) -> Tensor:
        return self.target(part_of(output, self.key))

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.target.names(classes)

    def fix(self, output: Any) -> Self:
        return replace(self, target=self.target.fix(part_of(output, self.key)))
