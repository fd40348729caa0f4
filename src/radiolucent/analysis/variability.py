"""Variability: does a model look more at the structures that vary more in its training data?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pandas import DataFrame
from scipy import stats

from radiolucent.analysis import effects
from radiolucent.analysis.matching import Match
from radiolucent.analysis.profiles import GROUP, Patients, units
from radiolucent.analysis.sides import keys
from radiolucent.geometry import Array
from radiolucent.statistics import bootstrap_mean

COHORT = "region volumes of this cohort"
FEWEST_TO_RANK = 6
"""Structures, or cases whose volumes vary: the smallest two-sided p of 5 ranks is 2 / 5! = 0.017, their intervals say nothing."""
RESAMPLES = 9999
POINTS = [*GROUP, "structure", "unit", "density", "low", "high", "n", "cv", "source", "reason"]
COLUMNS = ["method", "layer", "rho", "low", "high", "p", "q", "n", "targets", "source", "verdict"]


def coefficients(outputs: DataFrame, regions: DataFrame, matches: Sequence[Match]) -> DataFrame:
    """Each target's coefficient of variation, and where it comes from.

        CV = standard deviation / |mean|

    of the measurement in the training data, where `outputs` (target, mean, spread, source) know both for any target; else
    of the volume of the target's own structure over this cohort's cases, which is not the training data. All targets have
    theirs from one source. NaN with a reason: no mean, a mean of 0, no structure, or fewer than 6 cases with it.
    """
    known = outputs.dropna(subset=["mean", "spread"])
    if len(known):
        of = known.set_index("target")
        source = str(known["source"].iloc[0])
        rows = [_row(t, of.loc[t, "spread"], of.loc[t, "mean"], source) for t in of.index]
        missing = f"no mean and spread in {source}"
        rows += [_nothing(match.target, source, missing) for match in matches if match.target not in of.index]
    else:
        rows = [_from_cohort(match, regions) for match in matches]
    return DataFrame(rows, columns=["target", "cv", "source", "reason"])


def _row(target: str, spread: float, mean: float, source: str) -> dict[str, Any]:
    if not (mean and math.isfinite(spread / mean)):
        return _nothing(target, source, "a mean of 0 has no coefficient of variation")
    return {"target": target, "cv": float(spread / abs(mean)), "source": source, "reason": ""}


def _nothing(target: str, source: str, reason: str) -> dict[str, Any]:
    return {"target": target, "cv": math.nan, "source": source, "reason": reason}


def _from_cohort(match: Match, regions: DataFrame) -> dict[str, Any]:
    if not match.own:
        return _nothing(match.target, COHORT, match.reason)
    volume = volumes(regions, match.own).to_numpy()
    if len(volume) < FEWEST_TO_RANK:
        return _nothing(match.target, COHORT, f"not enough cases: {len(volume)} with the structure, {FEWEST_TO_RANK} are needed")
    return _row(match.target, float(volume.std(ddof=1)), float(volume.mean()), COHORT)


def volumes(regions: DataFrame, structure: Sequence[str]) -> Any:
    """Case -> the volume of the regions with these keys together, in mm3; cases that lack any of them are left out."""
    rows = regions[(regions["kind"] == "label") & (regions["voxels"] > 0)]
    rows = rows.assign(key=keys(rows))
    rows = rows[rows["key"].isin(structure)].drop_duplicates(["case", "key"])
    of = rows.groupby("case")["volume_mm3"]
    return of.sum()[of.count() == len(structure)]


def variation(
    own: DataFrame,
    coefficients: DataFrame,
    *,
    patients: Patients = None,
    level: float = 0.95,
    seed: int = 0,
) -> DataFrame:
    """Per method, layer and target: the mean density of relevance on its own structure (see `own`), and its CV.

    `unit` is the structure's name without its side, which `variability` counts once; both sides together are another.
    """
    rows = []
    of = coefficients.set_index("target")
    unit = units(own["case"], patients)
    for key, group in own.groupby(GROUP, sort=False):
        target = str(key[2])
        mean = bootstrap_mean(group["density"].groupby(unit[group.index]).mean().to_numpy(float), level=level, seed=seed)
        about = dict(zip(GROUP, key, strict=True)) | {c: group[c].iloc[0] for c in ("structure", "unit")}
        about |= {"density": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n}
        cv = of.loc[target] if target in of.index else {"cv": math.nan, "source": "", "reason": "not an output of the model"}
        rows.append(about | {name: cv[name] for name in ("cv", "source", "reason")})
    return DataFrame(rows, columns=POINTS)


def variability(variation: DataFrame, *, level: float = 0.95, alpha: float = 0.05, seed: int = 0) -> DataFrame:
    """Per method and layer: Spearman's rho over structures of attention (density) with variability (CV).

    Left and right of a structure vary alike and count once, as their mean. The interval is the percentile bootstrap's
    over structures, p is the place of |rho| among 9,999 exchanges of the CVs, q
    adjusts p over the table (Benjamini & Hochberg). Konate et al. (section 4) report such a relation from two structures.

    Known failure: structures that vary much (ventricles) are often large, dark and in the middle: a relation with
    variability may be one with these. Few structures give wide intervals.
    """
    rows = []
    for key, group in variation.groupby(["method", "layer"], sort=False):
        known = group.dropna(subset=["density", "cv"])
        means = known.groupby("unit")[["density", "cv"]].mean().to_numpy()
        about = dict(zip(["method", "layer"], key, strict=True)) | {"n": len(means), "targets": len(known)}
        about["source"] = next(iter(group["source"]), "")
        rows.append(about | _related(means, level, seed))
    table = DataFrame(rows, columns=[*[c for c in COLUMNS if c not in ("q", "verdict")], "reason"])
    table["q"] = effects.q_values(table["p"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha) for row in table.to_dict("records")]
    return table[COLUMNS]


def _related(means: Array, level: float, seed: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("rho", "low", "high", "p"), math.nan)
    n = len(means)
    if n < FEWEST_TO_RANK:
        return nothing | {"reason": f"not enough structures: {n} with a density and a coefficient, {FEWEST_TO_RANK} are needed"}
    if (np.ptp(means, 0) == 0).any():
        which = "densities" if np.ptp(means[:, 0]) == 0 else "coefficients of variation"
        return nothing | {"reason": f"all {which} are equal"}
    ranks = stats.rankdata(means, axis=0)
    rho = _pearson(ranks[:, 0], ranks[:, 1])
    random = np.random.default_rng(seed)
    exchanged = _pearson(ranks[:, 0], random.permuted(np.tile(ranks[:, 1], (RESAMPLES, 1)), axis=1))
    p = (1 + int((np.abs(exchanged) >= abs(rho) - 1e-12).sum())) / (RESAMPLES + 1)
    drawn = means[random.integers(n, size=(RESAMPLES, n))]
    drawn = stats.rankdata(drawn, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # draws of one structure alone
        again = _pearson(drawn[..., 0], drawn[..., 1])
    low, high = np.nanquantile(again, [(1 - level) / 2, (1 + level) / 2])
    return {"rho": float(rho), "low": float(low), "high": float(high), "p": p, "reason": ""}


def _pearson(a: Array, b: Array) -> Array:
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if row["reason"]:
        return str(row["reason"])
    found = f"rho = {row['rho']:+.2f}, n = {row['n']} structures"
    if row["q"] < alpha:
        return f"relevance is {'denser' if row['rho'] > 0 else 'less dense'} on structures that vary more ({found})"
    return effects.not_found("a relation with variability", row["p"], alpha, found)
