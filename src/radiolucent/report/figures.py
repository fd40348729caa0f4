"""Static pictures, drawn with matplotlib: for paper, for browsers without WebGL2, for a first look.

`scan` is everywhere the background that `picture.background` made: for display, in [0, 1].
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure

from radiolucent.geometry import Array
from radiolucent.report.picture import THRESHOLD, Picture, lookup_table, overlay
from radiolucent.volume import Volume

# View -> (axis that is cut, axis to the right, axis upwards, mark at the left, right, bottom, top)
VIEWS = {
    "sagittal": (0, 1, 2, "P", "A", "I", "S"),
    "coronal": (1, 0, 2, "R", "L", "I", "S"),
    "axial": (2, 0, 1, "R", "L", "P", "A"),
}
_OUTLINE = "#ff4fd8"
_FAILS = "#b00020"
_TERMS = ("#440154", "#21918c", "#c07a00")


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def data_uri(figure: Figure, *, photograph: bool = False) -> str:
    """The figure as an image that a page can carry inside itself; many overlays as JPEG, which is far smaller for these."""
    if not photograph:
        return "data:image/png;base64," + base64.b64encode(png(figure)).decode()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 85})
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def slices(scan: Volume, drawn: Picture, unit: str, outline: Array | None = None) -> Figure:
    """Three orthogonal slices through the map's peak (3D), or image and overlay (2D), with the legend."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained", facecolor="white")
    if scan.data.ndim == 3:
        plain, covered = figure.subplots(1, 2)
        plain.imshow(scan.data[0], cmap="gray", vmin=0, vmax=1)
        covered.imshow(overlay(scan.data[0], drawn.value))
        if outline is not None and outline.any():
            covered.contour(outline, [0.5], colors=_OUTLINE, linewidths=0.8)
        axes = [plain, covered]
        for axis in axes:
            axis.set_axis_off()
    else:
        axes = list(figure.subplots(1, 3))
        for axis, view in zip(axes, VIEWS, strict=True):
            cut(axis, view, scan, drawn, drawn.peak, outline)
    legend(figure, axes, drawn, unit)
    return figure


def stamp(figure: Figure, text: str) -> None:
    """Says on the picture itself that its map fails its check, so that it cannot be passed on without that."""
    if text:
        figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold", color=_FAILS)


def montage(scan: Volume, drawn: Picture, unit: str, outline: Array | None = None, count: int = 12) -> Figure:
    """Axial slices, evenly spaced over the part of the scan where the map is drawn."""
    shown = np.flatnonzero((np.abs(drawn.value) >= THRESHOLD).any((0, 1)))
    low, high = (int(shown[0]), int(shown[-1])) if len(shown) else (0, drawn.value.shape[2] - 1)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots(2, count // 2).ravel()
    for axis, k in zip(axes, np.linspace(low, high, count).round().astype(int), strict=True):
        cut(axis, "axial", scan, drawn, (drawn.peak[0], drawn.peak[1], int(k)), outline, marks=False)
    legend(figure, list(axes), drawn, unit)
    return figure


def cut(
    axis: Axes,
    view: str,
    scan: Volume,
    drawn: Picture,
    at: tuple[int, ...],
    outline: Array | None,
    marks: bool = True,
) -> None:
    """One slice with the map over it, through the voxel `at`, in its right proportions."""
    cut_axis, across, up, *letters = VIEWS[view]
    spacing = scan.grid.spacing

    def plane(data: Array) -> Array:
        return np.take(data, at[cut_axis], cut_axis).T  # rows upwards, columns across: axes stay in order

    axis.imshow(overlay(plane(scan.data[0]), plane(drawn.value)), origin="lower", aspect=spacing[up] / spacing[across])
    if outline is not None and plane(outline).any():
        axis.contour(plane(outline), [0.5], colors=_OUTLINE, linewidths=0.8)
    axis.set_axis_off()
    if scan.has_world:
        if across == 0:
            axis.invert_xaxis()  # the radiological convention: the patient's right is on the left
        position = scan.affine[cut_axis, :3] @ np.array(at) + scan.affine[cut_axis, 3]
        title = f"{'xyz'[cut_axis]} = {position:.1f} mm"
    else:
        title = f"slice {at[cut_axis]} of axis {cut_axis}"
    axis.set_title(f"{view}, {title}" if marks and scan.has_world else title, fontsize=9 if marks else 8)
    if marks and scan.has_world:
        for letter, x, y in zip(letters, (0.03, 0.97, 0.5, 0.5), (0.5, 0.5, 0.03, 0.97), strict=True):
            axis.text(
                x, y, letter, transform=axis.transAxes, ha="center", va="center", fontsize=9, color="white",
                bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
            )  # fmt: skip


def legend(figure: Figure | SubFigure, axes: Sequence[Axes], drawn: Picture, unit: str, *, short: bool = False) -> None:
    """The colour bar with its unit; unless `short`, also how the map was normalised."""
    low = -1.0 if drawn.signed else 0.0
    table = lookup_table()
    colours = ListedColormap(table if drawn.signed else table[127:])
    bar = figure.colorbar(ScalarMappable(Normalize(low, 1), colours), ax=list(axes), shrink=0.85, pad=0.02)
    ticks = [t for t in (-1, -THRESHOLD, 0, THRESHOLD, 1) if t >= low]
    bar.set_ticks(ticks, labels=[f"{t * drawn.scale:+.2g}" if t else "0" for t in ticks], fontsize=8)
    scaling = f"\nfull colour: 99th percentile of |R| > 0\nnot drawn below {THRESHOLD:.0%} of it"
    bar.set_label(unit + ("" if short else scaling), fontsize=8)


def profiles(scan: Volume, relevance: Volume) -> Figure:
    """How much relevance each slice holds, for and against, along each axis of the display grid."""
    total = relevance.data.sum(0)
    figure = Figure(figsize=(10.5, 2.3), layout="constrained", facecolor="white")
    where = places(scan)
    whole = np.abs(total).sum()
    table = lookup_table()
    for d, axis in enumerate(figure.subplots(1, total.ndim)):
        name, place = where[d]
        others = tuple(a for a in range(total.ndim) if a != d)
        axis.fill_between(place, np.maximum(total, 0).sum(others) / whole, step="mid", color=table[215], label="for")
        if (total < 0).any():
            axis.fill_between(place, np.minimum(total, 0).sum(others) / whole, step="mid", color=table[40], label="against")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xlabel(name, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if d == 0:
            if scan.data.ndim == 4 and scan.has_world:
                axis.invert_xaxis()  # as in the slices above
            axis.set_ylabel("share of |relevance|", fontsize=8)
            axis.legend(fontsize=7, frameon=False)
    return figure


def course(curve: Mapping[str, Sequence[float]]) -> Figure:
    """How an optimisation went: the objective and its terms against the iterations, "iteration" among the names in `curve`."""
    at = curve["iteration"]
    terms = {name: np.array(values, float) for name, values in curve.items() if name != "iteration"}
    total = np.sum(list(terms.values()), axis=0)
    figure = Figure(figsize=(6.6, 1.9), layout="constrained", facecolor="white")
    axis = figure.subplots()
    if len(terms) > 1:
        styles = ("--", "-.", ":")
        for number, (name, values) in enumerate(terms.items()):
            axis.plot(at, values, styles[number % 3], color=_TERMS[number % 3], linewidth=1.1, label=name)
    axis.plot(at, total, color="black", linewidth=1.4, label="objective")
    if total.min() > 0 and min(values.min() for values in terms.values()) >= 0:
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(1e-3 * total.min(), float(min(v[v > 0].min(initial=total.min()) for v in terms.values())) / 2))
    axis.set_xlabel("iteration", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, frameon=False, loc="outside right center")
    return figure


def places(scan: Volume) -> list[tuple[str, Array]]:
    """For each axis its name with the unit, and where its slices lie."""
    index = [np.arange(n) for n in scan.grid.shape]
    if len(index) == 2:
        return list(zip(("row (downwards)", "column (to the right)"), index, strict=True))
    if not scan.has_world:
        return [(f"slice of axis {d}", i) for d, i in enumerate(index)]
    names = ("x, right to left (mm)", "y, back to front (mm)", "z, bottom to top (mm)")
    middle = (np.array(scan.grid.shape) - 1) / 2
    through = scan.affine[:3, :3] @ middle + scan.affine[:3, 3]  # on an oblique grid: along the line through the centre
    return [(name, through[d] + (i - middle[d]) * scan.affine[d, d]) for d, (name, i) in enumerate(zip(names, index, strict=True))]
