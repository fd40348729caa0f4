"""Weights of pooled slices as a picture, and what speaks for and against them in words (Ziller et al., Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from radiolucent.geometry import Array
from radiolucent.report.figures import VIEWS, cut, legend, places
from radiolucent.report.picture import Picture, lookup_table
from radiolucent.volume import Volume

LINES = ("#440154", "#21918c", "#d1495b", "#3b6fb6", "#7a7a00")


@dataclass(frozen=True, eq=False)
class Along:
    """One axis's slices on the grid that is drawn: `voxel` of each slice's centre, `weight`, `heads` (heads, slices)."""

    axis: str
    voxel: Array
    weight: Array
    heads: Array

    def on(self, voxels: int) -> Array:
        """The weight at each voxel: that of the slice it lies in, 0 outside."""
        distance = np.abs(np.arange(voxels)[:, None] - self.voxel)
        step = np.abs(np.diff(self.voxel)).mean() if len(self.voxel) > 1 else 1.0
        return np.where(distance.min(1) <= step / 2 + 1e-6, self.weight[distance.argmin(1)], 0.0)


def weights_along(shown: Volume, slices: Mapping[str, Mapping[str, Any]]) -> dict[int, Along]:
    """Axis of the grid that is drawn -> the slices that run along it."""
    found = {}
    to_voxel = np.linalg.inv(shown.affine)
    for name, own in slices.items():
        voxels = np.array(own["centre_mm"]) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        along = int(np.abs(voxels[-1] - voxels[0]).argmax()) if len(voxels) > 1 else "ijk".index(name)
        found[along] = Along(name, voxels[:, along], np.array(own["weight"]), np.array(own["heads"]))
    return found


def attention(
    shown: Volume,
    slices: Mapping[str, Mapping[str, Any]],
    beside: Picture | None = None,
    maps: Sequence[tuple[str, Picture]] = (),
    weights: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Figure:
    """The middle slices with the weights of those that cut them, the top slice, perhaps other maps; and profiles.

    `shown` is the background that `picture.background` made, `slices` what a SliceAttention's details have, `beside`
    another map on the same grid (slice-cam), drawn within the top slice. `maps` are other models' (HiResCAM of a 3D model),
    each with its name and at its own peak; `weights` other models' slices, which join the profiles.
    """
    along = weights_along(shown, slices)
    shape = shown.grid.shape
    top = max(along, key=lambda d: along[d].weight.max())
    highest = float(along[top].weight.max())
    lines = {d: (a.on(shape[d]) / highest).reshape([-1 if d == e else 1 for e in range(3)]) for d, a in along.items()}
    middle = tuple(n // 2 for n in shape)
    at_top = tuple(round(float(along[d].voxel[along[d].weight.argmax()])) if d == top else m for d, m in enumerate(middle))
    view = next(name for name, (axis, *_) in VIEWS.items() if axis == top)
    across = [lines[d] for d in (0, 1) if d in lines]
    panels = [("axial", _drawn(across, shape), middle, "weights of the slices across it")] if across else []
    panels += [("coronal", _drawn([lines[2]], shape), middle, "weights of the slices across it")] if 2 in lines else []
    panels += [(view, _drawn([], shape), at_top, f"highest weight: {highest:.3g}")]
    panels += [(view, beside, at_top, f"relevance within it\n{beside.full}")] if beside is not None else []
    for name, drawn in maps:
        panels += [(view, drawn, drawn.peak, fill(f"{name}, at its peak", 30, break_on_hyphens=False) + f"\n{drawn.full}")]

    figure = Figure(figsize=(max(10.5, 2.4 * len(panels)), 5.8), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.4, 2))
    upper, lower = parts
    axes = list(np.atleast_1d(upper.subplots(1, len(panels))))
    for axis, (name, drawn, at, what) in zip(axes, panels, strict=True):
        cut(axis, name, shown, drawn, at, None)
        axis.set_title(f"{axis.get_title()}\n{what}", fontsize=8)
    legend(upper, axes, Picture(_drawn(across, shape).value, highest, middle), "weight of the slice", short=True)
    _profiles(lower, shown, along, {name: weights_along(shown, own) for name, own in (weights or {}).items()})
    return figure


def _drawn(lines: list[Array], shape: tuple[int, ...]) -> Picture:
    """Where slices cross, the higher weight."""
    value = np.broadcast_to(np.maximum(*lines) if len(lines) > 1 else lines[0] if lines else np.zeros((1, 1, 1)), shape)
    return Picture(value, 1.0, (0, 0, 0))


def _profiles(figure: Any, shown: Volume, along: Mapping[int, Along], others: Mapping[str, Mapping[int, Along]]) -> None:
    """The weights along each axis, their mean over the heads and the heads themselves; and other models' weights.

    Beside them what each slice would have if all of this model's had the same.
    """
    where, count = places(shown), sum(len(own.weight) for own in along.values())
    axes = np.atleast_1d(figure.subplots(1, len(along), sharey=True))
    for number, (axis, d) in enumerate(zip(axes, sorted(along), strict=True)):
        name, place = where[d]
        own = along[d]

        def mm(voxel: Array, place: Array = place) -> Array:
            return np.interp(voxel, np.arange(len(place)), place)

        for head in own.heads if len(own.heads) > 1 and not others else ():
            axis.plot(mm(own.voxel), head, color="0.75", linewidth=0.6, drawstyle="steps-mid")
        axis.plot(mm(own.voxel), own.weight, color=lookup_table()[215], linewidth=1.8, drawstyle="steps-mid", label="this model")
        for (model, other), colour in zip(others.items(), cycle(LINES)):
            if d in other:
                axis.plot(mm(other[d].voxel), other[d].weight, color=colour, linewidth=0.9, drawstyle="steps-mid", label=model)
        axis.axhline(1 / count, color="0.35", linewidth=0.8, linestyle=":", label=f"all the same: 1/{count}")
        axis.set_xlabel(f"{name}, slices across {own.axis}", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if d == 0 and shown.has_world:
            axis.invert_xaxis()  # as in the slices above
        if number == 0:
            axis.set_ylabel("weight" if others else "weight (grey: heads)", fontsize=8)
    axes[0].set_ylim(bottom=0)  # and with it the others, which share its axis
    axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def words(details: Mapping[str, Any]) -> list[str]:
    """What the numbers beside a picture of the weights say, one sentence each; they stand in the explanation's details."""
    slices = details["slices"]
    axis = max(slices, key=lambda a: max(slices[a]["weight"]))
    highest = max(slices[axis]["weight"])
    count = sum(len(own["weight"]) for own in slices.values())
    said = [
        f"The highest weight, {highest:.3g} of 1, is on slice {slices[axis]['weight'].index(highest)} across {axis}, of {count}."
    ]
    if "truth" not in details:
        return said
    n = details["truth"]
    said.append(f"The weights are as spread out as {n['slices_in_effect']:.1f} slices of equal weight.")
    gone = f"Mean score while slices are left out, the highest weight first: {n['deletion']:.3g} (in random order"
    alone = f"of those with the highest weight alone: {n['insertion']:.3g} ({n['insertion_at_random']:.3g})."
    said.append(f"{gone} {n['deletion_at_random']:.3g}); {alone}")
    said.append(_agreements(n))
    said.append(f"Empty slices, {n['empty_slices']:.0%} of all, have {n['empty_weight']:.0%} of the weight.")
    return said


def _agreements(n: Mapping[str, Any]) -> str:
    """Weights beside what becomes of the score without each slice."""
    told = [f"{_number(n['agreement'])} when the slice is left out"]
    told += [f"{_number(n['occlusion'])} when it is covered in the image"] if "occlusion" in n else []
    asked = "" if len(told) > 1 else " Covering slices in the image was not asked for (cover=minimum)."
    return f"Rank correlation of a slice's weight with the change of the score: {', '.join(told)}.{asked}"


def _number(value: float | None) -> str:
    return "none (the same for all slices)" if value is None else f"{value:.2f}"
