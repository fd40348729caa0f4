"""Targets down, regions across: the frame of every picture that has a value for each two."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from textwrap import wrap
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas import DataFrame

from radiolucent.geometry import Array
from radiolucent.report.depth import literal

LONGEST = 28
MOST_NUMBERS = 12
"""Columns up to which a cell has room for its number."""
_MOST_LEVEL = 6  # columns up to which names stand level, in lines
_LEVEL_INCHES = 1.1


class Matrix(NamedTuple):
    """Targets down, regions across: (key, name) each, and one value for each two."""

    targets: list[str]
    regions: list[tuple[str, str]]
    values: Array

    @classmethod
    def of(cls, labels: DataFrame, targets: list[str], value: str) -> Matrix:
        """From rows with target, label, region and hemisphere; NaN where there is no such row."""
        regions = _regions(labels, targets)
        wide = labels.assign(key=column_keys(labels)).pivot_table(index="target", columns="key", values=value, aggfunc="first")
        return cls(targets, regions, wide.reindex(index=targets, columns=[key for key, _ in regions]).to_numpy(float))

    @property
    def few(self) -> bool:
        """Whether names of regions have room to stand level."""
        return len(self.regions) <= _MOST_LEVEL

    @property
    def alike(self) -> set[tuple[str, str]]:
        """Targets and keys of regions that have one name."""
        return {(target, key) for target in self.targets for key, name in self.regions if name == target}

    def drawn(self) -> tuple[Figure, Axes]:
        """An empty figure with the names in place."""
        names = [name for _, name in self.regions]
        longest = min(LONGEST, max(map(len, names)))
        size = 0.36 if len(names) > MOST_NUMBERS else 0.52
        width = (_LEVEL_INCHES if self.few else size) * len(names) + 0.075 * min(LONGEST, max(map(len, self.targets))) + 2.1
        height = size * len(self.targets) + (0.6 if self.few else 0.075 * longest) + 1.2
        figure = Figure(figsize=(max(width, 5), height), layout="constrained", facecolor="white")
        axis = figure.subplots()
        level = [short(name) for name in names]
        level = ["\n".join(wrap(name, 12)) for name in level] if self.few else level
        axis.set_xticks(range(len(names)), level, rotation=0 if self.few else 90, fontsize=8)
        axis.set_yticks(range(len(self.targets)), [short(target) for target in self.targets], fontsize=8)
        axis.set_xlabel("region where the relevance lies", fontsize=9)
        axis.set_ylabel("target", fontsize=9)
        axis.spines[:].set_visible(False)
        return figure, axis

    def frame(self, axis: Axes, cells: Collection[tuple[str, str]], style: str = "solid") -> None:
        """A frame around the cells of these targets and keys."""
        for row, target in enumerate(self.targets):
            for column, (key, _) in enumerate(self.regions):
                if (target, key) in cells:
                    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#ff4fd8", linewidth=1.6)
                    frame.set(linestyle=style, clip_on=False)
                    axis.add_patch(frame)


def _regions(labels: DataFrame, targets: Sequence[str]) -> list[tuple[str, str]]:
    """Key and name of each region: those of targets in their order, the others by label, the background last."""
    table = labels.assign(key=column_keys(labels), name=named(labels)).drop_duplicates("key")
    place = {target: i for i, target in enumerate(targets)}
    last = len(targets)
    rank = [
        (last + 1, 0, "") if label == 0 else (place.get(region, last), int(label), side)
        for region, label, side in zip(table["region"], table["label"], table["hemisphere"], strict=True)
    ]
    rows = sorted(zip(rank, table["key"], table["name"], strict=True))
    return [(key, name) for _, key, name in rows]


def column_keys(rows: DataFrame) -> list[str]:
    """One per label, also where two labels have one name and side, whose relevance `analysis.sides` adds up."""
    return [f"{label}\0{name}\0{side}" for label, name, side in zip(rows["label"], rows["region"], rows["hemisphere"], strict=True)]


def named(rows: DataFrame) -> list[str]:
    """Names, with the side behind those that two hemispheres share."""
    sides = rows.groupby("region")["hemisphere"].nunique()
    return [
        f"{name} {side}" if sides[name] > 1 else str(name) for name, side in zip(rows["region"], rows["hemisphere"], strict=True)
    ]


def short(name: str) -> str:
    """A name that has room, and is no mathematics to matplotlib; its end stays, where the side often stands."""
    name = str(name)
    return literal(name if len(name) <= LONGEST else f"{name[: LONGEST - 10]}…{name[-9:]}")
