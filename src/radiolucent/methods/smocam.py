"""SMOCAM: one smooth mask on a layer's features that keeps the prediction as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.methods.descent import Descended, Steps, Until, descend
from radiolucent.methods.masking import Behind, Told, only
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least
from radiolucent.targets import Logits, Outputs, Select

OPTIMISERS = ("paper", "adam")
TINY = 1e-9
"""No step at all would leave the mask as it begins, and call that converged."""
ADAM = 100.0
"""Times tau times the mask's start: Adam's steps have the size of tau, whatever the gradient's."""


@dataclass(frozen=True)
class SmoCAM:
    """Smooth conditional attention mask (Konate et al., "SMOCAM", eq. 2), made for regression.

        R = M where M >= its 95th percentile, else 0,   M = argmin F
        F(M) = |S(A * M) - S(A)| / sigma + norm |1 - ||M||_2| + smooth R_s(M),   R_s(M) = 1/n sum_a mean |grad_a M|

    A = the features at `layer` (a dotted name; "auto": the last with a grid), M = one number per cell, the same for all
    channels, n = 3 axes (2 in an image; those of one cell do not count), grad_a = the differences between neighbours along
    axis a. `sigma` is the standard deviation of the output over the training data; 0 takes it from the model card
    (`spread`). `norm` and `smooth` are the paper's lambda and gamma, `step` its tau, `percentile` its threshold (0: none).

    Where the paper can be read in several ways: (1) |grad_a M|_1 is the mean over the neighbours, since with its
    gamma of 30 the sum leaves no mask but a constant one, and its descent does not converge (differences="sum" is that
    reading). (2) A step that does not lower F is taken all the same, and tau becomes 0.99 tau for the next: refused
    steps would leave F as it is and so end the descent. (3) F is stagnant where |F(i - `window`) - F(i)| <= `tolerance`,
    which an F that swings may meet by chance. (4) The start is 1.1 / ||1||_2 in each cell, so its norm is 1.1. (5) M
    may become negative; the threshold is on M itself, before it is interpolated, and it is the last M, not the best.
    optimiser="adam" takes Adam's direction with the same test and stop, and steps of 100 tau times the start, which
    with the default is the start itself: F ends lower in most networks tried, and higher in one.

    On the layer's grid. Not signed in meaning: M says what suffices, not in which direction. F is not convex, and a mask
    with the norm 1 cannot carry all features on: the distance that is left is in the details, with the curves. A larger
    `smooth` gives a wider mask; it says little where the network reads the same from several places. Not converged: a
    warning. All targets share each pass, and only the network behind the layer runs in it.
    """

    layer: str = "auto"
    sigma: float = 0.0
    norm: float = 1.0
    smooth: float = 30.0
    differences: str = "mean"
    step: float = 0.01
    iterations: int = 2000
    tolerance: float = 1e-5
    window: int = 50
    percentile: float = 95.0
    optimiser: str = "paper"
    batch: int = 0

    unit = "mask"

    def __post_init__(self) -> None:
        at_least(self, sigma=0, norm=0, smooth=0, step=TINY, iterations=1, tolerance=0, window=1, percentile=0, batch=0)
        among(self, differences=("mean", "sum"), optimiser=OPTIMISERS)
        if self.percentile >= 100:
            raise BadInput("percentile below 100", f"{self.percentile}", "95 is the default.")

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.detailed(model, x, targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> Told:
        """The masks, and for each target the objective and its parts on the way, iterations, distance, converged or not."""
        return self.given([self.sigma] if self.sigma else []).detailed(model, x, targets)

    def given(self, sigma: Sequence[float]) -> Given:
        """This method with a standard deviation for each target, or one for all."""
        return Given(self, tuple(map(float, sigma)))

    def find(self, part: Behind, which: range) -> Descended:
        """As of MaskMethod."""
        return self.given([self.sigma] if self.sigma else []).find(part, which)

    def told(self, found: Descended) -> Told:
        """As of MaskMethod."""
        return self.given([self.sigma]).told(found)

    def parts(self, M: Tensor, masked: Tensor, unmasked: Tensor, sigma: Tensor) -> Tensor:
        """The three terms of F, weighted: (3, k, b) for masks (k, b, 1, *cells), scores (k, b) and sigma (k, 1)."""
        distance = (masked - unmasked).abs() / sigma
        norm = (1 - M.flatten(2).norm(dim=2)).abs()
        along = [M.diff(dim=axis).abs().flatten(2) for axis in range(3, M.ndim) if M.shape[axis] > 1]
        each = [a.sum(2) if self.differences == "sum" else a.mean(2) for a in along]
        smooth = torch.stack(each).mean(0) if each else torch.zeros_like(norm)
        return torch.stack([distance, self.norm * norm, self.smooth * smooth])

    def thresholded(self, M: Tensor) -> Tensor:
        """The masks with 0 in the cells below the percentile, of each by itself."""
        values = M.flatten(2).numpy(force=True)  # torch's own quantile takes no more than 2^24 cells
        least = torch.from_numpy(np.quantile(values, self.percentile / 100, axis=2)).to(M)
        return torch.where(least.reshape(*least.shape, *[1] * (M.ndim - 2)) <= M, M, 0.0)


@dataclass(frozen=True)
class Given:
    """SMOCAM with what it is given for each target: the standard deviation of its output."""

    method: SmoCAM
    sigma: tuple[float, ...]

    unit = SmoCAM.unit

    @property
    def layer(self) -> str:
        return self.method.layer

    @property
    def batch(self) -> int:
        return self.method.batch

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.detailed(model, x, targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> Told:
        """As of SmoCAM."""
        return only(model, x, targets, self)

    def find(self, part: Behind, which: range) -> Descended:
        """The masks of some of the targets."""
        method, S = self.method, part.scores[which.start : which.stop]
        _check_sigma(self.sigma, len(part.scores))
        sigma = S.new_tensor(self.sigma).expand(len(part.scores))[which.start : which.stop, None]
        start = part.uniform(which, 1.1)

        def parts(M: Tensor, here: Tensor, i: int) -> Tensor:
            masked = part.own(part.masked(M), here + which.start)
            return method.parts(M, masked, S[here], sigma[here])

        if method.optimiser == "adam":
            steps = Steps("adam", ADAM * method.step * float(start.flatten()[0]), 0.99)
        else:
            steps = Steps("gradient", method.step, 0.99)
        return descend(start, parts, steps, Until(method.iterations, method.tolerance, method.window))

    def told(self, found: Descended) -> Told:
        """The thresholded masks and their details; a word about those that have not converged."""
        found.say("SMOCAM")
        sigma = self.sigma * (len(found.masks) if len(self.sigma) == 1 else 1)
        rows = found.rows(("distance", "norm", "smooth"))
        rows = [{"sigma": s, "distance": row["curve"]["distance"][-1]} | row for s, row in zip(sigma, rows, strict=True)]
        return self.method.thresholded(found.masks), rows


def _check_sigma(sigma: Sequence[float], targets: int) -> None:
    wanted = "the standard deviation of each output over the training data, above 0"
    if not sigma:
        do = "Give sigma=..., or, for Outputs and Logits, `spread` in the model card: one number for each output."
        raise BadInput(wanted, "none", do)
    if not all(isfinite(s) and s > 0 for s in sigma):
        do = "An output that never changes cannot be explained; correct `sigma` or the card's `spread`."
        raise BadInput(wanted, f"{list(sigma)}", do)
    if len(sigma) not in (1, targets):
        wanted = f"a standard deviation for each of {targets} targets, or one for all"
        raise BadInput(wanted, f"{len(sigma)}", "Give as many as there are targets.")


def scaled(method: Any, targets: Target, spread: Sequence[float]) -> Any:
    """SMOCAM without a sigma of its own, alone or inside another method, with each target's from the `spread` of all outputs."""
    if isinstance(method, SmoCAM):
        return method if method.sigma else _given_spread(method, targets, spread)
    held = {f.name: getattr(method, f.name) for f in fields(method)} if is_dataclass(method) else {}
    changed = {name: scaled(value, targets, spread) for name, value in held.items() if is_dataclass(value)}
    changed = {name: value for name, value in changed.items() if value is not held[name]}
    return replace(method, **changed) if changed else method


def _given_spread(method: SmoCAM, targets: Target, spread: Sequence[float]) -> SmoCAM | Given:
    inner = targets.target if isinstance(targets, Select) else targets
    if np.ndim(spread) != 1:
        raise BadInput("spread as a list of numbers, one for each output", f"{spread!r:.80}", "For example spread=(120.0, 35.5).")
    if not len(spread) or not isinstance(inner, (Logits, Outputs)):
        return method
    last = max(inner.indices or (0,))
    if last >= len(spread):
        wanted = f"the standard deviation of each output, up to {last}"
        raise BadInput(wanted, f"{len(spread)} numbers", "Correct `spread` in the model card: one number for each output.")
    return method.given([float(spread[i]) for i in inner.indices or ()])
