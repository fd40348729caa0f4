"""Gradient descent of many masks at once, each with its own step size and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from radiolucent.errors import BadInput, warn

POINTS = 200
"""At most, in the curves that are reported."""

Parts = Callable[[Tensor, Tensor, int], Tensor]
"""parts(M, which, i): the weighted parts (parts, k, b) of the objective of the masks M (k, b, 1, *cells) in iteration i;
`which` (k,) says of which targets they are. No mask's part depends on another mask."""


class Steps:
    """Where each mask goes next. Each has a step size tau of its own.

    "gradient": M - tau dF/dM. "adam": the same with Adam's direction (Kingma & Ba, ICLR 2015). After a step that did
    not lower F, tau becomes `shrink` tau.
    """

    def __init__(self, rule: str, tau: float, shrink: float = 1.0) -> None:
        self._rule, self._shrink, self._count = rule, shrink, 0
        self._tau = torch.tensor(tau)
        self._before = self._mean = self._square = torch.tensor(0.0)

    def next(self, M: Tensor, G: Tensor, F: Tensor) -> Tensor:
        """The masks (k, b, 1, *cells) after M with the gradient G and the objective F (k, b)."""
        if self._count:
            self._tau = torch.where(self._before > F, self._tau, self._shrink * self._tau)
        else:
            self._tau = self._tau.to(F).expand_as(F)
            self._mean = self._square = torch.zeros_like(G)
        self._before, self._count = F, self._count + 1
        tau = self._tau.reshape(*F.shape, *[1] * (M.ndim - 2))
        if self._rule == "gradient":
            return M - tau * G
        self._mean = 0.9 * self._mean + 0.1 * G
        self._square = 0.999 * self._square + 0.001 * G**2
        mean, square = self._mean / (1 - 0.9**self._count), self._square / (1 - 0.999**self._count)
        return M - tau * mean / (square.sqrt() + 1e-8)

    def keep(self, which: Tensor) -> None:
        """Go on with some of the masks only."""
        self._tau, self._before, self._mean, self._square = (
            state[which] for state in (self._tau, self._before, self._mean, self._square)
        )


@dataclass(frozen=True, eq=False)
class Descended:
    """What came out: `masks` (k, b, 1, *cells) and, for each, whether it `converged` (k, b), after how many `steps`.

    `curve` (iterations, parts, k, b): the parts of the objective on the way, NaN once a mask has stopped.
    """

    masks: Tensor
    curve: Tensor
    steps: Tensor
    converged: Tensor

    @classmethod
    def joined(cls, found: Sequence[Descended]) -> Descended:
        """Of several groups of targets, those of all."""
        longest = max(len(f.curve) for f in found)
        curves = [torch.cat([f.curve, f.curve.new_full((longest - len(f.curve), *f.curve.shape[1:]), torch.nan)]) for f in found]
        masks, steps, converged = (torch.cat([getattr(f, name) for f in found]) for name in ("masks", "steps", "converged"))
        return cls(masks, torch.cat(curves, 2), steps, converged)

    def repeated(self, times: int) -> Descended:
        """One mask as that of each of several targets."""
        to = (times, *[-1] * (self.masks.ndim - 1))
        steps, converged = (each.expand(times, -1) for each in (self.steps, self.converged))
        return Descended(self.masks.expand(to), self.curve.expand(-1, -1, times, -1), steps, converged)

    def rows(self, names: Sequence[str], *, stops: bool = True) -> list[dict[str, Any]]:
        """For each target what there is to say about the first item: the end, and a curve of at most POINTS points.

        Without `stops` all iterations are always done, and there is no converging.
        """
        rows = []
        for k in range(len(self.masks)):
            steps = int(self.steps[k, 0])
            parts = self.curve[: steps + 1, :, k, 0].double()
            at = sorted({*range(0, steps + 1, max(1, -(-steps // POINTS))), steps})
            read = [[float(f"{value:.6g}") for value in part[at].tolist()] for part in parts.unbind(1)]
            curve = {"iteration": at} | dict(zip(names, read, strict=True))
            end = {"converged": bool(self.converged[k, 0])} if stops else {}
            rows.append({"objective": float(parts[-1].sum())} | end | {"iterations": steps, "curve": curve})
        return rows

    def say(self, method: str) -> None:
        """Warn of masks that have not converged."""
        if not self.converged.all():
            some = f"{int((~self.converged).sum())} of {self.converged.numel()} masks"
            warn(f"{method}: {some} have not converged after {int(self.steps.max())} iterations; their curves are in the details")


@dataclass(frozen=True)
class Until:
    """When a descent ends: after `iterations`, or where |F(i - window) - F(i)| <= tolerance (below 0: not before)."""

    iterations: int
    tolerance: float = -1.0
    window: int = 50


def descend(
    start: Tensor, parts: Parts, steps: Steps, until: Until, project: Callable[[Tensor], Tensor] | None = None
) -> Descended:
    """Lower the objective of all masks at once, from `start` (k, b, 1, *cells), each until it no longer changes.

    A target whose masks have all stopped is left out of what follows; `project` puts masks back to where they may be.
    """
    M, here = start.clone(), torch.arange(len(start), device=start.device)
    masks, running = start.clone(), start.new_ones(start.shape[:2], dtype=torch.bool)
    taken, converged = torch.full_like(running, until.iterations, dtype=torch.long), torch.zeros_like(running)
    curve: list[Tensor] = []
    for i in range(until.iterations + 1):
        now, G = _derived(parts, M, here, i)
        F = now.sum(0)
        _check(F, running, i)
        curve.append(now.new_full((len(now), *converged.shape), torch.nan))
        curve[i][:, here] = torch.where(running, now, torch.nan)
        if i >= until.window:
            stops = running & ((curve[i - until.window][:, here].sum(0) - F).abs() <= until.tolerance)
            running = running & ~stops
            converged[here] |= stops
            taken[here] = torch.where(stops, i, taken[here])
        if i < until.iterations:
            after = steps.next(M, G, F)
            after = project(after) if project else after
            M = torch.where(running.reshape(*running.shape, *[1] * (M.ndim - 2)), after, M)
        stays = running.any(1)
        if i == until.iterations or not stays.all():
            masks[here] = M
            here, M, running = here[stays], M[stays], running[stays]
            steps.keep(stays)
        if not len(here):
            break
    return Descended(masks, torch.stack(curve), taken, converged)


def _derived(parts: Parts, M: Tensor, here: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """The parts (parts, k, b) of the objective, and the gradient of their sum."""
    M = M.detach().requires_grad_()
    now = parts(M, here, i)
    (G,) = torch.autograd.grad(now.sum(), M)
    return now.detach(), G


def _check(F: Tensor, running: Tensor, i: int) -> None:
    if not F[running].isfinite().all():
        do = "Try a smaller step; check the weights and the input's intensities."
        raise BadInput("a finite objective", f"{F[running].tolist()[:3]} in iteration {i}", do)
