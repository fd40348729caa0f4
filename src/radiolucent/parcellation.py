"""Anatomy: a label image with names, and relevance added up by region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput, warn
from radiolucent.geometry import Grid
from radiolucent.io import read_labels
from radiolucent.io.tables import Name, read_names
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Parcellation:
    """`labels`, an int32 Volume (1, *grid), and `names` for its values. 0 is no region ("background")."""

    labels: Volume
    names: Mapping[int, Name]

    def __post_init__(self) -> None:
        if len(self.labels.data) != 1 or self.labels.data.dtype.kind not in "iu":
            raise BadInput(
                "one channel of whole numbers as labels",
                f"{self.labels.data.dtype} of shape {self.labels.data.shape}",
                "Read it with Parcellation.read.",
            )
        unknown = [v for v in self.values if v not in self.names and v != 0]
        if unknown:
            raise BadInput("a name for every label in the image", f"none for {unknown[:20]}", "Add them to the table of names.")

    @classmethod
    def read(cls, path: str | Path, names: str | Path | Mapping[int, Name] | None = None) -> Parcellation:
        """A label image with a table of names (see io.tables.read_names); without one, "label 7"."""
        labels = read_labels(path)
        if names is None:
            names = {int(v): Name(f"label {int(v)}") for v in np.unique(labels.data) if v}
        elif not isinstance(names, Mapping):
            names = read_names(names)
        try:
            return cls(labels, names)
        except BadInput as error:
            raise BadInput(f"{error.expected} ({path})", error.got, error.do) from None

    @property
    def values(self) -> list[int]:
        """The label values that occur, in order."""
        return [int(v) for v in np.unique(self.labels.data)]

    def name(self, value: int) -> str:
        return self.names[value].name if value in self.names else "background"

    def on(self, grid: Grid) -> Parcellation:
        """The same labels on another grid (nearest neighbour); refused where they do not overlap at all."""
        if self.labels.grid == grid:
            return self
        if not self.labels.has_world:
            raise BadInput(
                f"a parcellation in world space, or on the image's own grid ({grid})",
                f"{self.labels.grid} without one",
                "Save it as NIfTI.",
            )
        moved = self.labels.on(grid, nearest=True)
        if self.labels.data.any() and not moved.data.any():
            raise BadInput(
                "a parcellation that overlaps the image", f"none of its regions on {grid}", "Is it the same subject and space?"
            )
        warn(f"the parcellation was resampled from {self.labels.grid} to {grid}")
        return Parcellation(moved, self.names)


def by_region(relevance: Volume, parcellation: Parcellation) -> list[dict[str, Any]]:
    """One row per region b: how much of the relevance e lies in it (Agg2Exp).

        mass_fraction = |e in b|_1 / |e|_1        positive, negative = the same for e > 0 and e < 0
        density = |e in b|_1 / voxels of b        enrichment = mass_fraction / (voxels of b / all voxels)

    The channels of `relevance` (c, *grid) are added up by their absolute values. One pass over the map
    whatever the number of regions. Fractions of all regions, background included, sum to 1.
    """
    labels = parcellation.labels
    if relevance.grid != labels.grid:
        raise BadInput(
            f"a parcellation on the map's grid ({relevance.grid})", f"{labels.grid}", "Use parcellation.on(relevance.grid)."
        )
    values, index = np.unique(labels.data[0], return_inverse=True)
    flat = index.reshape(-1)
    voxels = np.bincount(flat, minlength=len(values))
    positive = np.zeros(len(values))
    negative = np.zeros(len(values))
    for channel in relevance.data:
        e = channel.reshape(-1).astype(np.float64)
        positive += np.bincount(flat, np.maximum(e, 0), len(values))
        negative += np.bincount(flat, np.maximum(-e, 0), len(values))
    total = (positive + negative).sum()
    if not 0 < total < np.inf:
        raise BadInput("relevance that is finite and not zero everywhere", f"a sum of {total}", "There is nothing to share out.")
    return [
        {
            "label": int(value),
            "region": parcellation.name(int(value)),
            "hemisphere": parcellation.names[int(value)].hemisphere if int(value) in parcellation.names else "",
            "mass_fraction": float((positive[b] + negative[b]) / total),
            "positive": float(positive[b] / total),
            "negative": float(negative[b] / total),
            "density": float((positive[b] + negative[b]) / voxels[b]),
            "enrichment": float((positive[b] + negative[b]) / total / (voxels[b] / voxels.sum())),
            "voxels": int(voxels[b]),
            "volume_mm3": float(voxels[b] * relevance.grid.voxel_mm3),
        }
        for b, value in enumerate(values)
    ]
