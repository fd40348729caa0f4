"""Static pictures of a regression's structures: where each output looks, itself or its mirror, and whether it sees asymmetry.

Each takes tables of `radiolucent.analysis`; those with a method and layer, of one of them. Densities stand on a logarithmic
scale around 1, in colours of even lightness for more and for less (Crameri's managua, as the maps themselves).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from radiolucent.geometry import Array
from radiolucent.report.cohort_figures import root_scale
from radiolucent.report.matrix import MOST_NUMBERS, Matrix, column_keys, named, short

OWN, MIRROR, OTHER = "#7a0f7a", "#00897b", "#7f7f7f"
"""The target's structure, its mirror, the others: told apart by lightness and shape too."""
_SHAPES = {OWN: "o", MIRROR: "D", OTHER: "o"}
_MOST_DOUBLINGS = 5.0
MOST_PAIRS = 12
_PLACES = [
    (dx, dy, side)
    for dy in (0, 8, -8, 15, -15)
    for dx, side in ((6, "left"), (-6, "right"), (0, "center"))
    if dx or dy
]  # fmt: skip
"""Where a name may stand beside its dot, in points, the best first."""


def density_map(density: DataFrame) -> Figure:
    """Mean relative density, targets down and regions across. Framed: the target's own structure; dotted: its mirror."""
    targets = list(dict.fromkeys(density["target"]))
    matrix = Matrix.of(density, targets, "density")
    figure, axis = matrix.drawn()
    values = np.where(np.isfinite(matrix.values), matrix.values, np.nan)
    with np.errstate(divide="ignore"):
        doublings = np.log2(values)
    known = np.abs(doublings[np.isfinite(doublings)])
    top = float(np.clip(known.max() if known.size else 1.0, 1.0, _MOST_DOUBLINGS))
    colours = matplotlib.colormaps["managua_r"].with_extremes(bad="#d0d0d0")
    norm = Normalize(-top, top)
    shown = np.ma.masked_invalid(np.where(np.isnan(values), np.nan, np.clip(doublings, -top, top)))
    image = axis.imshow(shown, cmap=colours, norm=norm, aspect="auto" if matrix.few else "equal")
    for role, style in (("mirror", "dotted"), ("own", "solid")):
        rows = density[density["role"] == role]
        matrix.frame(axis, set(zip(rows["target"], column_keys(rows), strict=True)), style)
    if len(matrix.regions) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(shown[row, column]) < 0.55 * top
                axis.text(column, row, _times(value), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    beyond = [bool((doublings < -top).any()), bool((doublings > top).any())]
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond[0], beyond[1]]
    bar = figure.colorbar(image, ax=axis, shrink=0.9, pad=0.02, extend=extend)
    ticks = list(range(-math.floor(top), math.floor(top) + 1))
    bar.set_ticks(ticks, labels=[f"{2.0**tick:.3g}" for tick in ticks], fontsize=8)
    bar.set_label("density of |relevance|, times that of an even\nspread (log scale); framed: own, dotted: mirror", fontsize=8)
    return figure


def _times(value: float) -> str:
    return "0" if value == 0 else f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def density_bars(density: DataFrame, target: str, most: int = 20) -> Figure:
    """One target's densities with their intervals, the highest first (Konate et al., Fig. 4); its own and mirror always."""
    rows = density[(density["target"] == target) & density["density"].notna()].sort_values(
        "density", ascending=False, kind="stable"
    )
    kept = (np.arange(len(rows)) < most) | rows["role"].isin(["own", "mirror"]).to_numpy()
    rows = rows[kept]
    figure = Figure(figsize=(7.5, 0.25 * max(len(rows), 1) + 1.2), layout="constrained", facecolor="white")
    axis = figure.subplots()
    colours = {"own": OWN, "mirror": MIRROR}
    for place, row in enumerate(rows.to_dict("records")):
        _dot(axis, place, row["density"], row["low"], row["high"], colours.get(row["role"], OTHER))
    axis.axvline(1, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
    axis.set_yticks(range(len(rows)), [short(name) for name in named(rows)], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    top = max(float(np.nanmax([*rows["high"], *rows["density"], 1.0])), 1.2)
    root_scale(axis, top)
    ticks = [t for t in (0, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100) if t <= top]
    ticks = [t for i, t in enumerate(ticks) if t in (0, 1) or math.sqrt(t / top) - math.sqrt(ticks[i - 1] / top) > 0.04]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
    label = f"density of |relevance| for {short(target)}, times that of an even spread (dashed: 1),\nroot scale; lines: intervals"
    axis.set_xlabel(label, fontsize=8)
    _legend(axis, {"the target itself": OWN, "its mirror": MIRROR, "other regions": OTHER})
    return figure


def _dot(axis: Axes, y: float, value: float, low: float, high: float, colour: str) -> None:
    if np.isfinite([low, high]).all():
        axis.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    axis.plot([value], [y], _SHAPES[colour], color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.7)


def _legend(axis: Axes, names: dict[str, str], more: Sequence[Line2D] = ()) -> None:
    dots = [Line2D([], [], linestyle="", marker=_SHAPES[c], color=c, markersize=6, label=name) for name, c in names.items()]
    place: dict[str, Any] = {
        "loc": "lower right",
        "bbox_to_anchor": (1.0, 1.0),
        "borderaxespad": 0.2,
        "ncols": len(dots) + len(more),
    }
    axis.legend(handles=[*dots, *more], fontsize=8, frameon=False, columnspacing=1.2, handletextpad=0.3, **place)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", linewidth=0.4, alpha=0.6)


def mirror_shares(mirror: DataFrame, alpha: float) -> Figure:
    """Each target's share in its own structure and in its mirror, with intervals, and what an even spread would give.

    The words beside them are verdicts at `alpha`, as those of the table.
    """
    rows = mirror.to_dict("records")
    figure = Figure(figsize=(8.2, 0.42 * len(rows) + 1.3), layout="constrained", facecolor="white")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        for name, colour, up in (("own", OWN, -0.16), ("mirror", MIRROR, 0.16)):
            if np.isfinite(row[name]):
                _dot(axis, place + up, row[name], row[f"{name}_low"], row[f"{name}_high"], colour)
                expected = row[f"{name}_volume"]
                axis.plot([expected, expected], [place + up - 0.14, place + up + 0.14], color="black", linewidth=1.4)
        found = _found(row, alpha)
        axis.annotate(found, (1.01, place), xycoords=axis.get_yaxis_transform(), va="center", fontsize=7.5, color="#404040")
    values = mirror[["own", "own_high", "own_volume", "mirror", "mirror_high", "mirror_volume"]].to_numpy(float)
    axis.set_yticks(range(len(rows)), [short(row["target"]) for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    root_scale(axis, float(np.nanmax(np.append(values, 0.01))))
    axis.set_xlabel("share of |relevance|, root scale; lines: intervals over the cases", fontsize=8)
    even = Line2D([], [], linestyle="", marker="|", color="black", markersize=9, label="by its volume alone")
    _legend(axis, {"in the target itself": OWN, "in its mirror": MIRROR}, [even])
    return figure


def _found(row: dict[str, float], alpha: float) -> str:
    """The verdict in a word."""
    if not row["opposite"]:
        return "no mirror"
    if not np.isfinite(row["p"]):
        return "few cases"
    if row["q_equal"] < alpha:
        return "equal"
    return ("itself" if row["effect"] > 0 else "mirror") if row["q"] < alpha else "undecided"


def variability_scatter(variation: DataFrame, variability: DataFrame) -> Figure:
    """Each structure's density of attention against its coefficient of variation, with its name; both sides as one."""
    known = variation.dropna(subset=["density", "cv"])
    means = known.groupby("unit", sort=False)[["cv", "density"]].mean()
    figure = Figure(figsize=(7.5, 4.8), layout="constrained", facecolor="white")
    axis = figure.subplots()
    positive = bool((means["density"] > 0).all())
    x, y = 100 * means["cv"].to_numpy(), means["density"].to_numpy()
    axis.plot(x, y, "o", color=OWN, markersize=6, markeredgecolor="white", markeredgewidth=0.7)
    axis.axhline(1, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
    if positive and len(y):
        axis.set_yscale("log")
        axis.set_ylim(min(0.7, y.min() / 1.5), max(1.4, 1.5 * y.max()))
        low, high = axis.get_ylim()
        ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
        axis.minorticks_off()
    axis.margins(x=0.2)
    axis.tick_params(labelsize=8)
    source = ", ".join(sorted(set(variation["source"])))
    axis.set_xlabel(f"coefficient of variation in % (from {source})", fontsize=8)
    scale = ", log scale" if positive else ""
    axis.set_ylabel(
        f"density of |relevance| on the target's own structure,\ntimes that of an even spread (dashed: 1){scale}", fontsize=8
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(linewidth=0.4, alpha=0.6)
    (row,) = variability.to_dict("records")
    rho = (
        f"Spearman's rho {row['rho']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}), p = {row['p']:.2g}, n = {row['n']} structures"
    )
    axis.set_title(rho if np.isfinite(row["rho"]) else row["verdict"], fontsize=9)
    _names(figure, axis, x, y, [short(name) for name in means.index])
    return figure


def _names(figure: Figure, axis: Axes, x: Array, y: Array, names: Sequence[str]) -> None:
    """Names beside dots, each at the first place where it covers no dot and no other name, and leaves the axes on no side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    spots = axis.transData.transform(np.column_stack([x, y])) if len(x) else np.empty((0, 2))
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in spots]
    inner, dot = axis.get_window_extent(), figure.dpi / 72
    for (px, py), place, name in zip(spots, zip(x, y, strict=True), names, strict=True):
        width, height = 4.6 * len(name) * dot, 8.5 * dot
        best = None
        for dx, dy, side in _PLACES:
            left = px + dx * dot - {"left": 0, "right": width, "center": width / 2}[side]
            box = (left, py + dy * dot - height / 2, left + width, py + dy * dot + height / 2)
            covered = sum(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken)
            covered += (box[0] < inner.x0) + (box[2] > inner.x1) + (box[1] < inner.y0) + (box[3] > inner.y1)
            if best is None or covered < best[0]:
                best = (covered, dx, dy, side, box)
        assert best is not None
        _, dx, dy, side, box = best
        taken.append(box)
        text = axis.annotate(name, place, (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=7.5)
        text.set_in_layout(False)  # else the axes would shrink, and the dots move


def asymmetry_panels(asymmetries: DataFrame, asymmetry: DataFrame) -> Figure:
    """A panel per pair of outputs: predicted against true right minus left, a dot per case; dashed: what is right."""
    rows = asymmetry[asymmetry["n"] > 0].to_dict("records")[:MOST_PAIRS]
    across = min(4, max(1, len(rows)))
    down = -(-len(rows) // across) if rows else 1
    figure = Figure(figsize=(max(2.9 * across, 4.2), 3.1 * down + 0.3), layout="constrained", facecolor="white")
    for axis, row in zip(
        figure.subplots(down, across, squeeze=False).flat, [*rows, *[None] * (down * across - len(rows))], strict=True
    ):
        if row is None:
            axis.set_axis_off()
        else:
            _asymmetry(axis, asymmetries[asymmetries["pair"] == row["pair"]].dropna(subset=["predicted", "true"]), row)
    unit = (asymmetry["unit"].iloc[0] if len(asymmetry) else "").replace("mm3", "mm³")
    of = f" in {unit}" if unit else ""
    figure.supxlabel(f"true right minus left{of}", fontsize=9)
    figure.supylabel(f"predicted right minus left{of}", fontsize=9)
    return figure


def _asymmetry(axis: Axes, cases: DataFrame, row: dict[str, float]) -> None:
    both = cases[["true", "predicted"]].to_numpy(float)
    reach = 1.08 * max(float(np.abs(both).max()), 1e-12)
    axis.plot([-reach, reach], [-reach, reach], color="black", linewidth=0.9, linestyle=(0, (4, 3)))
    axis.axhline(0, color="#b0b0b0", linewidth=0.7)
    axis.axvline(0, color="#b0b0b0", linewidth=0.7)
    axis.plot(both[:, 0], both[:, 1], "o", color=OWN, markersize=4, alpha=0.65, markeredgewidth=0)
    if np.isfinite(row["slope"]):
        ends = np.array([both[:, 0].min(), both[:, 0].max()])
        axis.plot(ends, both[:, 1].mean() + row["slope"] * (ends - both[:, 0].mean()), color=MIRROR, linewidth=2)
        slope = f"slope {row['slope']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        said = f"{slope}\nr = {row['r']:+.2f}; of the totals {row['r_total']:+.2f}"
        said = said.replace("nan", "n/a").replace("+n/a", "n/a")
        axis.text(0.03, 0.97, said, transform=axis.transAxes, va="top", fontsize=7, bbox={"color": "white", "alpha": 0.7, "pad": 1})
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.set_title(f"{short(str(row['pair']))} (n = {row['n']})", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
