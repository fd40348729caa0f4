"""Names of left and right: what a structure is called without its side, and which two are a pair."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEFT, _RIGHT = {"left", "l", "lh"}, {"right", "r", "rh"}


def sided(name: str, hemisphere: str = "") -> tuple[str, str]:
    """The name in small letters without its first word for a side, and that side: "L", "R" or "".

    Words for a side are left, right, lh, rh, L and R where they stand alone: "Left-Caudate", "kidney_left", "ctx-lh-insula",
    "Hippocampus (left)", "LeftLung". A `hemisphere` (left, L, right, R, midline), where there is one, goes before the name.
    """
    words = [word for word in re.split(r"[\s_.,()-]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name)) if word]
    place = next((i for i, word in enumerate(words) if word.lower() in _LEFT | _RIGHT), len(words))
    side = "" if place == len(words) else "L" if words[place].lower() in _LEFT else "R"
    if hemisphere:
        side = {"L": "L", "R": "R"}.get(hemisphere[0].upper(), "")
    return " ".join(words[:place] + words[place + 1 :]).lower(), side


def pairs(named: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """(name without side, left key, right key) from (key, name, hemisphere), in the order of their first part.

    What has not exactly one part on each side is no pair.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for key, name, hemisphere in named:
        stem, side = sided(name, hemisphere)
        if side:
            found.setdefault(stem, {"L": [], "R": []})[side].append(key)
    return [(stem, both["L"][0], both["R"][0]) for stem, both in found.items() if len(both["L"]) == len(both["R"]) == 1]
