"""What M3d-CAM's `label` means, as a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.targets import as_tensor

Label = int | str | Sequence[int] | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True, eq=False)
class Isolated:
    """M3d-CAM's `label` as a target: S = sum over all outputs of w * f(x), w decided by the unperturbed output.

    A number: w = 1 for this class, at every voxel. A function: w = label(f(x)), which may select voxels. "best":
    the class of the largest sum. None: what is predicted, each item's class, or in a segmentation the class of
    each voxel, without the background unless there is nothing else (M3d-CAM adds up all classes at all voxels).
    """

    label: Label = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if not (self.label is None or _is_best(self.label) or callable(self.label)):
            _numbers(self.label)

    def __call__(self, output: Any) -> Tensor:
        if self.weights is None:
            raise BadInput("a label that is fixed before the explanation starts", "none yet", "Call targets.fix(model(x)).")
        output = as_tensor(output)
        dtype = torch.promote_types(output.dtype, torch.float32)  # a sum over a volume leaves the range of half precision
        return (output * self.weights).flatten(1).sum(1, dtype=dtype)[None]

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return ("label" if self.label is None or callable(self.label) else f"label {self.label}",)

    def fix(self, output: Any) -> Isolated:
        output = as_tensor(output).detach()
        return replace(self, weights=_weights(output, self.label))


def _weights(output: Tensor, label: Label) -> Tensor:
    if output.ndim < 2:
        raise BadInput("an output (batch, classes, ...)", f"shape {tuple(output.shape)}", "Keep its batch and class axes.")
    classes, axes = output.shape[1], output.ndim - 2
    if callable(label):
        chosen = label(output)
        try:
            weights = torch.as_tensor(chosen).to(output)
        except (TypeError, ValueError, RuntimeError):
            got = type(chosen).__name__
            raise BadInput("a tensor from label(output)", got, "Return a mask like output > 0.5.") from None
        if weights.shape != output.shape:
            got = f"shape {tuple(weights.shape)}"
            raise BadInput(f"a mask of shape {tuple(output.shape)} from label(output)", got, "Return a mask like output > 0.5.")
        return weights
    if label is None and axes:
        if classes == 1:
            return (output > 0).to(output.dtype) if (output > 0).any() else torch.ones_like(output)
        voxels = _one_hot(output.argmax(1), output)
        return torch.cat([voxels[:, :1] * 0, voxels[:, 1:]], 1) if voxels[:, 1:].any() else voxels
    if label is None or _is_best(label):
        return (
            _one_hot(output.flatten(2).sum(2).argmax(1) if axes else output.argmax(1), output)
            .reshape(len(output), classes, *[1] * axes)
            .expand_as(output)
        )
    wanted = _numbers(label)
    if not all(0 <= k < classes for k in wanted):
        raise BadInput(f"a label from 0 to {classes - 1}, a function, 'best' or None", repr(label), "Choose one of these.")
    weights = torch.zeros_like(output)
    weights[:, torch.tensor(wanted)] = 1
    return weights


def _is_best(label: Any) -> bool:
    return isinstance(label, str) and label == "best"


def _numbers(label: Any) -> list[int]:
    """One class or several; numpy's and torch's whole numbers are numbers too."""
    try:
        return [index(label)]
    except TypeError:
        pass
    try:
        found = [index(k) for k in label]
    except TypeError:
        found = []
    if not found:
        raise BadInput("a class, several, a function, 'best' or None as label", repr(label), "For example label=1.")
    return found


def _one_hot(labels: Tensor, output: Tensor) -> Tensor:
    """(b, ...) -> (b, classes, ...)"""
    return nn.functional.one_hot(labels, output.shape[1]).movedim(-1, 1).to(output.dtype)
