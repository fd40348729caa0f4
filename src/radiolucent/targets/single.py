"""Targets of classifiers and regressions: one number of the output each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.targets.parts import as_tensor, called, check_range, whole


@dataclass(frozen=True, init=False, repr=False)
class Logits:
    """S_i = f_i(x): the score of class i before any softmax, output (b, classes)."""

    indices: tuple[int, ...]

    def __init__(self, *indices: int) -> None:
        if not indices:
            raise BadInput("at least one class", "none", "For example Logits(1) or Logits(0, 1, 2).")
        object.__setattr__(self, "indices", whole(indices, "Logits"))

    def __repr__(self) -> str:
        return f"Logits({', '.join(map(str, self.indices))})"

    def __call__(self, output: Any) -> Tensor:
        return _vector(output, self.indices, repr(self))[:, list(self.indices)].T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(called(i, classes, "logit") for i in self.indices)

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
        return (called(self.classes[0], classes, "logit") if same else "predicted class",)

    def fix(self, output: Any) -> Self:
        return type(self)(tuple(_vector(output, (), repr(self)).argmax(1).tolist()))


@dataclass(frozen=True)
class Contrast:
    """S = f_yes(x) - f_no(x): why this class rather than that one."""

    yes: int
    no: int

    def __post_init__(self) -> None:
        whole((self.yes, self.no), "Contrast")

    def __call__(self, output: Any) -> Tensor:
        output = _vector(output, (self.yes, self.no), repr(self))
        return (output[:, self.yes] - output[:, self.no])[None]

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return (f"{called(self.yes, classes, 'logit')} rather than {called(self.no, classes, 'logit')}",)

    def fix(self, output: Any) -> Self:
        return self


@dataclass(frozen=True, init=False, repr=False)
class Outputs:
    """S_i = f_i(x) of a regression: output (b, values) or (b,). `Outputs()` explains all of them."""

    indices: tuple[int, ...] | None

    def __init__(self, *indices: int) -> None:
        object.__setattr__(self, "indices", whole(indices, "Outputs") or None)

    def __repr__(self) -> str:
        return f"Outputs({', '.join(map(str, self.indices or ()))})"

    def __call__(self, output: Any) -> Tensor:
        output = as_tensor(output)
        output = output[:, None] if output.ndim == 1 else output
        output = _vector(output, self.indices or (), repr(self))
        return output[:, list(self.indices)].T if self.indices else output.T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(called(i, classes, "output") for i in self.indices or range(len(classes)))

    def fix(self, output: Any) -> Self:
        """`Outputs()` becomes the list of all outputs."""
        return self if self.indices else type(self)(*range(len(self(output))))


def _vector(output: Any, indices: tuple[int, ...], target: str) -> Tensor:
    """output as (b, k), with indices that exist."""
    output = as_tensor(output)
    if output.ndim != 2:
        raise BadInput(
            f"an output of shape (batch, values) for {target}",
            f"shape {tuple(output.shape)}",
            "For a segmentation model use Region(label, ...).",
        )
    check_range(indices, output.shape[1], target)
    return output
