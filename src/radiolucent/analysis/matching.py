"""Which region is a target's own, and which is its mirror: by name and side, or as it is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from pandas import DataFrame

from radiolucent.analysis.profiles import BACKGROUND, GROUP
from radiolucent.analysis.sides import Pairs, chosen_pairs, keys
from radiolucent.errors import BadInput
from radiolucent.sided import sided

Within = Literal["regions", "scan"]
WITHIN: tuple[Within, ...] = get_args(Within)
"""What relevance and volume are shares of: all regions together, or the whole scan."""


class Match(NamedTuple):
    """A target with the keys of its own regions and of those on the other side; without them there is a reason.

    `left`: its own regions are the left parts of their pairs.
    """

    target: str
    own: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()
    reason: str = ""
    left: bool = False

    @property
    def structure(self) -> str:
        return title(self.own)

    @property
    def opposite(self) -> str:
        return title(self.mirror)

    @property
    def unit(self) -> str:
        """The name that a structure and its mirror share, as they vary alike; of both sides together another one."""
        parts = (self.own, self.mirror) if self.left or not self.mirror else (self.mirror, self.own)
        names = [[sided(*key.split("\0")) for key in part] for part in parts if part]
        stems = dict.fromkeys(" + ".join(dict.fromkeys(stem for stem, _ in part)) for part in names)
        both = not self.mirror and {"L", "R"} <= {side for part in names for _, side in part}
        return " / ".join(stems) + (" (both sides)" if both else "")


def matches(regions: DataFrame, targets: Sequence[str], structures: Pairs = (), pairs: Pairs = ()) -> list[Match]:
    """Each target with its regions.

    A region is a target's own if it has the target's name, or the same name and side in another writing (see
    `sided`): "left hippocampus" and "Hippocampus (left)". A target without a side owns both sides of a structure that
    has two. Its mirror is the other part of the pair, where it owns one part only.

    Args:
        regions: region rows; the background is no region.
        targets: names of outputs.
        structures: (target, region), which go before the names; several for one target belong together.
        pairs: (left, right) regions; without any, those that are found by hemisphere or name.

    Known failure: names say what is meant, not what the model learnt; "3rd ventricle" and "third ventricle" do not match.
    """
    labels = regions[(regions["kind"] == "label") & (regions["label"] != BACKGROUND)]
    names = labels[["region", "hemisphere"]].drop_duplicates()
    names = names.assign(key=keys(names)).sort_values("key")
    given = _given(names, targets, structures)
    to_right = {left: right for _, left, right in chosen_pairs(names, pairs)}
    return [_match(target, names, given.get(target, ()), to_right) for target in dict.fromkeys(targets)]


def _given(names: DataFrame, targets: Collection[str], structures: Pairs) -> dict[str, tuple[str, ...]]:
    known = sorted(set(names["region"]))
    unknown = [repr(t) for t, _ in structures if t not in targets] + [repr(r) for _, r in structures if r not in known]
    if unknown:
        do = f"Targets: {', '.join(targets)}. Regions: {', '.join(known)}."
        raise BadInput("structures as (target, region)", ", ".join(unknown), do)
    found: dict[str, tuple[str, ...]] = {}
    for target, region in structures:
        keys_of = names.loc[names["region"] == region, "key"]
        found[target] = tuple(dict.fromkeys([*found.get(target, ()), *keys_of]))  # one that is named twice counts once
    return found


def _match(target: str, names: DataFrame, own: tuple[str, ...], to_right: dict[str, str]) -> Match:
    if not own:
        own, reason = _by_name(target, names)
        if not own:
            return Match(target, reason=reason)
    other = to_right | {right: left for left, right in to_right.items()}
    mirror = tuple(other[key] for key in own if key in other)
    if len(mirror) < len(own) or set(mirror) & set(own):
        return Match(target, own)
    return Match(target, own, mirror, left=all(key in to_right for key in own))


def _by_name(target: str, names: DataFrame) -> tuple[tuple[str, ...], str]:
    stem, side = sided(target)
    parts: dict[str, list[str]] = {"": [], "L": [], "R": []}
    for key, region, hemisphere in zip(names["key"], names["region"], names["hemisphere"], strict=True):
        called, where = sided(region, hemisphere)
        if called == stem:
            parts[where].append(key)
    both = [] if side else [*parts["L"], *parts["R"]]
    found = names.loc[names["region"] == target, "key"].tolist() or parts[side] or both
    if len(found) == 1 or (len(parts["L"]) == len(parts["R"]) == 1 and sorted(found) == sorted(both)):
        return tuple(found), ""
    called = f"{len(found)} regions are" if found else "no region is"
    return (), f"{called} called so: name one in structures of [analysis]"


def title(structure: Sequence[str]) -> str:
    """Names of regions, by their keys, with the side behind each that does not say it."""
    shown = []
    for key in structure:
        name, side = key.split("\0")
        shown.append(f"{name} ({side})" if side and not sided(name)[1] else name)
    return " + ".join(shown)


def shares(regions: DataFrame, within: Within = "regions") -> DataFrame:
    """The label rows with `key`, `share` of the relevance and `volume` share, of what is `within`, and `inside`.

        share = m_r / sum_B m,   volume = v_r / sum_B v,   inside = sum_B m / sum m

    B are all regions ("regions"), which leaves out the background, or all voxels ("scan").
    """
    if within not in WITHIN:
        raise BadInput(f"within as one of {', '.join(WITHIN)}", repr(within), "Correct [analysis].")
    rows = regions[regions["kind"] == "label"]
    rows = rows.assign(key=keys(rows))
    if within == "regions":
        rows = rows[rows["label"] != BACKGROUND]
    by = [rows[name] for name in ("case", *GROUP)]
    inside, voxels = (rows[name].groupby(by).transform("sum") for name in ("mass_fraction", "voxels"))
    with np.errstate(invalid="ignore"):
        share = np.where(inside > 0, rows["mass_fraction"] / inside.where(inside > 0, 1), np.nan)
    return rows.assign(share=share, volume=rows["voxels"] / voxels.where(voxels > 0, np.nan), inside=inside)
