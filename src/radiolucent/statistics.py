"""Means over cases with bootstrap intervals: arrays in, tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
