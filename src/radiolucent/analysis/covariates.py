"""Bias: do anomaly and region importance go along with what is known about the patients?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from radiolucent.analysis import effects
from radiolucent.analysis.effects import FEWEST_IN_GROUP, Found
from radiolucent.analysis.profiles import GROUP, PATIENT, Patients, profiles, units
from radiolucent.errors import BadInput
from radiolucent.geometry import Array

NO_COVARIATES = {"case", "image", "label", "session", "split", *PATIENT}
"""Columns that say which case it is and where it comes from, and nothing about the patient."""
MOST_GROUPS = 20
"""A text with more different values than this is a name or a date rather than a group."""
COLUMNS = [
    *GROUP, "quantity", "region", "covariate", "test", "groups", "statistic", "p", "q", "measure", "effect", "low",
    "high", "n", "missing", "left_out", "verdict",
]  # fmt: skip


def bias(
    values: DataFrame,
    manifest: DataFrame,
    covariates: Sequence[str] = (),
    *,
    patients: Patients = None,
    anomalous: float = 0.1,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> DataFrame:
    """Every quantity against every covariate: one test each, its effect with an interval, and a verdict in words.

    Two groups: Mann-Whitney, Cliff's delta. More: Kruskal-Wallis, epsilon squared. Numbers: Spearman's rho. Anomaly
    scores are also cut, the highest share `anomalous` of the cases being "anomalous", and counted per group:
    chi-square or Fisher's exact test, Cramer's V. q adjusts p over all tests of the table (Benjamini & Hochberg); a
    verdict names a difference where q < alpha.

    A covariate is numeric where its column is (codes for sites belong into text) and has more than two values. Groups
    with fewer than 5 cases are left out, and what then is too small is not tested: the verdict says "not enough
    cases", with the numbers. Cases without the covariate are counted as missing. Of several cases of one patient the
    values and numeric covariates are averaged; a text that differs between them is missing.

    Args:
        values: case, method, layer, target, quantity, region, value; see `quantities`.
        manifest: case, and a column per covariate.
        covariates: all columns but NO_COVARIATES if none is named.

    Known failure: association is no cause. Two covariates that go together, such as scanner and age, show both.
    """
    names = list(dict.fromkeys(covariates)) or [c for c in manifest.columns if str(c).casefold() not in NO_COVARIATES]
    missing = [name for name in names if name not in manifest.columns]
    if missing:
        raise BadInput("covariates of the manifest", ", ".join(missing), f"It has {', '.join(map(str, manifest.columns))}.")
    table = manifest.set_index(manifest["case"].astype(str))[names]
    values = values.assign(unit=units(values["case"], patients))
    prepared = {name: _per_unit(table[name], patients) for name in names}
    rows = []
    keys = [*GROUP, "quantity", "region"]
    for key, group in values.groupby(keys, sort=False):
        value = group.groupby("unit")["value"].mean().dropna()
        for name, covariate in prepared.items():
            for found, count in _tests(value, covariate.reindex(value.index), str(key[3]), anomalous, level, seed):
                about = dict(zip(keys, key, strict=True)) | {"covariate": name, "missing": count}
                rows.append(about | found._asdict())
    result = DataFrame(rows, columns=[*[c for c in COLUMNS if c not in ("q", "verdict")], "finding", "reason"])
    result["q"] = effects.q_values(result["p"].to_numpy(float))
    result["verdict"] = [_verdict(row, alpha) for row in result.to_dict("records")]
    return result[COLUMNS]


def quantities(anomaly: DataFrame, regions: DataFrame, sides: DataFrame | None = None) -> DataFrame:
    """What `bias` tests, as a long table: both anomaly scores, the mass fraction of each label region, and laterality."""
    about = ["case", *GROUP]
    parts = [
        anomaly[about].assign(quantity=f"anomaly ({score})", region="", value=anomaly[score]) for score in ("forest", "mahalanobis")
    ]
    for profile in profiles(regions):  # rather than the rows, which an absent region does not have
        for region, value in zip(profile.names, profile.values.T, strict=True):
            columns = {"case": profile.units} | profile.key | {"quantity": "mass fraction", "region": region, "value": value}
            parts.append(DataFrame(columns))
    if sides is not None and len(sides):
        parts.append(sides[about].assign(quantity="laterality", region=sides["pair"], value=sides["index"]))
    return pd.concat(parts, ignore_index=True)


def _per_unit(covariate: Series, patients: Patients) -> Series:
    """One value per patient or case: numbers stay numbers; booleans and two-valued numbers become groups' names."""
    number = pd.api.types.is_numeric_dtype(covariate) and not pd.api.types.is_bool_dtype(covariate)
    if number and covariate.nunique() <= 2:
        covariate, number = covariate.map(lambda v: f"{v:.15g}", na_action="ignore"), False
    unit = units(covariate.index.to_series(), patients)
    if number:
        return covariate.astype(float).groupby(unit).mean()
    text = covariate.astype(object).where(covariate.notna(), None).map(lambda v: str(v).strip() or None, na_action="ignore")
    return text.groupby(unit).agg(lambda found: found.dropna().iloc[0] if found.nunique() == 1 else None)


def _tests(
    values: Series, covariate: Series, quantity: str, anomalous: float, level: float, seed: int
) -> Iterator[tuple[Found, int]]:
    """The tests of one quantity against one covariate, each with the number of units that lack the covariate."""
    known = covariate.notna()
    missing = int((~known).sum())
    if values.empty:
        yield Found("none", reason="not enough cases: none has this value"), missing
        return
    y, x = values[known].to_numpy(float), covariate[known].to_numpy()
    if pd.api.types.is_numeric_dtype(covariate):
        yield effects.numeric(x.astype(float), y, level), missing
        return
    names, counts = np.unique(x.astype(str), return_counts=True)
    large = [str(name) for name in names[counts >= FEWEST_IN_GROUP]]
    left_out = ", ".join(f"{name} (n = {c})" for name, c in zip(names, counts, strict=True) if c < FEWEST_IN_GROUP)
    reason = _untestable(names, large, left_out)
    if reason:
        yield Found("none", n=len(y), left_out=left_out, reason=reason), missing
        return
    groups = [y[x == name] for name in large]
    if len(large) == 2:
        found = effects.two_groups(groups[0], groups[1], (large[0], large[1]), level)
    else:
        found = effects.several_groups(groups, large, level)
    yield found._replace(left_out=left_out), missing
    if quantity.startswith("anomaly"):
        kept = np.isin(x, large)
        yield effects.shares(_highest(y, anomalous)[kept], x[kept], large, level, seed)._replace(left_out=left_out), missing


def _untestable(names: Array, large: list[str], left_out: str) -> str:
    if len(names) == 1:
        return f"all cases are {names[0]}"
    if len(names) > MOST_GROUPS:
        return f"{len(names)} different values, which are no groups"
    if len(large) < 2:
        have = ", ".join(f"{name} has {FEWEST_IN_GROUP} or more" for name in large)
        text = "; ".join(part for part in (have, left_out) if part) or "none is known"
        return f"not enough cases: two groups of {FEWEST_IN_GROUP} are needed, but {text}"
    return ""


def _highest(values: Array, share: float) -> Array:
    """The highest share of the values, at least one; all that are equal to the last of them too."""
    return values >= np.sort(values)[-max(1, round(share * len(values)))]


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if row["reason"]:
        return str(row["reason"])
    if row["q"] >= alpha:
        what = "a relation" if row["test"] == "Spearman" else "a difference"
        return effects.not_found(what, row["p"], alpha, f"n = {row['n']}")
    what = f"{row['quantity']} {row['region']}".strip()
    if row["test"] in ("chi-square", "Fisher"):
        what = f"the share of anomalous cases by {row['quantity']}"
    return f"{what} {row['finding']} " + (f"with {row['covariate']}" if row["test"] == "Spearman" else f"({row['covariate']})")
