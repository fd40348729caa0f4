"""Laterality: does the model look more at the left or at the right of a pair?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pandas import DataFrame

from radiolucent.analysis import effects
from radiolucent.analysis.profiles import GROUP, Patients, units
from radiolucent.errors import BadInput
from radiolucent.statistics import bootstrap_mean

_LEFT, _RIGHT = {"left", "l", "lh"}, {"right", "r", "rh"}
Pairs = Sequence[tuple[str, str]]
COLUMNS = [*GROUP, "pair", "mean", "low", "high", "effect", "statistic", "p", "q", "n", "missing", "verdict"]


def sides(regions: DataFrame, pairs: Pairs = (), *, value: Literal["mass_fraction", "density"] = "mass_fraction") -> DataFrame:
    """Per case, method, layer, target and pair: index = (L - R) / (L + R), from -1 (all right) to 1 (all left).

    L and R are the masses, or densities, which do not grow with the volume of a side. NaN where one side is absent from
    the scan, or no relevance lies in either. Left is the patient's.

    Args:
        pairs: (name of the left region, name of the right); without any, regions with one name whose hemispheres are L
            and R, and those whose names differ only in a word left/right, l/r or lh/rh.
    """
    labels = regions[(regions["kind"] == "label") & (regions["voxels"] > 0)]
    names = labels[["region", "hemisphere"]].drop_duplicates()
    chosen = _given(names, pairs) if pairs else _found(names)
    about = ["case", *GROUP]
    wide = labels.assign(side=_keys(labels)).groupby([*about, "side"])[value].sum().unstack("side")
    parts = []
    for pair, left, right in chosen:
        L, R = wide[left], wide[right]
        with np.errstate(invalid="ignore"):
            index = (L - R) / (L + R)
        parts.append(DataFrame({"pair": pair, "left": L, "right": R, "index": index}).reset_index())
    columns = [*about, "pair", "left", "right", "index"]
    rows = [row for part in parts for row in part[columns].to_dict("records")]
    return DataFrame(rows, columns=columns)


def laterality(
    sides: DataFrame, *, patients: Patients = None, level: float = 0.95, alpha: float = 0.05, seed: int = 0
) -> DataFrame:
    """Per method, layer, target and pair: the mean index of `sides`, its bootstrap interval, and a test against 0.

    Wilcoxon's signed ranks; `effect` is the rank-biserial correlation (Kerby 2014), > 0 where left prevails. q adjusts
    p over the table (Benjamini & Hochberg). Several cases of one patient are averaged first; `missing` have no index.

    Known failure: relevance follows anatomy and position. A scan that is off its centre, or a structure that really is
    larger on one side, has an index that says nothing bad about the model; a target that is itself one of a pair looks
    at its own side.
    """
    rows = []
    unit = units(sides["case"], patients)
    for key, group in sides.groupby([*GROUP, "pair"], sort=False):
        index = group["index"].groupby(unit[group.index]).mean().to_numpy(float)
        mean = bootstrap_mean(index, level=level, seed=seed)
        found = effects.signed(index)
        about = dict(zip([*GROUP, "pair"], key, strict=True)) | {"reason": found.reason}
        about |= {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "missing": mean.missing}
        rows.append(about | {"effect": found.effect, "statistic": found.statistic, "p": found.p})
    table = DataFrame(rows, columns=[*[c for c in COLUMNS if c not in ("q", "verdict")], "reason"])
    table["q"] = effects.q_values(table["p"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha) for row in table.to_dict("records")]
    return table[COLUMNS]


def _keys(rows: DataFrame) -> list[str]:
    """What tells regions apart: name and hemisphere."""
    return [f"{name}\0{side}" for name, side in zip(rows["region"], rows["hemisphere"], strict=True)]


def _given(names: DataFrame, pairs: Pairs) -> list[tuple[str, str, str]]:
    key = dict(zip(names["region"], _keys(names), strict=True))
    unknown = [name for pair in pairs for name in pair if name not in key]
    if unknown:
        raise BadInput("pairs of names of regions", f"{unknown}", f"The regions are {', '.join(sorted(key))}.")
    return [
        (_stem(left)[0] if _stem(left)[0] == _stem(right)[0] else f"{left} / {right}", key[left], key[right])
        for left, right in pairs
    ]


def _found(names: DataFrame) -> list[tuple[str, str, str]]:
    """Pairs by hemisphere or by name; a stem that has not exactly one region on each side is no pair."""
    both: dict[str, dict[str, list[str]]] = {}
    for name, side, key in zip(names["region"], names["hemisphere"], _keys(names), strict=True):
        stem, by_name = _stem(name)
        where = str(side)[:1].upper() or by_name
        if where in ("L", "R"):
            both.setdefault(stem, {"L": [], "R": []})[where].append(key)
    pairs = [(stem, found["L"], found["R"]) for stem, found in sorted(both.items())]
    return [(stem, left[0], right[0]) for stem, left, right in pairs if len(left) == len(right) == 1]


def _stem(name: str) -> tuple[str, str]:
    """The name without its first word for a side, in small letters, and "L", "R" or ""."""
    words = [word for word in re.split(r"[\s_.,()-]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name)) if word]
    for i, word in enumerate(words):
        if word.lower() in _LEFT | _RIGHT:
            return " ".join(words[:i] + words[i + 1 :]).lower(), "L" if word.lower() in _LEFT else "R"
    return " ".join(words).lower(), ""


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if row["reason"]:
        return str(row["reason"])
    if row["q"] >= alpha:
        return effects.not_found("a side", row["p"], alpha, f"n = {row['n']}")
    order = "left than right" if row["effect"] > 0 else "right than left"
    return f"more {order} (mean index {row['mean']:+.2f}, n = {row['n']})"
