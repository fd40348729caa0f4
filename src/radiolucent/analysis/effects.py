"""Tests of association, each with an effect size, its interval, and a threshold below which it is not made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

from radiolucent.geometry import Array

FEWEST_IN_GROUP = 5
"""Two groups of 5 can reach p = 0.008 (2 / C(10, 5)), two of 3 only 0.1; from 5 on, the chi-square approximation of
Kruskal-Wallis is fair, and an expected count of 5 is that of the chi-square test."""
FEWEST_NUMBERS = 10
"""Pairs for a rank correlation: below, its interval is wider than +-0.63 whatever is found."""
FEWEST_DIFFERENCES = 6
"""Signed ranks: with 5 values the smallest two-sided p is 2 / 2^5 = 0.06."""


class Found(NamedTuple):
    """What one test found. `measure` names the effect, `finding` says it in words; a test not made has a `reason` and NaN."""

    test: str
    groups: str = ""
    statistic: float = math.nan
    p: float = math.nan
    measure: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    finding: str = ""
    left_out: str = ""
    reason: str = ""


def two_groups(a: Array, b: Array, names: tuple[str, str] = ("a", "b"), level: float = 0.95) -> Found:
    """Mann-Whitney's U; effect: Cliff's delta = P(a > b) - P(a < b) = 2 AUC - 1, > 0 where a is higher.

    The interval is Newcombe's (Stat. Med. 2006, 25:559, method 5): all AUCs t with |U/mn - t| <= z sqrt(V(t)),

        V(t) = t (1 - t) (1 + (N - 1) ((1 - t) / (2 - t) + t / (1 + t))) / (m n),   N = (m + n) / 2.

    Unlike the bootstrap's it does not shrink to a point where the groups do not overlap, and needs no random numbers.
    """
    m, n = len(a), len(b)
    groups = f"{names[0]} (n = {m}), {names[1]} (n = {n})"
    if min(m, n) < FEWEST_IN_GROUP:
        small = names[0] if m < FEWEST_IN_GROUP else names[1]
        reason = f"not enough cases: {small} has {min(m, n)}, {FEWEST_IN_GROUP} are needed"
        return Found("Mann-Whitney", groups, measure="Cliff's delta", n=m + n, reason=reason)
    if np.ptp(np.concatenate([a, b])) == 0:
        return Found("Mann-Whitney", groups, m * n / 2, 1.0, "Cliff's delta", 0.0, *_newcombe(0.5, m, n, level), m + n)
    found = stats.mannwhitneyu(a, b, alternative="two-sided")
    auc = float(found.statistic) / (m * n)
    low, high = _newcombe(auc, m, n, level)
    finding = f"is {'higher' if auc > 0.5 else 'lower'} in {names[0]} than in {names[1]}"
    U, p = float(found.statistic), float(found.pvalue)
    return Found("Mann-Whitney", groups, U, p, "Cliff's delta", 2 * auc - 1, low, high, m + n, finding)


def _newcombe(auc: float, m: int, n: int, level: float) -> tuple[float, float]:
    """The interval of Cliff's delta."""
    z2, more = stats.norm.ppf((1 + level) / 2) ** 2, (m + n) / 2 - 1

    def outside(t: float) -> float:
        variance = t * (1 - t) * (1 + more * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
        return (auc - t) ** 2 - z2 * variance

    tiny = 1e-9
    low = brentq(outside, 0, auc - tiny) if auc > tiny else 0.0
    high = brentq(outside, auc + tiny, 1) if auc < 1 - tiny else 1.0
    return 2 * low - 1, 2 * high - 1


def several_groups(groups: Sequence[Array], names: Sequence[str], level: float = 0.95) -> Found:
    """Kruskal-Wallis' H; effect: epsilon squared, the share of the ranks' variance that lies between the groups.

        epsilon^2 = (H - k + 1) / (n - k),   not below 0   (Kelley 1935, on ranks)

    Its interval is that of a noncentral F on the ranks (Steiger 2004): it holds 0 where the test does not reject.
    """
    n, k = sum(map(len, groups)), len(groups)
    text = ", ".join(f"{name} (n = {len(group)})" for name, group in zip(names, groups, strict=True))
    H, p = (0.0, 1.0) if np.ptp(np.concatenate(groups)) == 0 else map(float, stats.kruskal(*groups))
    between = H / (n - 1)  # eta^2 of the ranks
    F = between / (k - 1) / max((1 - between) / (n - k), 1e-12)
    low, high = (l / (l + n) for l in _noncentralities(lambda l: special.ncfdtr(k - 1, n - k, l, F), n, level))
    effect = max(0.0, (H - k + 1) / (n - k))
    return Found("Kruskal-Wallis", text, H, p, "epsilon squared", effect, low, high, n, "differs between the groups")


def numeric(x: Array, y: Array, level: float = 0.95) -> Found:
    """Spearman's rho; interval by Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) (Bonett & Wright 2000)."""
    n = len(x)
    if n < FEWEST_NUMBERS:
        reason = f"not enough cases: {n} with both numbers, {FEWEST_NUMBERS} are needed"
        return Found("Spearman", measure="rho", n=n, reason=reason)
    if (x == x[0]).all() or (y == y[0]).all():
        return Found("Spearman", measure="rho", n=n, reason="all values are equal")
    found = stats.spearmanr(x, y)
    rho = float(found.statistic)
    z = np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9))
    half = stats.norm.ppf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = float(np.tanh(z - half)), float(np.tanh(z + half))
    return Found("Spearman", "", rho, float(found.pvalue), "rho", rho, low, high, n, "rises" if rho > 0 else "falls")


def shares(flagged: Array, groups: Array, names: Sequence[str], level: float = 0.95, seed: int = 0) -> Found:
    """Are flagged cases spread evenly over the groups? Effect: Cramer's V, 0 for evenly and 1 for all in some groups.

        V = sqrt( max(0, X^2 - df) / n )

    Chi-square where all expected counts are at least 5. Else Fisher's exact test; for more than two groups that test
    by 9999 random tables with the same margins. Not made where even the most uneven table would have p >= 0.05 (Tarone
    1990). The interval inverts the noncentral chi-square (Smithson 2003).
    """
    table = np.array([[np.sum(flagged & (groups == name)), np.sum(~flagged & (groups == name))] for name in names])
    n, df = int(table.sum()), len(names) - 1
    text = ", ".join(f"{name} ({a} of {a + b})" for name, (a, b) in zip(names, table.tolist(), strict=True))
    flags = int(table[:, 0].sum())
    least = min(stats.hypergeom.pmf(min(flags, size), n, size, flags) for size in table.sum(1)) if 0 < flags < n else 1.0
    if least >= 0.05:
        reason = f"not enough cases: {flags} of {n} are anomalous, and even all in one group would have p = {least:.2f}"
        return Found("chi-square", text, measure="Cramer's V", n=n, reason=reason)
    found = stats.chi2_contingency(table, correction=False)
    x2, p, test = float(found.statistic), float(found.pvalue), "chi-square"
    if found.expected_freq.min() < 5:
        test, p = "Fisher", float(stats.fisher_exact(table).pvalue) if df == 1 else _random_tables(table, x2, seed)
    low, high = (math.sqrt(l / n) for l in _noncentralities(lambda l: special.chndtr(x2, df, l), n, level))
    effect = math.sqrt(max(0.0, x2 - df) / n)
    return Found(test, text, x2, p, "Cramer's V", effect, low, min(high, 1.0), n, "is not spread evenly over the groups")


def _random_tables(table: Array, x2: float, seed: int, count: int = 9999) -> float:
    """How many tables with these margins have a chi-square as large; the table itself is one of them."""
    rows, columns = table.sum(1), table.sum(0)
    drawn = stats.random_table(rows, columns, seed=seed).rvs(count, method="boyett")
    expected = np.outer(rows, columns) / table.sum()
    return (1 + int((((drawn - expected) ** 2 / expected).sum((1, 2)) >= x2 - 1e-9).sum())) / (count + 1)


def _noncentralities(cdf: Callable[[float], float], n: int, level: float) -> tuple[float, float]:
    """The smallest and the largest noncentrality for which what was found is not in the tails of (1 - level) / 2."""

    def at(share: float) -> float:
        if cdf(1e-12) <= share:
            return 0.0
        most = float(n)
        while cdf(most) > share and most < 1e6 * n:
            most *= 4
        return float(brentq(lambda l: cdf(l) - share, 1e-12, most)) if cdf(most) <= share else most

    return at((1 + level) / 2), at((1 - level) / 2)


def signed(values: Array, level: float = 0.95) -> Found:
    """Wilcoxon's signed ranks against 0; the effect is the rank-biserial correlation (sum of + ranks - of - ranks) / all."""
    values = values[~np.isnan(values)]
    n = len(values)
    if n < FEWEST_DIFFERENCES:
        reason = f"not enough cases: {n}, {FEWEST_DIFFERENCES} are needed"
        return Found("Wilcoxon", measure="rank-biserial", n=n, reason=reason)
    if not values.any():
        return Found("Wilcoxon", "", 0.0, 1.0, "rank-biserial", 0.0, n=n)
    ranks = stats.rankdata(np.abs(values[values != 0]))
    signs = np.sign(values[values != 0])
    found = stats.wilcoxon(values, zero_method="wilcox")
    effect = float((ranks * signs).sum() / ranks.sum())
    return Found("Wilcoxon", "", float(found.statistic), float(found.pvalue), "rank-biserial", effect, n=n)


def equivalent(values: Array, margin: float) -> Found:
    """Two one-sided tests (Schuirmann 1987) that the values lie between -margin and margin, by Wilcoxon's signed ranks.

    p is the larger of both; there is no other effect than that of `signed`.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n < FEWEST_DIFFERENCES:
        reason = f"not enough cases: {n}, {FEWEST_DIFFERENCES} are needed"
        return Found("two one-sided Wilcoxon", n=n, reason=reason)
    moved = {"greater": values + margin, "less": values - margin}
    p = max(float(stats.wilcoxon(v, alternative=side).pvalue) if v.any() else 1.0 for side, v in moved.items())
    return Found("two one-sided Wilcoxon", p=p, n=n)


def q_values(p: Array) -> Array:
    """Benjamini & Hochberg's (1995) adjusted p-values over all tests that were made; NaN stays NaN.

    The expected share of false findings among those with q < alpha is at most alpha, for independent tests and for
    positively dependent ones.
    """
    p = np.asarray(p, float)
    made = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    q[made] = stats.false_discovery_control(p[made]) if made.any() else []
    return q


def not_found(what: str, p: float, alpha: float, n: str) -> str:
    """The words for a test that the false discovery rate does not let through; a small p alone is named as such."""
    if p < alpha:
        return f"not beyond chance over all tests, though p = {p:.2g} alone ({n})"
    return f"no evidence of {what} ({n})"
