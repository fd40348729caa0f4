"""Asymmetry: does a model that measures both sides see their difference, or only how large they are together?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame
from scipy import stats

from radiolucent import sided
from radiolucent.analysis import effects
from radiolucent.analysis.matching import Match
from radiolucent.analysis.profiles import Patients, units
from radiolucent.analysis.variability import volumes
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.statistics import bootstrap_mean, intraclass_correlation

VOLUMES = "volumes"
PER_MM3 = {"mm3": 1.0, "cm3": 1e-3, "ml": 1e-3}
"""Units in which regions' volumes can be compared with outputs."""
WEAK = 0.5
"""A slope below which the predicted asymmetry is called weak: less than half of the true one."""
ABOUT_RIGHT = 0.1
"""A slope whose interval reaches within 0.1 of 1 is called neither too weak nor too strong."""
RESAMPLES = 2000
CASES = ["case", "pair", "left", "right", "predicted", "true", "predicted_total", "true_total", "source"]
COLUMNS = [
    "pair", "left", "right", "r", "r_low", "r_high", "p", "q", "icc", "slope", "low", "high", "bias", "bias_low", "bias_high",
    "sd_predicted", "sd_true", "r_total", "n", "missing", "unit", "source", "verdict",
]  # fmt: skip


def output_pairs(matches: Sequence[Match]) -> list[tuple[str, str, str]]:
    """(name, left output, right output): outputs whose names differ in their side alone, and those whose structures are a pair."""
    found = sided.pairs((match.target, match.target, "") for match in matches)
    taken = {name for _, *both in found for name in both}
    by_own = {match.own: match.target for match in matches if match.mirror}
    for match in matches:
        other = by_own.get(match.mirror)
        if other and match.left and not {match.target, other} & taken:
            found.append((f"{match.target} / {other}", match.target, other))
    return sorted(found)


def truths(regions: DataFrame, manifest: DataFrame, matches: Sequence[Match], wanted: str, unit: str) -> DataFrame:
    """The true value of each target in each case: (case, target, true, source).

    `wanted`: a pattern of the manifest's columns such as "true {target}"; "volumes": the volumes of the targets' own
    structures, in the outputs' `unit` (mm3, cm3 or ml; none says mm3); "": for each pair of `output_pairs` the columns
    called like both, else the volumes if the unit is one of volume, else nothing. A structure that a scan does not hold
    has no truth there.

    Raises:
        BadInput: no column is called as `wanted` says, or volumes are wanted for outputs in another unit.
    """
    columns = truth_columns(manifest, matches, wanted)
    if wanted not in ("", VOLUMES) and not columns:
        example = wanted.replace("{target}", matches[0].target) if matches else wanted
        have = ", ".join(map(str, manifest.columns))
        raise BadInput("columns of true values, as truth in [analysis] names them", f"no {example!r}", f"The manifest has {have}.")
    if not wanted:  # both sides of a pair have their truth from one source
        columns = {side: columns[side] for _, *both in output_pairs(matches) if {*both} <= {*columns} for side in both}
    scale = _per_mm3(unit, wanted)
    parts = []
    for match in matches:
        about = {"target": match.target}
        if match.target in columns:
            values = pd.to_numeric(manifest[columns[match.target]], errors="coerce")
            about |= {"case": manifest["case"].astype(str), "true": values, "source": "columns of the manifest"}
        elif match.own and scale:
            of = volumes(regions, match.own)
            about |= {"case": of.index.astype(str), "true": scale * of.to_numpy(float), "source": "region volumes"}
        if "true" in about:
            parts.append(DataFrame(about))
    return pd.concat(parts, ignore_index=True) if parts else DataFrame(columns=["case", "target", "true", "source"])


def truth_columns(manifest: DataFrame, matches: Sequence[Match], wanted: str) -> dict[str, str]:
    """Target -> the manifest's column of its true values; without a pattern, of those that have another side alone.

    A column that is called like any other output (age) may as well be a covariate.
    """
    if wanted == VOLUMES:
        return {}
    targets = [match.target for match in matches] if wanted else [side for _, *both in output_pairs(matches) for side in both]
    named = {target: (wanted or "{target}").replace("{target}", target) for target in targets}
    return {target: column for target, column in named.items() if column in manifest.columns and column != "case"}


def _per_mm3(unit: str, wanted: str) -> float:
    """What 1 mm3 is in the outputs' unit; 0 where volumes are no truth."""
    plain = unit.replace("³", "3").replace("^", "").casefold()
    if wanted == VOLUMES and plain and plain not in PER_MM3:
        do = "Name columns of the manifest as truth in [analysis], or correct the unit in the card."
        raise BadInput(f"outputs in {', '.join(PER_MM3)} to compare with volumes", repr(unit), do)
    return PER_MM3.get(plain, 1.0 if wanted == VOLUMES else 0.0) if wanted in ("", VOLUMES) else 0.0


def asymmetries(cases: DataFrame, truths: DataFrame, pairs: Sequence[tuple[str, str, str]]) -> DataFrame:
    """Per case and pair of outputs: right minus left, predicted and true, and left plus right; NaN where a side is missing."""
    predicted = cases.dropna(subset=["score"]).drop_duplicates(["case", "target"])
    tables = [
        table.pivot(index="case", columns="target", values=value).astype(float)
        for table, value in ((predicted, "score"), (truths.drop_duplicates(["case", "target"]), "true"))
    ]
    source = truths.drop_duplicates("target").set_index("target")["source"]
    rows = []
    for name, left, right in pairs:
        if not all(side in table.columns for table in tables for side in (left, right)):
            continue
        found = DataFrame({"case": sorted(tables[0].index)})
        for table, called in zip(tables, ("predicted", "true"), strict=True):
            L, R = table[left].reindex(found["case"]).to_numpy(), table[right].reindex(found["case"]).to_numpy()
            found[called], found[f"{called}_total"] = R - L, R + L
        rows += found.assign(pair=name, left=left, right=right, source=source[left])[CASES].to_dict("records")
    return DataFrame(rows, columns=CASES)


def asymmetry(
    asymmetries: DataFrame,
    *,
    unit: str = "",
    patients: Patients = None,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> DataFrame:
    """Per pair of outputs: predicted against true right minus left over the cases (Konate et al., Fig. 6).

        r = Pearson(d, t),   slope = cov(d, t) / var(t),   bias = mean(d - t),   d, t = right - left, predicted and true

    `icc` is ICC(2,1) of d and t (absolute agreement); `r_total` is Pearson's r of right plus left. r has the interval of
    Fisher's z, slope (`low` to `high`) and bias those of the percentile bootstrap over cases; bias and the standard
    deviations sd_* are in the outputs' `unit`. p is that of r, q over the pairs (Benjamini & Hochberg). A slope of 1 sees
    all of the asymmetry, 0.1 a tenth (the paper's example: 0.10 cm3 where the truth was ten times that), 0 none: then the
    model measures both sides by their common size. `missing` cases lack a prediction or a truth and are left out whole; of
    the others, several of one patient are averaged, and n are the patients.

    Known failure: regression to the mean. The best prediction from uncertain evidence has a slope of r^2, so that a slope
    below 1 is no proof of a wrong way of looking; a flat slope beside a high r_total is.
    """
    rows = []
    unit_of = units(asymmetries["case"], patients)
    numbers = ["predicted", "true", "predicted_total", "true_total"]
    for key, group in asymmetries.groupby("pair", sort=False):
        whole = group[np.isfinite(group[numbers].to_numpy(float)).all(1)]  # else a visit's prediction met another's truth
        kept = whole[numbers].groupby(unit_of[whole.index]).mean().to_numpy(float)
        about = {"pair": key, "unit": unit} | {c: group[c].iloc[0] for c in ("left", "right", "source")}
        rows.append(about | {"n": len(kept), "missing": len(group) - len(whole)} | _audit(kept, level, seed))
    table = DataFrame(rows, columns=[*[c for c in COLUMNS if c not in ("q", "verdict")], "reason", "p_total"])
    table["q"] = effects.q_values(table["p"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha) for row in table.to_dict("records")]
    return table[COLUMNS]


def _audit(values: Array, level: float, seed: int) -> dict[str, Any]:
    names = ("r", "r_low", "r_high", "p", "icc", "slope", "low", "high", "bias", "bias_low", "bias_high", "r_total", "p_total")
    nothing: dict[str, Any] = dict.fromkeys(names, math.nan)
    n = len(values)
    if n < effects.FEWEST_NUMBERS:
        return nothing | {"reason": f"not enough cases: {n} with both numbers, {effects.FEWEST_NUMBERS} are needed"}
    d, t, predicted, true = values.T
    bias = bootstrap_mean(d - t, level=level, seed=seed)
    found: dict[str, Any] = {"bias": bias.mean, "bias_low": bias.low, "bias_high": bias.high}
    found |= {"sd_predicted": float(d.std(ddof=1)), "sd_true": float(t.std(ddof=1)), "reason": ""}
    size = np.abs(values).max()
    if _flat(t, size):
        return nothing | found | {"reason": "all cases have the same true asymmetry"}
    slopes = np.array([_slope(d[i], t[i]) for i in np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))])
    low, high = np.nanquantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    found |= {"slope": _slope(d, t), "low": float(low), "high": float(high)}
    found |= {"icc": intraclass_correlation(np.stack([t, d], 1), "ICC(2,1)")}
    if not (_flat(predicted, size) or _flat(true, size)):
        total = stats.pearsonr(predicted, true)
        found |= {"r_total": float(total.statistic), "p_total": float(total.pvalue)}
    if _flat(d, size):
        return nothing | found | {"reason": "sees no asymmetry: the model gives all cases the same"}
    r = stats.pearsonr(d, t)
    half = stats.norm.ppf((1 + level) / 2) / math.sqrt(n - 3)
    z = np.arctanh(np.clip(r.statistic, -1 + 1e-12, 1 - 1e-12))
    found |= {"r": float(r.statistic), "r_low": float(np.tanh(z - half)), "r_high": float(np.tanh(z + half))}
    return nothing | found | {"p": float(r.pvalue)}


def _flat(values: Array, size: float) -> bool:
    """Equal up to the rounding of outputs of this size in float32: a correlation of the rest would be one of rounding errors."""
    return bool(np.ptp(values) <= 1e-6 * size)


def _slope(d: Array, t: Array) -> float:
    centred = t - t.mean()
    below = float((centred**2).sum())
    return float((centred * d).sum() / below) if below > 0 else math.nan


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if row["reason"]:
        return str(row["reason"])
    found = f"slope {row['slope']:.2f}, r = {row['r']:+.2f}, n = {row['n']}"
    sizes = f", while the totals agree (r = {row['r_total']:+.2f})" if row["p_total"] < alpha and row["r_total"] > 0 else ""
    if row["q"] < alpha and row["r"] < 0:
        return f"predicts the opposite asymmetry ({found})"
    if row["high"] < WEAK and (row["q"] < alpha or row["low"] > -WEAK):
        seen = "sees the asymmetry, but makes it much weaker" if row["q"] < alpha else "sees no asymmetry beyond chance"
        return f"{seen}: less than half of the true one ({found}){sizes}"
    if row["q"] < alpha:
        size = (
            ", but makes it weaker"
            if row["high"] < 1 - ABOUT_RIGHT
            else ", but makes it stronger"
            if row["low"] > 1 + ABOUT_RIGHT
            else ""
        )
        return f"sees the asymmetry{size} ({found})"
    return effects.not_found("a relation of predicted with true asymmetry", row["p"], alpha, found) + sizes
