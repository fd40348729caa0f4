"""Laterality: does the model look more at the left or at the right of a pair, or equally at both?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pandas import DataFrame, Series

from radiolucent import sided
from radiolucent.analysis import effects
from radiolucent.analysis.profiles import GROUP, Patients, units
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.statistics import bootstrap_mean

Pairs = Sequence[tuple[str, str]]
TESTED = ["mean", "low", "high", "effect", "statistic", "p", "q", "margin", "p_equal", "q_equal", "n", "missing", "verdict"]
COLUMNS = [*GROUP, "pair", *TESTED]
MARGIN = 0.1
"""An index within +-0.1 counts as equal: at most 55 % of what both sides have lies on one of them."""


def sides(regions: DataFrame, pairs: Pairs = ()) -> DataFrame:
    """Per case, method, layer, target and pair: index = (L - R) / (L + R), from -1 (all right) to 1 (all left).

    L and R are the masses. NaN where one side is absent from the scan, or no relevance lies in either. Left is the patient's.

    Args:
        pairs: (name of the left region, name of the right); without any, regions with one name whose hemispheres are L
            and R, and those whose names differ only in a word for the side (see `sided`).
    """
    labels = regions[(regions["kind"] == "label") & (regions["voxels"] > 0)]
    names = labels[["region", "hemisphere"]].drop_duplicates()
    chosen = chosen_pairs(names, pairs)
    about = ["case", *GROUP]
    wide = labels.assign(side=keys(labels)).groupby([*about, "side"])["mass_fraction"].sum().unstack("side")
    parts = []
    for pair, left, right in chosen:
        L, R = wide[left], wide[right]
        parts.append(DataFrame({"pair": pair, "left": L, "right": R, "index": index_of(L, R)}).reset_index())
    columns = [*about, "pair", "left", "right", "index"]
    rows = [row for part in parts for row in part[columns].to_dict("records")]
    return DataFrame(rows, columns=columns)


def index_of(a: Series, b: Series) -> Series:
    """(a - b) / (a + b) of what is not below 0; NaN where there is neither."""
    return ((a - b) / (a + b).where(a + b > 0)).astype(float)


def laterality(
    sides: DataFrame,
    *,
    patients: Patients = None,
    margin: float = MARGIN,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> DataFrame:
    """Per method, layer, target and pair: the mean index of `sides`, its bootstrap interval, and two tests.

    A difference: Wilcoxon's signed ranks against 0; `effect` is the rank-biserial correlation (Kerby 2014), > 0 where left
    prevails. Equality, which a test that finds no difference does not show: two one-sided tests (Schuirmann 1987),

        p_equal = max( p[index > -margin], p[index < margin] ),

    each Wilcoxon's, on the index moved by the margin. q and q_equal adjust p over the table (Benjamini & Hochberg). The
    verdict says which of both was found, both (a difference below the margin), or neither. Several cases of one patient
    are averaged first; `missing` have no index.

    Known failure: relevance follows anatomy and position. A scan that is off its centre, or a structure that really is
    larger on one side, has an index that says nothing bad about the model; a target that is itself one of a pair looks
    at its own side (see `mirror`). Wilcoxon's test is one of the median where the index is spread evenly around it.
    """
    rows = []
    unit = units(sides["case"], patients)
    for key, group in sides.groupby([*GROUP, "pair"], sort=False):
        index = group["index"].groupby(unit[group.index]).mean().to_numpy(float)
        rows.append(dict(zip([*GROUP, "pair"], key, strict=True)) | tested(index, margin, level, seed))
    return judged(DataFrame(rows, columns=[*COLUMNS, "reason"]), alpha, ("left", "right"))[COLUMNS]


def tested(index: Array, margin: float, level: float, seed: int) -> dict[str, Any]:
    """Mean, interval and both tests of one group's indices; `judged` adds q and verdict over a table of them."""
    mean = bootstrap_mean(index, level=level, seed=seed)
    found, equal = effects.signed(index), effects.equivalent(index, margin)
    about: dict[str, Any] = {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "missing": mean.missing}
    about |= {"effect": found.effect, "statistic": found.statistic, "p": found.p, "reason": found.reason}
    return about | {"margin": margin, "p_equal": equal.p}


def judged(table: DataFrame, alpha: float, sides: tuple[str, str]) -> DataFrame:
    """The table with q, q_equal and the verdicts; `sides` are what an index above 0 and one below 0 mean."""
    for name in ("", "_equal"):
        table[f"q{name}"] = effects.q_values(table[f"p{name}"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha, sides) for row in table.to_dict("records")]
    return table


def keys(rows: DataFrame) -> list[str]:
    """One per structure and side, by name and hemisphere: labels that share both are one structure."""
    return [f"{name}\0{side}" for name, side in zip(rows["region"], rows["hemisphere"], strict=True)]


def chosen_pairs(names: DataFrame, pairs: Pairs = ()) -> list[tuple[str, str, str]]:
    """(name, left key, right key) of the pairs that are given, else of those that are found, by name."""
    if pairs:
        return _given(names, pairs)
    return sorted(sided.pairs(zip(keys(names), names["region"], names["hemisphere"], strict=True)))


def _given(names: DataFrame, pairs: Pairs) -> list[tuple[str, str, str]]:
    key = dict(zip(names["region"], keys(names), strict=True))
    unknown = [name for pair in pairs for name in pair if name not in key]
    if unknown:
        raise BadInput("pairs of names of regions", f"{unknown}", f"The regions are {', '.join(sorted(key))}.")
    stems = [(sided.sided(left)[0], sided.sided(right)[0]) for left, right in pairs]
    called = [a if a == b else f"{left} / {right}" for (a, b), (left, right) in zip(stems, pairs, strict=True)]
    return [(name, key[left], key[right]) for name, (left, right) in zip(called, pairs, strict=True)]


def _verdict(row: dict[str, Any], alpha: float, sides: tuple[str, str]) -> str:
    if row["reason"]:
        return str(row["reason"])
    found = f"mean index {row['mean']:+.2f}, n = {row['n']}"
    same = row["q_equal"] < alpha
    if row["q"] < alpha:
        more, less = sides if row["effect"] > 0 else sides[::-1]
        return f"more {more} than {less} ({found})" + (f", but by less than the margin of {row['margin']:g}" if same else "")
    if same:
        return f"equally {sides[0]} and {sides[1]}: the index is within ±{row['margin']:g} ({found})"
    none = effects.not_found("a side", row["p"], alpha, f"n = {row['n']}")
    return f"{none}, nor that both are equal (index from {row['low']:+.2f} to {row['high']:+.2f})"
