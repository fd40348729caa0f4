"""Static pictures of a scoreboard: methods by metrics, mean ranks with the critical difference, faithfulness against time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from radiolucent.geometry import Array

_COLOURS = "viridis_r"
"""Dark is good."""
_GOOD, _PLAIN, _BAD = "#1d5f8a", "#808080", "#b45f06"
_LINE = 26  # characters of a metric's name


def heat_map(methods: Sequence[str], metrics: Sequence[str], shares: Array, texts: Sequence[Sequence[str]]) -> Figure:
    """Methods down, metrics across: colour is the mean rank from best (0) to worst (1), NaN grey; the text is the value."""
    names = [_in_lines(name) for name in metrics]
    lines = max(len(name.split("\n")) for name in names)
    wide = 0.75 if lines < 4 else 0.9
    left = 0.075 * max(map(len, methods))
    below = 0.078 * max(len(line) for name in names for line in name.split("\n"))
    size = (max(wide * len(metrics) + left + 1.6, 5.0), 0.3 * len(methods) + below + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axis = figure.subplots()
    colours = matplotlib.colormaps[_COLOURS].with_extremes(bad="#e4e4e4")
    image = axis.imshow(np.ma.masked_invalid(1 - shares), cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        dark = np.isfinite(share) and share < 0.5
        axis.text(column, row, texts[row][column], ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    axis.set_xticks(range(len(metrics)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, pad=0.015, aspect=30)
    bar.set_ticks([0, 1], labels=["worst", "best"], fontsize=8)
    bar.set_label("mean rank among the methods", fontsize=8)
    return figure


def rank_plot(methods: Sequence[str], ranks: Sequence[float], critical: float, differ: bool) -> Figure:
    """Mean ranks, the best on top; shaded is what lies within the critical difference of the best."""
    figure = Figure(figsize=(7.5, 0.24 * len(methods) + 1.0), layout="constrained", facecolor="white")
    axis = figure.subplots()
    if differ:
        axis.axvspan(ranks[0], min(ranks[0] + critical, len(methods)), color=_GOOD, alpha=0.13, linewidth=0)
    worse = [differ and rank - ranks[0] >= critical for rank in ranks]
    for y, (rank, bad) in enumerate(zip(ranks, worse, strict=True)):
        axis.plot([1, rank], [y, y], color="#d8d8d8", linewidth=1, zorder=1)
        axis.plot(rank, y, "o", color=_BAD if bad else _GOOD if differ else _PLAIN, markersize=6, zorder=2)
        axis.text(rank + 0.012 * len(methods) + 0.04, y, f"{rank:.2f}", va="center", fontsize=7.5)
    axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.set_xlim(0.9, len(methods) + 0.1 + 0.05 * len(methods))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(axis="x", labelsize=8)
    shaded = f"\nshaded: within the critical difference ({critical:.2f}) of the best" if differ else ""
    axis.set_xlabel(f"mean rank over the cases, 1 is the best{shaded}", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def pareto(points: Mapping[str, tuple[float, float]], front: Collection[str], what: str, cost: str, higher: bool) -> Figure:
    """Methods by cost (log scale) and value; those that no other beats in both are filled, named in bold and joined."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained", facecolor="white")
    axis, legend = figure.subplots(1, 2, width_ratios=(5, 2))
    ordered = sorted(points, key=lambda name: points[name][1], reverse=higher)
    best = sorted((points[name] for name in front), key=lambda point: point[0])
    axis.step(*zip(*best, strict=True), where="post", color=_GOOD, linewidth=1, alpha=0.6, zorder=1)
    for number, name in enumerate(ordered, 1):
        on_front = name in front
        colours = {"facecolors": _GOOD if on_front else "white", "edgecolors": _GOOD if on_front else _PLAIN}
        axis.scatter(*points[name], s=110, zorder=2 + on_front, **colours)
        text = {"ha": "center", "va": "center", "fontsize": 6.5, "zorder": 4}
        axis.text(*points[name], str(number), color="white" if on_front else "#404040", **text)
        weight = "bold" if on_front else "normal"
        axis_name = f"{number}  {name}" if len(name) <= 42 else f"{number}  {name[:41]}…"
        height = 1 - (number - 0.5) / max(len(ordered), 14)
        legend.text(0, height, axis_name, fontsize=7.5, weight=weight, va="center", transform=legend.transAxes)
    legend.set_axis_off()
    axis.set_xscale("log")
    if not higher:
        axis.invert_yaxis()
    axis.margins(0.08)
    axis.set_xlabel(f"{cost}, log scale", fontsize=8)
    axis.set_ylabel(f"{what} ({'higher' if higher else 'lower'} is better{'' if higher else ', axis upside down'})", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(linewidth=0.4, alpha=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _in_lines(metric: str) -> str:
    """A metric's name on one line, its settings on others."""
    name, _, settings = metric.partition("(")
    return "\n".join([name, *wrap(f"({settings}", _LINE, break_on_hyphens=False)]) if settings else name
