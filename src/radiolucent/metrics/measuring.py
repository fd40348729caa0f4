"""One map against one label image: all metrics, all labels, from one preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from radiolucent.errors import BadInput, warn
from radiolucent.geometry import Array
from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.prepared import Mass, Metric, Part, Score, insides
from radiolucent.volume import Volume

_MOST_LABELS = 256


def rows_of(
    relevance: Volume,
    mask: Volume,
    metrics: Mapping[str, Metric],
    *,
    labels: Sequence[int] | None,
    names: Mapping[int, str] | None,
    part: Part,
    resample: bool,
) -> list[dict[str, Any]]:
    """See `measure`."""
    data = _labels(mask, names)
    data = _on_map(relevance, Volume(data, mask.affine, mask.has_world), resample)[0]
    present = _present(data)
    if labels is None and names is None and len(present) > _MOST_LABELS:
        expected, got = f"a mask with at most {_MOST_LABELS} labels, or names or labels for it", f"{len(present)} values"
        raise BadInput(expected, got, "Is it the scan and not its labels? Else say which labels are meant.")
    wanted = list(labels) if labels is not None else present or [1]  # an empty mask is one whose label 1 is missing
    if 0 in wanted:
        raise BadInput("labels other than 0, the background", f"{wanted}", "Leave it out.")
    mass = Mass.of(relevance, part)
    nothing = "" if mass.high > 0 else "the map has no positive relevance"
    missing = "label {} is not in the mask" if present else "the mask is empty"
    rows = []
    for label, inside in insides(mass, data, wanted):
        for name, metric in metrics.items():
            score, reason = Score(float("nan")), nothing if inside.voxels else missing.format(label)
            if not reason:
                try:
                    score, reason = metric(inside), ""
                except Undefined as why:
                    reason = str(why)
            rows.append(
                {
                    "label": label,
                    "region": (names or {}).get(label, f"label {label}"),
                    "metric": name,
                    "value": score.value,
                    "threshold": score.threshold,
                    "reason": reason,
                }
            )
    return rows


def _labels(mask: Volume, names: Mapping[int, str] | None) -> Array:
    """The mask as whole numbers; what is none, or has no name where names are given, is refused."""
    data = mask.data
    if len(data) != 1:
        raise BadInput("a mask of one channel", f"{len(data)}", "Give one label image; labels of channels would overlap.")
    if data.dtype.kind == "f":
        broken = np.unique(data[(data != np.round(data)) | ~np.isfinite(data)])[:5]
        if len(broken):
            raise BadInput(
                "whole numbers as labels in the mask",
                f"values such as {', '.join(f'{v:g}' for v in broken)}",
                "Was it interpolated? Resample labels with nearest neighbour.",
            )
        data = data.astype(np.int64)
    elif data.dtype.kind == "b":
        data = data.astype(np.uint8)
    unknown = [v for v in _present(data) if v not in names] if names is not None else []
    if unknown:
        raise BadInput("a name for every label in the mask", f"none for {unknown[:20]}", "Add them to the table of names.")
    return data


def _present(data: Array) -> list[int]:
    return [int(v) for v in np.unique(data[data != 0])]


def _on_map(relevance: Volume, mask: Volume, resample: bool) -> Array:
    """The mask's labels on the map's grid. Without a world on either side, equal shapes are the same grid."""
    worlds = relevance.has_world, mask.has_world
    if relevance.grid == mask.grid or (not any(worlds) and relevance.grid.shape == mask.grid.shape):
        return mask.data
    if not all(worlds):
        nowhere = "neither has a world" if not any(worlds) else f"the {'map' if worlds[1] else 'mask'} has no world"
        raise BadInput(
            f"a mask on the map's grid ({relevance.grid})",
            f"{mask.grid}, and {nowhere}",
            "Save both as NIfTI with their geometry, or bring the mask onto the map's voxels.",
        )
    if not resample:
        raise BadInput(
            f"a mask on the map's grid ({relevance.grid})",
            f"{mask.grid}" + (", elsewhere in the world" if mask.grid.shape == relevance.grid.shape else ""),
            "Resample it to the map's voxels, or ask for that with --resample (resample=True).",
        )
    moved = mask.on(relevance.grid, nearest=True)
    if mask.data.any() and not moved.data.any():
        raise BadInput(
            "a mask that overlaps the map", f"none of its labels on {relevance.grid}", "Is it the same subject and space?"
        )
    warn(f"the mask was resampled from {mask.grid} to {relevance.grid}")
    return moved.data
