"""Scores over the depth of a network: a row of panels per metric, a column per target, one line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe & Ito's colours without black and yellow, told apart by most eyes; then the same with other strokes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STROKES = ("-", "--", ":", "-.")
_MOST_LINES = 8
_MOST_COLUMNS = 4
_INCHES_PER_NAME = 0.11  # of a layer, upright

Row = Mapping[str, Any]
Key = tuple[str, ...]


def by_depth(
    means: Sequence[Row], layers: Sequence[str], line: Sequence[str], facet: Sequence[str] = (), level: float = 0.95
) -> Figure:
    """Means (rows with layer, metric, mean, low, high) over `layers`, in that order along x.

    `line` names the columns that make a line, for example method and settings, and `facet` those that make a column of
    panels, for example target and region; what never changes stands above. A method on the input (layer "") has no
    depth and stands beside the layers, under its own name. Of more than 8 lines or 4 columns, the best are drawn.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in means))
    facets, fewer_facets = _best(means, facet, _MOST_COLUMNS)
    lines, fewer_lines = _best(means, line, _MOST_LINES)
    on_input = [key for key in lines if any(row["layer"] == "" and _key(row, line) == key for row in means)]
    deep = [layer for layer in layers if layer]
    titles = dict(zip(lines, _titles(lines), strict=True))
    names = [*(titles[key] for key in on_input), *deep]
    width = float(np.clip(_INCHES_PER_NAME * 1.5 * len(names) + 0.8, 7 if len(facets) == 1 else 3.2, 26 / len(facets)))
    across = max(1, int(width * len(facets) / (0.075 * max(map(len, titles.values())) + 0.6)))  # of the legend's entries
    height = 1.5 * len(metrics) + min(0.075 * max(map(len, names), default=0), 4) + 0.24 * -(-len(lines) // across) + 0.95
    figure = Figure(figsize=(width * len(facets), height), layout="constrained", facecolor="white")
    panels = figure.subplots(len(metrics), len(facets), sharex=True, sharey="row", squeeze=False)
    for metric, row_of_panels in zip(metrics, panels, strict=True):
        for key, axis in zip(facets, row_of_panels, strict=True):
            rows = [row for row in means if row["metric"] == metric and _key(row, facet) == key]
            for number, of in enumerate(lines):
                found = {row["layer"]: row for row in rows if _key(row, line) == of}
                _line(axis, found, deep, len(on_input), number, titles[of])
                if "" in found:
                    _point(axis, found[""], on_input.index(of), number)
            _dress(axis, len(names), len(on_input), any(row["mean"] < 0 for row in means if row["metric"] == metric))
        row_of_panels[0].set_ylabel(_wrapped(metric), fontsize=8)
    for axis, title in zip(panels[0], _titles(facets) if len(facets) > 1 else [], strict=False):
        axis.set_title(title, fontsize=9)
    for axis in panels[-1]:
        _names(axis, names, width)
    handles = [
        _handle(number, titles[key]) for number, key in enumerate(lines) if key not in on_input or _has_depth(means, line, key)
    ]
    above = [*_same(line, lines), *_same(facet, facets), *filter(None, (fewer_facets, fewer_lines))]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=across, fontsize=8, frameon=False, alignment="left",
        title=literal("; ".join(above)), title_fontsize=9,
    )  # fmt: skip
    figure.supxlabel("methods on the input, then " * bool(on_input) + "layers in the order in which they run", fontsize=8)
    figure.supylabel(f"mean over cases, with its {level:.0%} bootstrap interval", fontsize=8)
    return figure


def _key(row: Row, columns: Sequence[str]) -> Key:
    return tuple(str(row[column]) for column in columns)


def _best(means: Sequence[Row], columns: Sequence[str], most: int) -> tuple[list[Key], str]:
    """The different keys, or of more than `most` those that reach the highest mean of the first metric; and a word on it."""
    keys = list(dict.fromkeys(_key(row, columns) for row in means))
    if len(keys) <= most:
        return keys, ""
    first = means[0]["metric"]
    top = {
        key: max((r["mean"] for r in means if r["metric"] == first and _key(r, columns) == key), default=-np.inf) for key in keys
    }
    kept = set(sorted(keys, key=lambda key: top[key], reverse=True)[:most])
    what = " and ".join(dict.fromkeys("target" if column == "region" else column for column in columns if column != "settings"))
    return [
        key for key in keys if key in kept
    ], f"the {most} of {len(keys)} with the highest {first} by {what}; all are in the table"


def _has_depth(means: Sequence[Row], line: Sequence[str], key: Key) -> bool:
    return any(row["layer"] and _key(row, line) == key for row in means)


def _style(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _STROKES[number // len(_COLOURS) % len(_STROKES)]}


def _handle(number: int, title: str) -> Line2D:
    return Line2D([], [], linewidth=1.2, marker="o", markersize=2.5, label=title, **_style(number))


def _line(axis: Axes, found: Mapping[str, Row], layers: Sequence[str], start: int, number: int, title: str) -> None:
    """NaN, and so a gap, at layers where there is no score."""
    mean, low, high = (np.array([found[x][key] if x in found else np.nan for x in layers]) for key in ("mean", "low", "high"))
    known = np.isfinite(mean)
    if not known.any():
        return
    style, x = _style(number), start + np.arange(len(layers))
    axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    alone = known & ~np.append(False, known[:-1]) & ~np.append(known[1:], False)  # no band shows at these
    axis.vlines(x[alone], low[alone], high[alone], color=style["color"], linewidth=1, alpha=0.6)
    axis.plot(x, mean, linewidth=1.2, marker="o", markersize=2.5, label=title, **style)


def _point(axis: Axes, row: Row, x: int, number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    axis.bar(x, row["mean"], width=0.7, color=colour, alpha=0.5)
    axis.vlines(x, row["low"], row["high"], color="black", linewidth=1)


def _dress(axis: Axes, places: int, on_input: int, below_zero: bool) -> None:
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    if not below_zero:
        axis.set_ylim(bottom=0)
    axis.set_xlim(-0.5, places - 0.5)
    if 0 < on_input < places:
        axis.axvline(on_input - 0.5, color="black", linewidth=0.6)


def _titles(keys: Sequence[Key]) -> list[str]:
    """Of each key as many parts, from the first on, as are needed to tell them apart; parts of one name once."""
    parts = 0
    while len({key[:parts] for key in keys}) < len(keys):
        parts += 1
    differ = [i for i in range(parts) if len({key[i] for key in keys}) > 1]
    return [literal(", ".join(dict.fromkeys(key[i] for i in differ if key[i])) or "mean") for key in keys]


def _same(columns: Sequence[str], keys: Sequence[Key]) -> list[str]:
    """What is the same in all keys."""
    found = {keys[0][i]: column for i, column in reversed(list(enumerate(columns))) if len({key[i] for key in keys}) == 1}
    return [f"{column} {value}" for value, column in reversed(found.items()) if value]


def _wrapped(metric: str) -> str:
    """On lines of a panel's height."""
    return literal("\n".join(wrap(metric, 16)))


def literal(text: str) -> str:
    """Matplotlib reads $ as mathematics, and leaves out of legends what begins with _."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _names(axis: Axes, names: Sequence[str], width: float) -> None:
    """As many of them as there is room for."""
    step = max(1, ceil(len(names) * _INCHES_PER_NAME / (width - 0.6)))
    shown = range(0, len(names), step)
    axis.set_xticks(list(shown), [literal(names[i]) for i in shown], rotation=90, fontsize=8 if len(names) <= 30 else 6.5)
    if step > 1:
        axis.set_xlabel(f"every {step}th is named", fontsize=7)
