"""Static pictures of a cohort's analysis: where the model looks for what, and which cases are strange.

Each takes tables of `radiolucent.analysis`, of one method and layer, and gives a Figure. Colours are viridis (even in
lightness, told apart by most eyes); scales with a root are marked as such, since context is often a few per cent
beside a class's own half.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from pandas import DataFrame

from radiolucent.geometry import Array
from radiolucent.report.matrix import LONGEST, MOST_NUMBERS, Matrix, column_keys, named, short

_COLOURS = "viridis"
_MOST_PANELS = 4


def heat_map(importance: DataFrame, classes: DataFrame | None = None) -> Figure:
    """Mean mass fraction, targets down and regions across; a class's own region is framed, grey is no such region.

    With `classes`, targets stand in the order of their clustering, with a line between clusters; regions follow their
    targets' order.
    """
    labels = importance[importance["kind"] == "label"]
    targets, breaks = _order(labels, classes)
    matrix = Matrix.of(labels, targets, "mean")
    figure, axis = matrix.drawn()
    colours = matplotlib.colormaps[_COLOURS].with_extremes(bad="#d0d0d0")
    values = matrix.values
    norm = PowerNorm(0.5, 0, max(np.nanmax(values), 0.01))
    image = axis.imshow(np.ma.masked_invalid(values), cmap=colours, norm=norm, aspect="auto" if matrix.few else "equal")
    known = labels[labels["role"] == "itself"] if "role" in labels.columns else labels[:0]
    matrix.frame(axis, {*zip(known["target"], column_keys(known), strict=True), *matrix.alike})
    for place in breaks:
        axis.axhline(place - 0.5, color="white", linewidth=2.5)
    if len(matrix.regions) <= MOST_NUMBERS:
        _numbers(axis, values, norm)
    _bar(figure, image, axis, float(np.nanmax(values)), "mean share of |relevance|,\nroot scale")
    return figure


def _numbers(axis: Axes, values: Array, norm: Normalize) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = norm(value) < 0.6
            text = f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}" if value >= 0.0005 else "0"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _bar(figure: Figure, image: ScalarMappable, axis: Axes, top: float, label: str) -> None:
    bar = figure.colorbar(image, ax=axis, shrink=0.9, pad=0.02)
    ticks = _ticks(top, 0.06)
    bar.set_ticks(ticks, labels=list(map(_per_cent, ticks)), fontsize=8)
    bar.set_label(label, fontsize=8)


def _ticks(top: float, apart: float) -> list[float]:
    """0, round shares and `top` that stand at least `apart` of the axis from each other on a root scale."""
    kept = [0.0]
    for share in (x * 10.0**-power for power in (5, 4, 3, 2, 1, 0) for x in (1, 2, 5)):
        if share <= top * 1.0001 and np.sqrt(share / top) - np.sqrt(kept[-1] / top) >= apart:
            kept.append(share)
    return [*kept, top] if 1 - np.sqrt(kept[-1] / top) >= apart else kept


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.095 else f"{100 * share:.2g}%"


def context_graph(edges: DataFrame, importance: DataFrame, classes: DataFrame | None = None) -> Figure:
    """Arrows from the regions that a class is also recognised by: A -> B, relevance for B lies in A.

    Targets and regions stand on a circle, clustered ones side by side; width and colour are the mean mass fraction.
    """
    targets, _ = _order(importance[importance["kind"] == "label"], classes)
    used = set(edges["region"]) | set(edges["target"])
    names = [t for t in targets if t in used] + sorted(used - set(targets))
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / max(1, len(names))
    place = {name: np.array([np.cos(a), np.sin(a)]) for name, a in zip(names, angle, strict=True)}
    figure = Figure(figsize=(8.6, 7.4), layout="constrained", facecolor="white")
    axis = figure.subplots()
    top = float(edges["mean"].max()) if len(edges) else 0.01
    norm, colours = PowerNorm(0.5, 0, top), matplotlib.colormaps[_COLOURS + "_r"]
    for row in edges.sort_values("mean").itertuples():  # the strongest on top
        start, end, strength = place[row.region], place[row.target], float(row.mean)
        bend = 0.18 if len(names) > 2 else 0.3  # both directions of a pair remain apart
        arrow = FancyArrowPatch(
            tuple(start * 0.97), tuple(end * 0.97), connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=13,
            shrinkA=5, shrinkB=6, linewidth=0.8 + 4 * strength / top, color=colours(0.15 + 0.85 * norm(strength)),
        )  # fmt: skip
        axis.add_patch(arrow)
    for name, a in zip(names, angle, strict=True):
        x, y = place[name]
        axis.plot(x, y, "o", color="#303030" if name in targets else "white", markeredgecolor="#303030", markersize=8)
        turned = np.degrees(a) if np.cos(a) >= -1e-9 else np.degrees(a) + 180
        side = "left" if np.cos(a) >= -1e-9 else "right"
        axis.text(1.06 * x, 1.06 * y, short(name), rotation=turned, rotation_mode="anchor", ha=side, va="center", fontsize=8.5)
    reach = 1.12 + 0.028 * max((min(LONGEST, len(name)) for name in names), default=0)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.set_axis_off()
    axis.set_title("relevance for the arrow's head lies in its tail", fontsize=9)
    _bar(figure, ScalarMappable(norm, _lighter(colours)), axis, top, "mean share of the target's |relevance|,\nroot scale")
    return figure


def _lighter(colours: matplotlib.colors.Colormap) -> matplotlib.colors.ListedColormap:
    """Without the part that is too light on white."""
    return matplotlib.colors.ListedColormap(colours(np.linspace(0.15, 1, 256)))


def distributions(regions: DataFrame, importance: DataFrame, target: str, most: int = 20) -> Figure:
    """How one target's mass fractions are spread over the cases, a line per region: dots, median, quartiles.

    `regions` are the region rows of that method and layer; the `most` largest means are shown.
    """
    chosen = importance[(importance["target"] == target) & (importance["kind"] == "label")]
    chosen = chosen.sort_values("mean", ascending=False, kind="stable")[:most]
    rows = regions[(regions["target"] == target) & (regions["kind"] == "label")]
    values = rows.assign(key=column_keys(rows)).pivot_table(index="case", columns="key", values="mass_fraction", aggfunc="sum")
    values = values.fillna(0.0).sort_index()
    height = 0.27 * len(chosen) + 1.1
    figure = Figure(figsize=(7.5, height), layout="constrained", facecolor="white")
    axis = figure.subplots()
    shake = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
    colours = {"itself": "#440154", "background": "#808080"}
    for place, (key, role) in enumerate(zip(column_keys(chosen), chosen["role"], strict=True)):
        shares, colour = values[key].to_numpy(), colours.get(role, "#21918c")
        axis.plot(shares, place + shake, "o", color=colour, markersize=2.6, alpha=0.45, markeredgewidth=0)
        low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75])
        axis.add_patch(Rectangle((low, place - 0.33), high - low, 0.66, fill=False, edgecolor=colour, linewidth=1.2))
        axis.plot([middle, middle], [place - 0.33, place + 0.33], color="black", linewidth=1.8)
    names = [short(name) for name in named(chosen)]
    axis.set_yticks(range(len(chosen)), names, fontsize=8)
    axis.set_ylim(len(chosen) - 0.4, -0.6)
    root_scale(axis, float(values.to_numpy().max()))
    axis.set_xlabel(f"share of |relevance| for {short(target)}, root scale; n = {len(values)}; box: quartiles", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", linewidth=0.4, alpha=0.6)
    return figure


def root_scale(axis: Axes, top: float) -> None:
    """Shares from 0 to `top` on the x axis, by their square root: context is often a few per cent beside a half."""

    def back(x: Array) -> Array:
        return np.sign(x) * np.square(x)

    def root(x: Array) -> Array:
        return np.sign(x) * np.sqrt(np.abs(x))

    axis.set_xscale("function", functions=(root, back))
    axis.set_xlim(0, top * 1.03)
    ticks = _ticks(top, 0.06)
    axis.set_xticks(ticks, list(map(_per_cent, ticks)), fontsize=8)


def anomaly_ranking(ranking: DataFrame, most: int = 15, least: int = 5) -> Figure:
    """The most and the least anomalous cases, with the target and the region that stand out."""
    ranking = ranking.sort_values("rank")
    few = len(ranking) <= most + least
    shown = ranking if few else ranking.iloc[[*range(most), *range(len(ranking) - least, len(ranking))]]
    gap = len(shown) if few else most
    place = np.arange(len(shown)) + (np.arange(len(shown)) >= gap)
    figure = Figure(figsize=(7.5, 0.25 * (len(shown) + 1) + 0.9), layout="constrained", facecolor="white")
    axis = figure.subplots()
    colours = matplotlib.colormaps[_COLOURS](np.clip(1 - shown["score"].to_numpy(), 0, 0.85))
    axis.barh(place, shown["score"], color=colours, height=0.72)
    about = zip(place, shown["score"], shown["target"], shown["strangest"], strict=True)
    for y, score, target, strangest in about:
        axis.text(score + 0.01, y, f"{short(target)}: {short(strangest)}", va="center", fontsize=7.5)
    axis.set_yticks(place, [f"{rank}  {short(case)}" for rank, case in zip(shown["rank"], shown["case"], strict=True)], fontsize=8)
    if not few:
        axis.text(0.01, most, f"... {len(ranking) - most - least} more ...", va="center", fontsize=7.5, color="#606060")
    axis.set_ylim(place[-1] + 0.6, -0.6)
    axis.set_xlim(0, 1.45)
    axis.spines["bottom"].set_bounds(0, 1)
    axis.set_xticks(np.linspace(0, 1, 6), [f"{tick:.1f}" for tick in np.linspace(0, 1, 6)], fontsize=8)
    text = "mean rank of the anomaly scores over the targets (1: the strangest case for all)"
    axis.set_xlabel(text + "\nbeside: the target and the region that stand out", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def anomaly_against_quality(anomaly: DataFrame, cases: DataFrame, quality: str = "dice", name: str = "Dice") -> Figure:
    """A panel per target: each case's forest score against its agreement with the label."""
    both = anomaly.merge(cases[["case", "target", quality]], on=["case", "target"]).dropna(subset=["forest", quality])
    targets = list(dict.fromkeys(both["target"]))[:_MOST_PANELS]
    figure = Figure(figsize=(max(3.4 * len(targets), 4.2), 3.2), layout="constrained", facecolor="white")
    for axis, target in zip(figure.subplots(1, max(1, len(targets)), squeeze=False)[0], targets, strict=False):
        rows = both[both["target"] == target]
        axis.plot(rows["forest"], rows[quality], "o", color="#31688e", markersize=4, alpha=0.7, markeredgewidth=0)
        axis.set_title(f"{short(target)} (n = {len(rows)})", fontsize=9)
        axis.set_xlabel("anomaly score of the forest", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.4, alpha=0.6)
    figure.axes[0].set_ylabel(name, fontsize=8)
    return figure


def _order(labels: DataFrame, classes: DataFrame | None) -> tuple[list[str], list[int]]:
    """Targets as they are to stand, and where a cluster begins."""
    if classes is None or classes.empty:
        return list(dict.fromkeys(labels["target"])), []
    ordered = classes.sort_values("order")
    clusters = ordered["cluster"].tolist()
    return ordered["target"].tolist(), [i for i in range(1, len(clusters)) if clusters[i] != clusters[i - 1]]
