"""Where the slices of a method's details lie, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from radiolucent.explanation.result import Explanation
from radiolucent.methods import title
from radiolucent.slicing import AXES
from radiolucent.volume import Volume


def located(details: Mapping[str, Any], image: Volume) -> dict[str, Any]:
    """A method's details; where they have slices of the model's image, also where each one's centre lies, in mm."""
    if "slices" not in details:
        return dict(details)
    middle = (np.array(image.grid.shape) - 1) / 2
    placed = {}
    for axis, own in details["slices"].items():
        index = np.tile(middle, (image.grid.shape[AXES.index(axis)], 1))
        index[:, AXES.index(axis)] = np.arange(len(index))
        placed[axis] = own | {"centre_mm": (index @ image.affine[:3, :3].T + image.affine[:3, 3]).tolist()}
    return dict(details) | {"slices": placed}


_OF_EACH = ("weight", "share", "left_out", "covered")


def slice_rows(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """One row for each slice, method and target: axis (of the model's image), number, centre in mm, weight, heads.

    share: slice-cam's sum within the slice. left_out, covered: the drop of the score without the slice (see SliceAttention).
    """
    rows = []
    for explanation in explanations:
        for target, details in zip(explanation.targets, explanation.provenance.get("details", ()), strict=False):
            for axis, own in details.get("slices", {}).items():
                for s, centre in enumerate(own["centre_mm"]):
                    row = {"method": title(explanation.method), "target": target, "axis": axis, "slice": s}
                    row |= {f"{name}_mm": value for name, value in zip("xyz", centre, strict=True)}
                    row |= {name: own[name][s] if name in own else float("nan") for name in _OF_EACH}
                    rows.append(row | {f"head_{h}": w[s] for h, w in enumerate(own.get("heads", ()))})
    return rows
