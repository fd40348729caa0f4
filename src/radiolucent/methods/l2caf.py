"""L2-CAF: a mask of unit norm on a layer's features that keeps the output, or speaks for one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.hooks import tensors_in
from radiolucent.methods.backward import check_differentiable
from radiolucent.methods.descent import Descended, Steps, Until, descend
from radiolucent.methods.masking import Behind, Told, only, wide
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least

VARIANTS = ("class-specific", "class-oblivious")


@dataclass(frozen=True)
class L2CAF:
    """Constrained attention filter (Taha et al., ECCV 2020).

        R = |f| / ||f||_2
        class-oblivious:  f = argmin mean |y(A * f / ||f||_2) - y(A)|^2
        class-specific:   f = argmin sum_{c != t} y_c(A * f / ||f||_2) - y_t(A * f / ||f||_2)

    y = the model's output, A = the features at `layer` (a dotted name; "auto": the last with a grid), f = one number per
    cell, the same for all channels. Class-oblivious looks at the whole output, so it gives one map for all targets.
    In class-specific, y_t is the target's score S, and the rest the sum of all outputs less S; where the output is no
    vector (a segmentation) it is -S alone. `step` (for Adam, as in the authors' code), at most `iterations`, and the
    same rule to stop as SMOCAM, which it grew into. f starts uniform: a random start gives another map each time.

    >= 0 and of norm 1, so neither sign nor size means anything. On the layer's grid. Nothing makes f smooth: at early
    layers it is scattered. In a regression class-specific asks the other outputs to be small, which is seldom wanted.
    """

    layer: str = "auto"
    variant: str = "class-specific"
    step: float = 0.1
    iterations: int = 1000
    tolerance: float = 1e-5
    window: int = 50
    batch: int = 0

    unit = "mask of norm 1"

    def __post_init__(self) -> None:
        at_least(self, step=0, iterations=1, tolerance=0, window=1, batch=0)
        among(self, variant=VARIANTS)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.detailed(model, x, targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> Told:
        """The masks, and for each target the objective on the way, iterations, converged or not."""
        return only(model, x, targets, self)

    def told(self, found: Descended) -> Told:
        """As of MaskMethod."""
        found.say("L2-CAF")
        f = found.masks.abs()
        return f / _norm(f), found.rows(("loss",))

    def find(self, part: Behind, which: range) -> Descended:
        """The masks of some of the targets; the class-oblivious one is the same for all, and found once."""
        oblivious = self.variant == "class-oblivious"
        if self in part.shared:
            return part.shared[self].repeated(len(which))
        start = part.uniform(range(1) if oblivious else which, 1.0)
        start = start / start[0, 0].max()  # f of ones: Adam's steps are in its units

        def loss(f: Tensor, here: Tensor, i: int) -> Tensor:
            output = part.masked(f / _norm(f))
            if oblivious:
                return oblivious_loss(output, part.output, f)
            return specific_loss(part.chosen(output), part.own(output, here + which.start))

        found = descend(start, lambda f, here, i: loss(f, here, i)[None], Steps("adam", self.step), self._until)
        if not oblivious:
            return found
        part.shared[self] = found
        return found.repeated(len(which))

    @property
    def _until(self) -> Until:
        return Until(self.iterations, self.tolerance, self.window)


def oblivious_loss(output: Any, unmasked: Any, f: Tensor) -> Tensor:
    """Mean square of what the mask f (k, b, ...) changes, over all numbers of the output: (k, b)."""
    k, b = f.shape[:2]
    pairs = list(zip(tensors_in(output), tensors_in(unmasked), strict=True))
    changes = [(wide(y).unflatten(0, (k, b)) - wide(to)).reshape(k, b, -1) for y, to in pairs if y.is_floating_point()]
    check_differentiable(torch.cat(changes, 2))
    return torch.cat(changes, 2).square().mean(2)


def specific_loss(output: Any, own: Tensor) -> Tensor:
    """The outputs (k * b, classes) but for the target's score `own` (k, b), added up, less that score."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return wide(output).sum(1).reshape(own.shape) - 2 * own
    return -own


def _norm(f: Tensor) -> Tensor:
    return f.flatten(2).norm(dim=2).reshape(*f.shape[:2], *[1] * (f.ndim - 2))
