"""Means over cases with bootstrap intervals, agreement of raters and of maps: arrays in, tables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array

Kind = Literal["percentile", "bca"]


class Mean(NamedTuple):
    """A mean with its interval. `n` values are in it; `missing` were NaN and are left out, not counted as 0."""

    mean: float
    low: float
    high: float
    n: int
    missing: int


def bootstrap_mean(
    values: Sequence[float] | Array, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, kind: Kind = "percentile"
) -> Mean:
    """The mean of independent values with its bootstrap interval (Efron & Tibshirani 1993, ch. 13 and 14).

    "percentile": the quantiles of the means of `resamples` draws with replacement. "bca": bias-corrected and
    accelerated, through SciPy, for few or skewed values. With fewer than two values there is no interval (NaN).
    With fewer than about ten, percentile intervals are too narrow.
    """
    if not 0 < level < 1 or resamples < 1 or kind not in ("percentile", "bca"):
        got = f"level={level}, resamples={resamples}, kind={kind!r}"
        raise BadInput("a level between 0 and 1, resamples, and percentile or bca as the kind", got, "Correct it.")
    values = np.asarray(values, np.float64).reshape(-1)
    known = values[~np.isnan(values)]
    n, missing = len(known), int(np.isnan(values).sum())
    mean = float(known.mean()) if n else float("nan")
    if n < 2:
        return Mean(mean, float("nan"), float("nan"), n, missing)
    if (known == known[0]).all():  # of which BCa's corrections are 0 / 0
        return Mean(mean, mean, mean, n, missing)
    if kind == "bca":
        from scipy.stats import bootstrap

        found = bootstrap((known,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", rng=seed)
        return Mean(mean, float(found.confidence_interval.low), float(found.confidence_interval.high), n, missing)
    low, high = np.quantile(_draws(n, resamples, seed) @ known / n, [(1 - level) / 2, (1 + level) / 2])
    return Mean(mean, float(low), float(high), n, missing)


def bootstrap_difference(a: Array, b: Array, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Mean:
    """mean(a) - mean(b) of two independent groups without NaN; each is drawn for itself, the interval is the percentiles'."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference, n = float(a.mean() - b.mean()), len(a) + len(b)
    if min(len(a), len(b)) < 2:
        return Mean(difference, float("nan"), float("nan"), n, 0)
    drawn = _draws(len(a), resamples, seed) @ a / len(a) - _draws(len(b), resamples, seed + 1) @ b / len(b)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Mean(difference, float(low), float(high), n, 0)


def bootstrap(
    measure: Callable[[Array], Array],
    n: int,
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Mean:
    """Any measure of n cases that can be written as a function of their weights, with its percentile interval.

    `measure` takes weights (r, n), how often each case was drawn, and gives (r,) values. What is drawn with replacement are
    `groups` (a patient with all of their cases), or the cases themselves. `n` of the result counts groups; `missing` are
    resamples in which the measure has no value (NaN), which the interval leaves out.
    """
    names, group = np.unique(np.arange(n) if groups is None else np.asarray(groups), return_inverse=True)
    value = float(measure(np.ones((1, n)))[0])
    if len(names) < 2 or np.isnan(value):
        return Mean(value, float("nan"), float("nan"), len(names), 0)
    values = np.asarray(measure(_draws(len(names), resamples, seed)[:, group.reshape(-1)].astype(np.float64)))
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (np.nan, np.nan)
    return Mean(value, float(low), float(high), len(names), len(values) - len(known))


@lru_cache(maxsize=4)  # most groups of a table have the same number of cases
def _draws(n: int, resamples: int, seed: int) -> Array:
    """How often each of n values is drawn, (resamples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)


def means(
    rows: Sequence[Mapping[str, Any]],
    by: Sequence[str],
    *,
    value: str = "value",
    case: str = "case",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    kind: Kind = "percentile",
) -> list[dict[str, Any]]:
    """One row per group (the columns `by`, in order of appearance): mean, low, high, n, missing.

    Cases are what is drawn: several rows of one case in a group are averaged first.
    """
    groups: dict[tuple[Any, ...], dict[Any, list[float]]] = {}
    for row in rows:
        group = groups.setdefault(tuple(row.get(column, "") for column in by), {})
        group.setdefault(row.get(case), []).append(float(row[value]))
    table = []
    for key, cases in groups.items():
        known = [[v for v in found if not np.isnan(v)] for found in cases.values()]
        values = [float(np.mean(found)) if found else float("nan") for found in known]
        mean = bootstrap_mean(values, level=level, resamples=resamples, seed=seed, kind=kind)
        table.append(dict(zip(by, key, strict=True)) | mean._asdict())
    return table


def intraclass_correlation(ratings: Array, kind: Literal["ICC(2,1)", "ICC(3,1)"] = "ICC(3,1)") -> float:
    """How well raters (or truth and prediction) agree on single values, (n subjects, k raters), none missing.

        ICC(3,1) = (B - E) / (B + (k - 1) E)
        ICC(2,1) = (B - E) / (B + (k - 1) E + k (J - E) / n)

    with the mean squares of a two-way analysis of variance: B between subjects, J between raters, E of the rest
    (Shrout & Fleiss, Psychological Bulletin 1979). (3,1) overlooks a constant difference between raters (consistency),
    (2,1) counts it (absolute agreement). 1 is the most; NaN where nothing varies at all.
    """
    ratings = np.asarray(ratings, np.float64)
    if kind not in ("ICC(2,1)", "ICC(3,1)"):
        raise BadInput("ICC(2,1) or ICC(3,1)", repr(kind), "Correct `kind`.")
    if ratings.ndim != 2 or min(ratings.shape) < 2 or not np.isfinite(ratings).all():
        got = f"shape {ratings.shape}, {np.count_nonzero(~np.isfinite(ratings))} of them missing or infinite"
        raise BadInput("finite ratings (n subjects, k raters), at least 2 of each", got, "Leave subjects without all ratings out.")
    n, k = ratings.shape
    subjects, raters = ratings.mean(1, keepdims=True), ratings.mean(0, keepdims=True)
    rest = ratings - subjects - raters + ratings.mean()
    between = k * subjects.var(ddof=1)
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    shift = n * raters.var(ddof=1) - error if kind == "ICC(2,1)" else 0.0
    whole = between + (k - 1) * error + k * shift / n
    return float((between - error) / whole) if whole > 0 else float("nan")


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two arrays of one shape; NaN where one of the two is constant."""
    from scipy.stats import spearmanr  # takes as long to import as much of the rest

    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float("nan") if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def overlap(a: Array, b: Array) -> float:
    """How much of |a| and |b| is in the same places with the same sign, each taken as shares of its sum.

        sum_p min(|a[p]| / sum |a|, |b[p]| / sum |b|) over p where a[p] b[p] > 0

    1 where one is a positive multiple of the other, 0 where they share no place; NaN where one is 0 everywhere.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sizes = np.abs(a).sum(), np.abs(b).sum()
    if not all(sizes):
        return float("nan")
    shares = np.minimum(np.abs(a) / sizes[0], np.abs(b) / sizes[1])
    return float(shares[np.sign(a) == np.sign(b)].sum())
