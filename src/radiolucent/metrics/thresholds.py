"""From how much relevance on a voxel counts as pointed at."""

from __future__ import annotations

import math
import re

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.prepared import Mass

_BINS = 256


def parse(threshold: str | float) -> tuple[str, float]:
    """(kind, number) of a threshold as it is written.

    "otsu": Otsu's threshold. 0.5: half the way from the smallest to the largest mass of a voxel (as
    M3d-CAM scales it). "p95": the 95th percentile over all voxels. "r0.02": a relevance of 0.02 in the map's
    own unit, for maps that are to be compared with each other on one scale.
    """
    text = str(threshold)
    found = re.fullmatch(r"(p|r|)([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)", text)
    if text == "otsu":
        return "otsu", math.nan
    if found:
        kind, number = {"": "fixed", "p": "percentile", "r": "relevance"}[found[1]], float(found[2])
        if 0 < number < {"fixed": 1 + 1e-12, "percentile": 100, "relevance": math.inf}[kind]:
            return kind, number
    raise BadInput(
        "a threshold: otsu, a number above 0 and up to 1, p95 (percentile) or r0.02 (relevance)", repr(threshold), "Correct it."
    )


def cut(mass: Mass, threshold: str | float) -> float:
    """The threshold in the map's own unit: voxels of at least that much are pointed at."""
    kind, number = parse(threshold)
    if kind == "relevance":
        return number
    if kind == "percentile":
        ordered = mass.ordered  # np.percentile would sort, or copy, once more
        place = number / 100 * (ordered.size - 1)
        low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
        return low + (high - low) * (place - math.floor(place))
    if mass.low == mass.high:
        raise Undefined("the map is the same everywhere")
    return otsu(mass) if kind == "otsu" else mass.low + number * (mass.high - mass.low)


def otsu(mass: Mass) -> float:
    """The threshold that parts the values best in two (Otsu, IEEE Trans. SMC 1979, eq. 14), over 256 bins.

        t = argmax_k w0 w1 (m0 - m1)^2        w, m = share and mean of the values up to bin k, and above

    Returned is the centre of bin k, as scikit-image does. It always finds two parts, also where there is
    one: for a map with a few sharp peaks it may keep a large and faint surrounding.
    """
    ordered = mass.ordered
    edges = np.linspace(mass.low, mass.high, _BINS + 1)
    inner = np.searchsorted(ordered, edges[1:-1].astype(ordered.dtype), "left")
    counts = np.diff(np.concatenate([[0], inner, [ordered.size]])).astype(np.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    w0, s0 = counts.cumsum()[:-1], (counts * centres).cumsum()[:-1]
    w1, s1 = counts.sum() - w0, (counts * centres).sum() - s0
    between = w0 * w1 * (s0 / w0 - s1 / w1) ** 2
    return float(centres[np.argmax(between)])
