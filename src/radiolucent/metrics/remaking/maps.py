"""One method's maps of one image, and how to make them again: what complexity, robustness and randomisation ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import Cost, evaluating
from radiolucent.metrics.finding import LEVEL, Finding, unfit


class Again(Protocol):
    """Makes the maps again, all targets at once."""

    def __call__(self, x: Tensor, *, model: nn.Module | None = None, run: int = 0, moved: bool = False) -> Tensor:
        """Relevance (t, 1, c, *cells) of an image (1, channels, *grid).

        model: another network than the one that was explained. run: another number gives a method with chance another
        seed. moved: what the targets fix beforehand (a predicted mask) is fixed on this image, not on the first one.
        """
        ...


@dataclass(frozen=True, eq=False)
class Remade:
    """A method's maps R of one image for t targets, with what is needed to make them again.

    relevance: (t, 1, c, *cells), as the method gave it. x: (1, channels, *grid), as the model took it.
    score: S(x) of all targets (t, b), of any image and, where given, of another model.
    cost: of making the maps, where it was measured. baseline: what the maps' sum is complete to, where the method promises
        that: one of the baselines' names. others: the same method's maps by other trained models, made when asked for.
    """

    relevance: Tensor
    x: Tensor
    model: nn.Module
    again: Again
    score: Callable[..., Tensor]
    cost: Cost | None = None
    baseline: str = ""
    others: Callable[[], Sequence[Tensor]] | None = None
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.relevance.ndim < 4 or self.relevance.shape[1] != 1 or len(self.x) != 1:
            shapes = f"{tuple(self.relevance.shape)} and {tuple(self.x.shape)}"
            raise BadInput("maps (targets, 1, channels, *cells) of one image (1, channels, *grid)", shapes, "One image at a time.")

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What several metrics ask for, made once."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    @property
    def unfit(self) -> list[str]:
        """For each target why its map says nothing, or ""."""
        return self.once("unfit", lambda: [unfit(row) for row in self.relevance])

    def values(self, t: int) -> Tensor:
        """The map of one target in double precision, on the processor, without its shape."""
        return self.relevance[t].detach().double().cpu().flatten()


class RemadeMetric(Protocol):
    """A frozen dataclass of hyper-parameters that scores a method's maps of one image, all targets at once."""

    name: str
    category: str
    higher_is_better: bool

    def __call__(self, maps: Remade) -> list[Finding]:
        """One for each target."""
        ...


def scores_of(model: nn.Module, targets: Any) -> Callable[..., Tensor]:
    """What `Remade.score` is: fixed targets of a model's output for an image, without a graph."""

    def score(x: Tensor, other: nn.Module | None = None) -> Tensor:
        guest = model if other is None else other
        with evaluating(guest), torch.no_grad():
            return targets(guest(x.clone())).double()

    return score


def judged(maps: Remade, values: Tensor, summary: Callable[[Tensor], Finding], unlike: Callable[[Tensor], str]) -> list[Finding]:
    """Each target's finding from its column of values (n, t); or the reason why it has none: the map's own, or `unlike`."""
    found = []
    for reason, own in zip(maps.unfit, values.T, strict=True):
        reason = reason or unlike(own)
        found.append(Finding(reason=reason) if reason else summary(own))
    return found


def exact(value: float, reason: str = "") -> Finding:
    """A number without chance; NaN with its reason."""
    if reason or not math.isfinite(value):
        return Finding(reason=reason or "it is not finite")
    return Finding(value, value, value)


def average(values: Tensor) -> Finding:
    """The mean of independent draws with Student's interval for it; no interval of a single one."""
    n = len(values)
    value = float(values.mean())
    if n < 2:
        return Finding(value)
    reach = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(values.std()) / math.sqrt(n)
    return Finding(value, value - reach, value + reach)


def changes(first: Tensor, second: Tensor) -> Tensor:
    """|R_2 - R_1| / |R_1| in the Frobenius norm, for each target (t); NaN where R_1 is 0 or either is not finite."""
    if first.shape != second.shape:
        return torch.full((len(first),), math.nan, dtype=torch.float64)
    ratios = []
    for one, other in zip(first.detach(), second.detach(), strict=True):  # one by one: in double precision they are large
        a, b = one.double(), other.double()
        ratios.append(float((b - a).norm() / a.norm()))
    ratio = torch.tensor(ratios, dtype=torch.float64)
    return torch.where(ratio.isfinite(), ratio, math.nan)
