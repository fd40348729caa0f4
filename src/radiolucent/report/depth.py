"""Scores over the depth of a network: one panel per metric, one line per method and target, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours without black and yellow, told apart by most eyes; then the same with other strokes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STROKES = ("-", "--", ":", "-.")
_MOST_NAMES = 90


def by_depth(means: Sequence[Mapping[str, Any]], layers: Sequence[str], line: Sequence[str], level: float = 0.95) -> Figure:
    """Means (rows with layer, metric, mean, low, high) over `layers`, in that order along x.

    `line` names the columns that make a line, for example method and target; those that never change stand above
    instead of in the legend.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in means))
    lines = list(dict.fromkeys(tuple(str(row[column]) for column in line) for row in means))
    width = float(np.clip(0.17 * len(layers) + 2, 7, 26))
    longest = max((len(layer) for layer in layers), default=0)
    titles = [_title(key, lines) for key in lines]
    across = max(1, int(width / (0.075 * max(map(len, titles)) + 0.6)))  # entries of the legend in a row, in inches
    height = 1.7 * len(metrics) + min(0.075 * longest, 4) + 0.24 * -(-len(lines) // across) + 0.75
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axis, metric in zip(panels, metrics, strict=True):
        for number, key in enumerate(lines):
            rows = [r for r in means if r["metric"] == metric and tuple(str(r[column]) for column in line) == key]
            _line(axis, rows, layers, number, titles[number])
        axis.set_title(literal(metric), fontsize=9, loc="left")
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", linewidth=0.4, alpha=0.6)
        if all(row["mean"] >= 0 for row in means if row["metric"] == metric):
            axis.set_ylim(bottom=0)
        axis.set_xlim(-0.5, len(layers) - 0.5)
    _names(panels[-1], layers)
    handles = panels[0].get_legend_handles_labels()
    same = [f"{column} {lines[0][i]}" for i, column in enumerate(line) if lines[0][i] and len({key[i] for key in lines}) == 1]
    figure.legend(
        *handles, loc="outside upper left", ncols=across, fontsize=8, frameon=False, alignment="left",
        title=literal(", ".join(same)), title_fontsize=9,
    )  # fmt: skip
    figure.supylabel(f"mean over cases, with its {level:.0%} bootstrap interval", fontsize=8)
    return figure


def _line(axis: Axes, rows: list[Mapping[str, Any]], layers: Sequence[str], number: int, title: str) -> None:
    """NaN, and so a gap, at layers where there is no score."""
    found = {row["layer"]: row for row in rows}
    mean, low, high = (np.array([found[x][key] if x in found else np.nan for x in layers]) for key in ("mean", "low", "high"))
    colour, stroke = _COLOURS[number % len(_COLOURS)], _STROKES[number // len(_COLOURS) % len(_STROKES)]
    x = np.arange(len(layers))
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    known = np.isfinite(mean)
    alone = known & ~np.append(False, known[:-1]) & ~np.append(known[1:], False)  # no band shows at these
    axis.vlines(x[alone], low[alone], high[alone], color=colour, linewidth=1, alpha=0.6)
    axis.plot(x, mean, stroke, color=colour, linewidth=1.2, marker="o", markersize=2.5, label=title)


def _title(key: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """The parts of a line's name in which the lines differ."""
    parts = [part for i, part in enumerate(key) if len({other[i] for other in lines}) > 1 and part]
    return literal(", ".join(parts) or "mean")


def literal(text: str) -> str:
    """Matplotlib reads $ as mathematics, and leaves out of legends what begins with _."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _names(axis: Axes, layers: Sequence[str]) -> None:
    step = -(-len(layers) // _MOST_NAMES)
    shown = range(0, len(layers), step)
    axis.set_xticks(
        list(shown), [literal(layers[i]) or "input" for i in shown], rotation=90, fontsize=8 if len(layers) <= 30 else 6.5
    )
    axis.set_xlabel("layer, in the order in which they run" + (f" (every {step}th is named)" if step > 1 else ""), fontsize=8)
