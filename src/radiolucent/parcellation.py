"""Anatomy: a label image with names."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from radiolucent.errors import BadInput, warn
from radiolucent.geometry import Grid
from radiolucent.io import read_labels
from radiolucent.io.tables import Name, read_names
from radiolucent.sided import pairs
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

    def hemisphere(self, value: int) -> str:
        return self.names[value].hemisphere if value in self.names else ""

    @cached_property
    def titles(self) -> dict[int, str]:
        """A name for every label of the table that no other label has, whichever of them an image holds.

        "Hippocampus (left)" where both sides are called Hippocampus, "White matter (label 5)" where nothing else differs.
        """
        values = {0, *self.names}
        often = Counter(self.name(v) for v in values)
        sided = {v: f"{self.name(v)} ({self.hemisphere(v)})" if self.hemisphere(v) else self.name(v) for v in values}
        titles = {v: sided[v] if often[self.name(v)] > 1 else self.name(v) for v in values}
        same = Counter(titles.values())
        return {v: title if same[title] == 1 else f"{self.name(v)} (label {v})" for v, title in titles.items()}

    def find(self, region: str | int) -> list[int]:
        """The label values that are called so: one, or both sides of "Hippocampus"; a value stands for itself."""
        if isinstance(region, int):
            found = [region] if region in self.titles else []
        else:
            found = [v for v, title in self.titles.items() if title == region] or [
                v for v, name in self.names.items() if name.name == region
            ]
        if found:
            return found
        known = list(dict.fromkeys(title for v, title in sorted(self.titles.items())))
        close = difflib.get_close_matches(str(region), known, 3, 0.5)
        do = f"Is it {' or '.join(close)}?" if close else "See the table of names."
        raise BadInput(f"one of the regions {', '.join(known[:40])}{' ...' if len(known) > 40 else ''}", repr(region), do)

    def left_right(self) -> list[tuple[str, str]]:
        """The titles of regions that differ in their side alone, by the table's hemispheres or by words in the names (`sided`)."""
        return [(left, right) for _, left, right in pairs((self.titles[v], n.name, n.hemisphere) for v, n in self.names.items())]

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
