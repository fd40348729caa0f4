"""Pictures of response maps: the units of a layer, classes as colours (CLEAR), and the cases of a bias hunt.

A volume is shown by the slice of its last axis that holds the highest response. `scan` is what `picture.background` made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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

_OTHERS = "#9a9a9a"
_WIDTH = 10.5  # inches, as the other pictures of a page


@dataclass(frozen=True, eq=False)
class Units:
    """Response maps of a layer's active units by rank, on the grid of the scan's background.

    dominant, labels: the largest response, and the unit that has it, -1 where there is none.
    maps: (n, *grid), one for each of `units`, with the value that it is ranked by and its share of the labels.
    """

    scan: Volume
    dominant: Array
    labels: Array
    maps: Array
    units: Sequence[int]
    values: Sequence[float]
    shares: Sequence[float]


def unit_maps(drawn: Units, most: int = 25) -> Figure:
    """Image, dominant map and winners in the first column, beside them the maps of the first `most` units by rank.

    The frame of a unit's map has its colour among the winners, for the units that win the most pixels.
    """
    if not len(drawn.maps):
        raise BadInput("the map of an active unit", "none", "Choose another layer or ranking.")
    count = min(most, len(drawn.maps))
    columns = 3 if count <= 9 else 5
    rows = max(3, -(-count // columns))
    plane = _plane(drawn.dominant)
    high, wide = plane(drawn.scan.data[0]).shape
    size = _WIDTH / (columns + 1)
    figure = Figure(
        figsize=(_WIDTH, rows * (size * min(max(high / wide, 0.5), 1.6) + 0.4)), layout="constrained", facecolor="white"
    )
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    grey, colours = plane(drawn.scan.data[0]), _own_colours(drawn)
    first = axes[:, 0]
    _draw(first[0], grey, None, "image")
    _draw(first[1], grey, plane(drawn.dominant) / _scale(drawn.dominant), "dominant")
    first[2].imshow(_winners(drawn, plane, colours))
    first[2].set_title("strongest unit", fontsize=8)
    one = _scale(drawn.maps[0])
    for i, axis in zip(range(count), axes[:, 1:].ravel(), strict=False):
        title = f"unit {drawn.units[i]}: {drawn.values[i]:.3g}\nx {_scale(drawn.maps[i]) / one:.2g}, wins {drawn.shares[i]:.0%}"
        _draw(axis, grey, plane(drawn.maps[i]) / _scale(drawn.maps[i]), title)
        _frame(axis, colours.get(drawn.units[i], _OTHERS))
    return figure


def _own_colours(drawn: Units) -> dict[int, str]:
    """A colour for each of the units that win the most pixels, as many as can be told apart."""
    order = sorted(range(len(drawn.units)), key=lambda i: -drawn.shares[i])
    return {drawn.units[i]: colour for i, colour in zip(order, COLOURS, strict=False) if drawn.shares[i] > 0}


def _winners(drawn: Units, plane: Callable[[Array], Array], colours: Mapping[int, str]) -> Array:
    """The label map over the image: each pixel in the colour of its unit, as strong as the dominant map."""
    share = plane(np.clip(np.abs(drawn.dominant) / _scale(drawn.dominant), 0, 1) * (drawn.labels >= 0))[..., None]
    labels, colour = plane(drawn.labels), np.empty((*share.shape[:2], 3))
    colour[:] = _rgb(_OTHERS)
    for unit, own in colours.items():
        colour[labels == unit] = _rgb(own)
    return np.asarray(np.clip(0.6 * plane(drawn.scan.data[0])[..., None] * (1 - share) + colour * share, 0, 1))


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _frame(axis: Axes, colour: str) -> None:
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set(color=colour, linewidth=2.5)


def class_map(scan: Volume, which: Array, level: Array, names: Sequence[str]) -> Figure:
    """Each pixel in the colour of its class, as strong as its level; class -1 and a level of 0 show the image."""
    if len(names) > len(COLOURS):
        raise BadInput(f"at most {len(COLOURS)} classes that are told apart by colour", f"{len(names)}", "Name those to compare.")
    figure = Figure(figsize=(9, 4), layout="constrained", facecolor="white")
    plane, strength = _plane(level), np.clip(level / _scale(level), 0, 1) * (which >= 0)
    plain, coloured = figure.subplots(1, 2)
    _draw(plain, plane(scan.data[0]), None, "image")
    table = np.array([_rgb(c) for c in COLOURS])
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
