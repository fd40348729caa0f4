"""How much of the image a map points at: few voxels are easier to read, and no better for that alone.

Throughout, a[i] = |R[i]| >= 0 over the n values of a map, all channels and cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, exact


@dataclass(frozen=True)
class EffectiveComplexity:
    """The share of values above a threshold relative to the largest (Agg2Exp; so called by Quantus).

        EC = |{i : a[i] > threshold * max a}| / n

    Lower is better: less to look at. `threshold` is 0.1 in Agg2Exp. Blind to how far above it a value is, and led by the
    single largest value: one hot voxel makes any map "simple". Quantus gives the number, not the share. What Nguyen and
    Martinez (arXiv 2007.07584) call so asks the model how few values suffice, as `sufficiency` does here.
    """

    threshold: float = 0.1

    name = "effective-complexity"
    category = "complexity"
    higher_is_better = False

    def __post_init__(self) -> None:
        if not 0 <= float(self.threshold) < 1:
            raise BadInput("a threshold from 0 to below 1, as a share of the largest value", repr(self.threshold), "0.1 is usual.")

    def __call__(self, maps: Remade) -> list[Finding]:
        return _each(maps, lambda a: float((a > self.threshold * a.max()).double().mean()))


@dataclass(frozen=True)
class Entropy:
    """The entropy of the values' shares in the whole (Bhatt et al., IJCAI 2020, eq. 7).

        H = - sum_i P[i] log P[i],   P[i] = a[i] / sum_j a[j]

    In nats, from 0 (one value has all) to log n (all are equal). Lower is better. It grows with the number of voxels, so
    that maps on a coarse grid look simpler than they are: compare on one grid only.
    """

    name = "entropy"
    category = "complexity"
    higher_is_better = False

    def __call__(self, maps: Remade) -> list[Finding]:
        return _each(maps, lambda a: float(torch.special.entr(a / a.sum()).sum()))


@dataclass(frozen=True)
class Sparseness:
    """The Gini index of the values (Chalasani et al., ICML 2020, section 5; Hurley & Rickard, 2009).

        G = sum_k (2 k - n - 1) a_(k) / (n sum_k a_(k)),   a_(1) <= ... <= a_(n)

    From 0 (all are equal) to 1 - 1/n (one has all). Higher is better. Independent of the scale, hardly of the grid.
    A sparse map of the wrong place is still sparse. Quantus adds 1e-7 to each value first, which shows where all are small.
    """

    name = "sparseness"
    category = "complexity"
    higher_is_better = True

    def __call__(self, maps: Remade) -> list[Finding]:
        return _each(maps, _gini)


def _gini(a: Tensor) -> float:
    n = len(a)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    return float(((2 * rank - n - 1) * a.sort().values).sum() / (n * a.sum()))


def _each(maps: Remade, formula: Callable[[Tensor], float]) -> list[Finding]:
    """The formula of each target's a, of which the largest is 1: no number is too small for it."""
    found = []
    for t, reason in enumerate(maps.unfit):
        a = maps.values(t).abs()
        found.append(exact(math.nan if reason else formula(a / a.max()), reason))
    return found
