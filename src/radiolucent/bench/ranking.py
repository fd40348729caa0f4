"""Are some methods better than others, over many cases? Mean ranks, and how far apart they must be not to be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import chi2 as chi_squared
from scipy.stats import permutation_test, rankdata, studentized_range

from radiolucent.geometry import Array

_FEW = 10
"""Cases up to which the chi-squared distribution is too far off, and the ranks are permuted instead."""
_PERMUTATIONS = 1999
_DIGITS = 6
"""Of a case's largest value: methods that differ by less are tied. Single precision has no more."""


@dataclass(frozen=True)
class Ranking:
    """Methods over n cases, by mean rank: 1 is the best in every case.

    friedman, p: Friedman's statistic and its probability if the methods were alike. critical: the difference of two mean
    ranks from which on it is no chance (Nemenyi). left_out: methods without a value in half of the cases or more;
    incomplete: cases that were left out for a missing value. reason: why there is no test, or "".
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    n: int
    friedman: float = math.nan
    p: float = math.nan
    critical: float = math.nan
    left_out: tuple[str, ...] = ()
    incomplete: int = 0
    reason: str = ""

    def like(self, method: str) -> list[str]:
        """The methods whose mean rank is not critically different from this one's, itself included."""
        own = self.ranks[self.methods.index(method)]
        return [m for m, rank in zip(self.methods, self.ranks, strict=True) if abs(rank - own) < self.critical]


def ranking(values: Mapping[str, Mapping[str, float]], *, higher_is_better: bool, alpha: float = 0.05, seed: int = 0) -> Ranking:
    """Rank methods within each case, then compare their mean ranks (Demsar, JMLR 2006, section 3.2.2).

        chi2 = 12 n / (k (k + 1)) (sum_j R_j^2 - k (k + 1)^2 / 4) / c,    c = 1 - sum ties (t^3 - t) / (n k (k^2 - 1))
        CD = q_alpha sqrt(k (k + 1) / (6 n)),    q_alpha: the studentized range of k means over sqrt(2)

    `values` are method -> case -> value. p is chi2's with k - 1 degrees of freedom; up to 10 cases, where that is far off,
    the share of permutations within the cases whose statistic is as large.
    """
    cases = list(dict.fromkeys(case for own in values.values() for case in own))
    table = np.array([[own.get(case, math.nan) for case in cases] for own in values.values()], np.float64)
    table = table.reshape(len(values), len(cases))
    enough = np.isfinite(table).sum(1) * 2 > len(cases)
    names = [name for name, kept in zip(values, enough, strict=True) if kept]
    left_out = tuple(name for name in values if name not in names)
    table = table[enough]
    whole = np.isfinite(table).all(0) if len(table) else np.zeros(len(cases), bool)
    table = table[:, whole]
    k, n = table.shape
    if k < 2 or n < 2:
        few = f"only {k} method has" if k == 1 else f"only {n} case has" if n == 1 else "nothing has"
        reason = f"{few} values to compare: it takes two methods and two cases"
        return Ranking((), (), n, left_out=left_out, incomplete=len(cases) - n, reason=reason)
    alike = np.round(table / np.maximum(np.abs(table).max(0), 1e-300), _DIGITS)
    ranks = rankdata(-alike if higher_is_better else alike, axis=0).T  # (n, k)
    mean = ranks.mean(0)
    order = np.argsort(mean, kind="stable")
    statistic = float(friedman(ranks))
    p = _permuted(ranks, seed) if n <= _FEW else float(chi_squared.sf(statistic, k - 1))
    found = tuple(names[i] for i in order), tuple(float(mean[i]) for i in order)
    return Ranking(*found, n, statistic, p, critical_difference(k, n, alpha), left_out, len(cases) - n)


def friedman(ranks: Array) -> Array:
    """Friedman's chi-squared of ranks (..., n, k), corrected for ties; 0 where every rank is tied."""
    n, k = ranks.shape[-2:]
    mean = ranks.mean(-2)
    spread = (ranks**2).sum((-2, -1)) / n - k * (k + 1) ** 2 / 4  # of n cases without ties k (k^2 - 1) / 12
    found = n * (k - 1) * ((mean**2).sum(-1) - k * (k + 1) ** 2 / 4) / np.maximum(spread, 1e-12)
    return np.where(spread > 1e-9, found, 0.0)


def critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """Nemenyi's: of k methods' mean ranks over n cases."""
    return _quantile(k, alpha) * math.sqrt(k * (k + 1) / (6 * n))


@cache
def _quantile(k: int, alpha: float) -> float:
    return float(studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)


def _permuted(ranks: Array, seed: int) -> float:
    def statistic(*columns: Array, axis: int = -1) -> Array:
        return friedman(np.stack([np.moveaxis(column, axis, -1) for column in columns], -1))

    columns: Sequence[Array] = list(ranks.T)
    found = permutation_test(
        columns,
        statistic,
        permutation_type="samples",
        alternative="greater",
        n_resamples=_PERMUTATIONS,
        vectorized=True,
        rng=seed,
    )
    return float(found.pvalue)
