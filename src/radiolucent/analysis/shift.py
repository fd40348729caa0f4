"""Drift: does the model look elsewhere in another cohort?"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from pandas import DataFrame
from scipy.spatial.distance import cdist

from radiolucent.analysis.effects import FEWEST_IN_GROUP, not_found, q_values, two_groups
from radiolucent.analysis.profiles import GROUP, REGION, Patients, Profile, profiles
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Array
from radiolucent.statistics import bootstrap_difference

COLUMNS = [
    *GROUP, "region", "test", "mean_a", "mean_b", "difference", "low", "high", "statistic", "p", "q", "effect",
    "effect_low", "effect_high", "n_a", "n_b", "verdict",
]  # fmt: skip


def drift(
    regions_a: DataFrame,
    regions_b: DataFrame,
    *,
    patients: tuple[Patients, Patients] = (None, None),
    permutations: int = 999,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> DataFrame:
    """Cohort b against cohort a: for each class one test of the whole profile (region ""), then one per region.

        T = n m / (n + m) ( 2 mean|a - b| - mean|a - a'| - mean|b - b'| ),   a, b = sqrt(masses)

    is the energy statistic (Szekely & Rizzo 2004), 0 only where the distributions are equal, with its p from
    `permutations` exchanges of cases between the cohorts. The square root makes profiles points on a sphere (Hellinger's
    distance) and needs no care for masses of 0. Per region: the difference of mean mass fractions b - a with its
    bootstrap interval, Mann-Whitney's U, and Cliff's delta, > 0 where b is higher. q adjusts p over the whole table
    (Benjamini & Hochberg).

    `patients` are those of a and those of b. A region that only one cohort has counts as 0 in the other. Fewer than 5
    cases in a cohort: no test, and the verdict says so.

    Known failure: a difference in who was scanned looks like one in how the model behaves.
    """
    a = {tuple(p.key.values()): p for p in profiles(regions_a, patients=patients[0])}
    b = {tuple(p.key.values()): p for p in profiles(regions_b, patients=patients[1])}
    shared = [key for key in a if key in b]
    if not shared:
        do = "Explain both with the same recipe."
        raise BadInput("a method, layer and target that both cohorts have", f"{list(a)[:3]} and {list(b)[:3]}", do)
    both = {unit for key in shared for unit in set(a[key].units) & set(b[key].units)}
    if both:
        text = f"{len(both)} cases or patients are in both cohorts; the tests take them as independent"
        warnings.warn(text, InputWarning, stacklevel=2)
    rows = []
    for key in shared:
        names, x, y = _aligned(a[key], b[key])
        about = dict(zip(GROUP, key, strict=True)) | {"n_a": len(x), "n_b": len(y)}
        rows.append(about | {"region": "", "test": "energy"} | _energy(np.sqrt(x), np.sqrt(y), permutations, seed))
        rows += [
            about | {"region": name} | _region(x[:, i], y[:, i], level, seed) for i, name in enumerate(names)
        ]  # of which each is a share of the same whole
    table = DataFrame(rows, columns=[c for c in COLUMNS if c not in ("q", "verdict")])
    table["q"] = q_values(table["p"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha) for row in table.to_dict("records")]
    return table[COLUMNS]


def _aligned(a: Profile, b: Profile) -> tuple[list[str], Array, Array]:
    """The masses of both over the regions that either has."""
    wide_a, wide_b = (DataFrame(p.values, columns=_columns(p)) for p in (a, b))
    columns = sorted(set(wide_a.columns) | set(wide_b.columns))
    x, y = (wide.reindex(columns=columns, fill_value=0.0).to_numpy() for wide in (wide_a, wide_b))
    regions = DataFrame(columns, columns=REGION)
    return Profile(a.method, a.layer, a.target, (), regions, x).names, x, y


def _columns(profile: Profile) -> list[tuple[Any, ...]]:
    return list(profile.regions[REGION].itertuples(index=False, name=None))


def _energy(x: Array, y: Array, permutations: int, seed: int) -> dict[str, float]:
    """The statistic and its p: the cohort's own place among all exchanges."""
    if min(len(x), len(y)) < FEWEST_IN_GROUP:
        return {"statistic": math.nan, "p": math.nan}
    m, n = len(x), len(y)
    together = np.concatenate([x, y])
    distances = cdist(together, together)
    generator = np.random.default_rng(seed)
    first = np.arange(m + n) < m
    groups = np.stack([first, *(generator.permutation(first) for _ in range(permutations))]).astype(float)
    within_a = np.einsum("pi,pi->p", groups @ distances, groups) / m**2
    within_b = np.einsum("pi,pi->p", (1 - groups) @ distances, 1 - groups) / n**2
    between = np.einsum("pi,pi->p", groups @ distances, 1 - groups) / (m * n)
    T = m * n / (m + n) * (2 * between - within_a - within_b)
    return {"statistic": float(T[0]), "p": float((T[0] - 1e-12 <= T).mean())}


def _region(x: Array, y: Array, level: float, seed: int) -> dict[str, Any]:
    difference = bootstrap_difference(y, x, level=level, seed=seed)
    found = two_groups(y, x, ("b", "a"), level)
    return {
        "test": found.test,
        "mean_a": float(x.mean()),
        "mean_b": float(y.mean()),
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "statistic": found.statistic,
        "p": found.p,
        "effect": found.effect,
        "effect_low": found.low,
        "effect_high": found.high,
    }


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if math.isnan(row["p"]):
        return f"not enough cases: {row['n_a']} and {row['n_b']}, {FEWEST_IN_GROUP} are needed in both"
    if not row["q"] < alpha:
        return not_found("a difference", row["p"], alpha, f"n = {row['n_a']} and {row['n_b']}")
    if not row["region"]:
        return f"the profile of {row['target']} differs between the cohorts"
    return f"{'more' if row['effect'] > 0 else 'less'} relevance for {row['target']} in {row['region']} than before"
