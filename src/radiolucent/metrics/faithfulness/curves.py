"""Curves along a map's order: what becomes of the score as the most relevant places go, or come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from radiolucent import baselines
from radiolucent.metrics.faithfulness.changed import Changed, Cubes, Gone, Order, Unchanged, Witness, only, without
from radiolucent.metrics.faithfulness.findings import Asking, Claim, area, rounding
from radiolucent.metrics.faithfulness.units import OVER
from radiolucent.metrics.finding import LEVEL, Finding, Undefined
from radiolucent.settings import among, at_least

Step = Callable[[str, Cubes, str, Order, int], Changed]

POINTS = 20
"""Steps of a curve: with equal settings the checks here share them."""


@dataclass(frozen=True)
class Ordered:
    """The image's units from the highest to the lowest relevance, in `points` steps of about as many units each.

    over, cubes, baseline: as in FaithfulnessCorrelation. seed: of the order among units of equal relevance.
    `relative`: scores are counted from the baseline's and in units of the whole change, (S - S(x')) / |S(x) - S(x')|, so
    that targets can be compared; there is no value where the two are the same. Else they are the target's own.
    """

    over: str = "cubes"
    cubes: int | tuple[int, ...] = 8
    points: int = POINTS
    baseline: str = "minimum"
    relative: bool = True
    seed: int = 0

    category = "faithfulness"

    def __post_init__(self) -> None:
        at_least(self, cubes=1, points=1, seed=0)
        among(self, over=OVER, baseline=baselines.BASELINES)

    def order(self, claim: Claim, witness: Witness) -> Order:
        """The claim's own."""
        return claim.order(witness.units(self.over, self.cubes), self.seed)

    def counts(self, units: int, shares: Sequence[float] = ()) -> list[int]:
        """Numbers of units at these shares of them, or at `points` steps from none to all; each once."""
        wanted = shares or np.linspace(0, 1, min(self.points, units) + 1)
        return sorted({round(s * units) for s in wanted})

    def scaled(self, S: Tensor, whole: Tensor, nothing: Tensor) -> Tensor:
        """The scores in the check's own unit, given those of the image and of the baseline."""
        if not self.relative:
            return S
        change = (whole - nothing).abs()
        if float(change) <= rounding(torch.stack([whole, nothing])):
            raise Undefined("the baseline has the image's score")
        return (S - nothing) / change

    def curve(self, claim: Claim, witness: Witness, step: Step) -> Asking:
        """The area under the scores of `step` as the count of units grows."""
        order = self.order(claim, witness)
        counts = self.counts(len(order))
        S = yield [Unchanged(), Gone(self.baseline), *(step(self.over, self.cubes, self.baseline, order, k) for k in counts)]
        return area([k / len(order) for k in counts], self.scaled(S[2:], S[0], S[1]).tolist())


@dataclass(frozen=True)
class Deletion(Ordered):
    """Mean score while the most relevant units are hidden one after the other (Petsiuk et al., BMVC 2018).

        D = int_0^1 S(x without its q most relevant units) dq,    q a share of the units, S as in `relative`

    Lower is better. A random order of a linear model's units gives 0.5 on average where the score of x is above the
    baseline's, and -0.5 where it is below. Hiding the first units may by itself drive the network off what it was trained
    on (a hole is no healthy tissue): compare with a random map, or use ROAD. Blind to everything but the order.

    Without chance: low and high are the curve's lower and upper sums, between which the mean lies if the score goes one
    way between two points. Slices of a model that pools slices are left out, and not covered, in radiolucent.slicing.
    """

    name = "deletion"
    higher_is_better = False

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        return (yield from self.curve(claim, witness, without))


@dataclass(frozen=True)
class Insertion(Ordered):
    """Mean score while the most relevant units are brought back into the baseline (Petsiuk et al., BMVC 2018).

        I = int_0^1 S(x' with the q most relevant units of x) dq,    q a share of the units, S as in `relative`

    Higher is better; 0.5 on average for a random order of a linear model's units, -0.5 where the score of x is below the
    baseline's. Pieces on an empty ground are far from what the network knows: "blur" as the baseline, as in the paper, is
    nearer to it. Blind to everything but the order. Low and high as in Deletion.
    """

    name = "insertion"
    higher_is_better = True

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        return (yield from self.curve(claim, witness, only))


@dataclass(frozen=True)
class Sufficiency(Ordered):
    """Score that is missing when only the most relevant units are shown (DeYoung et al., ACL 2020, eq. 2 and AOPC).

        Suff = mean_q ( S(x) - S(only the q most relevant units) ),    q = 5, 10, 20, 50 %, S as in `relative`

    Lower is better, 0 where they carry all of the score, below 0 where the rest speaks against it. The four copies are
    points of Insertion's curve, which has them already; the paper's 1 % is none, and in cubes hardly one unit.
    Another measure of the same name (Dasgupta et al., ICML 2022; that of Quantus and LATEC) compares the predictions of
    cases with like maps, and asks nothing about one case.

    Without chance: low and high are the least and the most of the four.
    """

    name = "sufficiency"
    higher_is_better = False

    shares = (0.05, 0.1, 0.2, 0.5)

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        order = self.order(claim, witness)
        counts = [max(1, round(s * len(order))) for s in self.shares]
        S = yield [Unchanged(), Gone(self.baseline), *(only(self.over, self.cubes, self.baseline, order, k) for k in counts)]
        whole, *rest = self.scaled(torch.cat([S[:1], S[2:]]), S[0], S[1]).tolist()
        missing = [whole - score for score in rest]
        return Finding(sum(missing) / len(missing), min(missing), max(missing), shares=self.shares, scores=tuple(rest))


@dataclass(frozen=True)
class Monotonicity(Ordered):
    """Share of steps in which the score goes the way of the relevance that comes (after Arya et al., arXiv 1909.03012).

        M = 1/K sum_k [ sign(r_k) (S_k - S_{k-1}) >= 0 ],    r_k the relevance of the k-th step's units, sign(0) = 1

    The units come into the baseline from the lowest relevance to the highest. Higher is better; half of the steps go right
    by chance. Of a map without negative values the score must rise at each step: M is 1 where Arya's monotonicity (and
    that of Quantus) is True, which only says whether all steps do; a signed map must first fall, which theirs does not
    foresee. Nguyen and Martinez' monotonicity is another check, MonotonicityCorrelation. Its copies are Deletion's.

    The interval is Wilson's over the steps, as if they were independent.
    """

    name = "monotonicity"
    higher_is_better = True

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        order = self.order(claim, witness)
        n = len(order)
        shown = [n - k for k in reversed(self.counts(n))]  # of the least relevant, from none to all
        S = yield [without(self.over, self.cubes, self.baseline, order, n - k) for k in shown]
        if float(S.max() - S.min()) <= rounding(S):
            raise Undefined("the score does not change, whatever is hidden")
        ascending = claim.sums(witness.units(self.over, self.cubes))[order.ranked.flip(0)]
        sums = [float(ascending[a:b].sum(dtype=torch.float64)) for a, b in pairwise(shown)]
        signs = torch.tensor([-1.0 if r < 0 else 1.0 for r in sums], dtype=S.dtype)
        right = int((signs * S.diff() >= -rounding(S)).sum())
        shares = tuple(k / n for k in shown)
        return Finding(right / len(sums), *wilson(right, len(sums)), shares=shares, scores=tuple(S.tolist()))


def wilson(right: int, n: int) -> tuple[float, float]:
    """The interval of a share (Wilson, JASA 1927)."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    p = right / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
