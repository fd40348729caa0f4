"""Monotonicity after Nguyen and Martinez: do units of more relevance matter more when each is unknown?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radiolucent import baselines
from radiolucent.metrics.faithfulness.changed import Changed, Cubes, Unchanged, Witness
from radiolucent.metrics.faithfulness.findings import Asking, Claim, correlation, drops, fisher, looks
from radiolucent.metrics.faithfulness.units import OVER
from radiolucent.metrics.finding import Finding, Undefined
from radiolucent.settings import among, at_least


@dataclass(frozen=True)
class Unknown:
    """The image with one unit replaced: by the baseline, or by the draw of that number where it is noise."""

    over: str
    cubes: Cubes
    baseline: str
    unit: int
    seed: int
    number: int

    def of(self, witness: Witness) -> Tensor:
        x = witness.x
        where = witness.units(self.over, self.cubes).where(torch.tensor([self.unit])).to(x.device)
        if self.baseline != "noise":
            return baselines.hide(x, where, witness.reference(self.baseline))
        low, high = (end.reshape(*x.shape[:2], *[1] * (x.ndim - 2)) for end in torch.aminmax(x.flatten(2), dim=2))
        generator = np.random.default_rng((self.seed, self.unit, self.number))
        drawn = torch.from_numpy(generator.random(tuple(x.shape), np.float32)).to(x)
        return baselines.hide(x, where, low + (high - low) * drawn)


@dataclass(frozen=True)
class MonotonicityCorrelation:
    """Spearman's correlation of a unit's relevance with what not knowing it costs (Nguyen & Martinez, arXiv 2007.07584, 3.2).

        M = spearman_u ( |sum_{p in u} R[p]|,  E_v (S(x with u replaced by v) - S(x))^2 )

    over up to `samples` units, drawn by `seed`, each alone. v is uniform noise over each channel's range, `draws` times, or
    one `baseline`. Higher is better, about 0 for a map of noise. The paper divides by S(x)^2, which moves no rank. A sign
    is lost. Where units can stand in for each other, none of them costs anything, whatever a map says.

    The copies are the same for all maps. The interval is Fisher's z over the units, with the variance of Bonett and Wright
    (Psychometrika 2000) for ranks; `error` stops early as in FaithfulnessCorrelation.
    """

    over: str = "cubes"
    cubes: int | tuple[int, ...] = 8
    samples: int = 100
    draws: int = 1
    error: float = 0.0
    baseline: str = "noise"
    seed: int = 0

    name = "monotonicity-correlation"
    category = "faithfulness"
    higher_is_better = True

    def __post_init__(self) -> None:
        at_least(self, cubes=1, samples=4, draws=1, error=0, seed=0)
        among(self, over=OVER, baseline=baselines.BASELINES)

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        units = witness.units(self.over, self.cubes)
        if units.count < 4:
            raise Undefined(f"{units.count} {self.over}: too few for a correlation")
        chosen = np.random.default_rng(self.seed).permutation(units.count)[: self.samples]
        draws = self.draws if self.baseline == "noise" else 1
        relevance = claim.sums(units)[torch.from_numpy(chosen)].double().abs()
        for n in looks(len(chosen), self.error):
            asked: list[Changed] = [
                Unknown(self.over, self.cubes, self.baseline, int(u), self.seed, v) for u in chosen[:n] for v in range(draws)
            ]
            S = yield [Unchanged(), *asked]
            cost = drops(S).square().reshape(n, draws).mean(1)
            M = correlation(_ranks(relevance[:n]), _ranks(cost))
            if ((1 + M**2 / 2) / (n - 3)) ** 0.5 * (1 - M**2) <= self.error:
                break
        return Finding(M, *fisher(M, n, 1 + M**2 / 2))


def _ranks(values: Tensor) -> Tensor:
    from scipy.stats import rankdata  # takes as long to import as much of the rest

    return torch.from_numpy(rankdata(values.numpy()))
