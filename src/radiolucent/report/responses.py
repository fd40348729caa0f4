"""Pictures of response maps: the units of a layer, classes as colours (CLEAR), and the cases of a bias hunt.

A volume is shown by the slice of its last axis that holds the highest response. `scan` is what `picture.background` made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.report.picture import overlay
from radiolucent.volume import Volume

COLOURS = (
    "#4c9fff", "#ff8c1a", "#2fd26b", "#ff4d4d", "#b57bff", "#ffe14d", "#ff7ad9", "#29d9d9", "#b0e33b",
    "#c98a5a", "#8fb8ff", "#ffb3a1",
)  # fmt: skip
"""Bright on a radiograph's grey, neighbours far apart in hue; as many as CLEAR takes classes."""


def unit_maps(scan: Volume, dominant: Array, maps: Array, units: Sequence[int], most: int = 25) -> Figure:
    """The image, the dominant map, and the map of each of the first `most` units (n, *grid), with its scale beside the first's."""
    shown = [(int(unit), each) for unit, each in zip(units, maps, strict=True) if unit >= 0][:most]
    if not shown:
        raise BadInput("the map of an active unit", f"{len(units)} units, of which none is shown", "Units of -1 were not active.")
    columns = 5 if len(shown) > 9 else 3
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.1 * (columns + 4), max(2.1 * rows, 4)), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(1, 2, width_ratios=[4, columns])
    left, right = parts
    plane = _plane(dominant)
    for axis, (title, value) in zip(left.subplots(1, 2), (("image", None), ("dominant", dominant)), strict=True):
        _draw(axis, plane(scan.data[0]), None if value is None else plane(value) / _scale(value), title)
    axes = right.subplots(rows, columns, squeeze=False).ravel()
    for axis, (unit, each) in zip(axes, shown, strict=False):
        title = f"unit {unit} (x {_scale(each) / _scale(shown[0][1]):.2g})"
        _draw(axis, plane(scan.data[0]), plane(each) / _scale(each), title)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return figure


def class_map(scan: Volume, which: Array, level: Array, names: Sequence[str]) -> Figure:
    """Each pixel in the colour of its class, as strong as its level; class -1 and a level of 0 show the image."""
    if len(names) > len(COLOURS):
        raise BadInput(f"at most {len(COLOURS)} classes that are told apart by colour", f"{len(names)}", "Name those to compare.")
    figure = Figure(figsize=(9, 4), layout="constrained", facecolor="white")
    plane, strength = _plane(level), np.clip(level / _scale(level), 0, 1) * (which >= 0)
    plain, coloured = figure.subplots(1, 2)
    _draw(plain, plane(scan.data[0]), None, "image")
    table = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    grey, share = plane(scan.data[0])[..., None], plane(strength)[..., None]
    coloured.imshow(np.clip(0.6 * grey * (1 - share) + table[np.maximum(plane(which), 0)] * share, 0, 1))
    coloured.set_axis_off()
    coloured.set_title("dominant class, as strong as its level", fontsize=9)
    patches = [Patch(color=COLOURS[c], label=f"{name} ({np.mean(which == c):.0%})") for c, name in enumerate(names)]
    figure.legend(handles=patches, loc="outside right center", fontsize=8, frameon=False)
    return figure


def ranked_cases(cases: Sequence[tuple[str, Volume, Array]], columns: int = 5) -> Figure:
    """Title, scan and map of each case, in the order given: a bias hunt's ranking, misclassified cases first, ..."""
    if not cases:
        raise BadInput("a case to draw", "none", "Choose some of the ranking.")
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, scan, value) in zip(axes, cases, strict=False):
        plane = _plane(value)
        _draw(axis, plane(scan.data[0]), plane(value) / _scale(value), title)
    for axis in axes[len(cases) :]:
        axis.set_axis_off()
    return figure


def _plane(by: Array) -> Callable[[Array], Array]:
    """What cuts the slice out of a grid of 2 or 3 axes that holds the highest value of `by`."""
    if by.ndim == 2:
        return lambda data: data
    at = int(np.unravel_index(np.argmax(by), by.shape)[2])
    return lambda data: data[..., at].T[::-1]


def _scale(value: Array) -> float:
    size = np.abs(value)
    return float(np.percentile(size[size > 0], 99)) if size.any() else 1.0


def _draw(axis: Axes, grey: Array, value: Array | None, title: str) -> None:
    axis.imshow(np.repeat(grey[..., None], 3, 2) if value is None else overlay(grey, np.clip(value, -1, 1)))
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()
