"""A map and a mask, made ready once for all metrics: one sort of the map serves every mask and every threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.volume import Volume

Part = Literal["positive", "absolute"]


class Score(NamedTuple):
    """A metric's value, and the threshold (in the map's unit) that it was found at, where there is one."""

    value: float
    threshold: float = float("nan")


class Metric(Protocol):
    """A frozen dataclass of hyper-parameters that scores a map against a mask."""

    name: str
    category: str
    higher_is_better: bool

    def __call__(self, inside: Inside) -> Score:
        """The score; raises Undefined where there is none."""
        ...


@dataclass(frozen=True, eq=False)
class Mass:
    """The relevance mass of each voxel p: how much the map points at it, without a sign.

        positive:  a[p] = max(0, sum_c R[c, p])          absolute:  a[p] = sum_c |R[c, p]|

    "positive" (the default) asks where the evidence for the target lies; "absolute" where evidence for or
    against it lies. For a map that is >= 0, as CAMs are, both are the map. Gradients have a sign that
    depends on the intensities, so that "absolute" is the usual choice for them.
    """

    values: Array
    grid: Grid

    @classmethod
    def of(cls, relevance: Volume, part: Part = "positive") -> Mass:
        """Refuses a map that is NaN or infinite in places, or zero everywhere: there is nothing to measure."""
        data = relevance.data.astype(np.result_type(relevance.data.dtype, np.float32), copy=False)
        if part not in ("positive", "absolute"):
            raise BadInput("positive or absolute as the part of the map", repr(part), "Correct it.")
        low, high = data.min(), data.max()  # NaN shows in either
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BadInput("a finite map", "NaN or infinity in it", "Explain again: such a map says nothing.")
        if low == high == 0:
            raise BadInput("a map that is not zero everywhere", "zeros", "Explain again: such a map says nothing.")
        if part == "positive":
            total = data[0] if len(data) == 1 else data.sum(0)
            values = total if len(data) == 1 and low >= 0 else np.maximum(total, 0)
        else:
            values = data[0] if len(data) == 1 and low >= 0 else np.abs(data).sum(0)
        return cls(values, relevance.grid)

    @cached_property
    def ordered(self) -> Array:
        """All values, ascending."""
        return np.sort(self.values, axis=None)

    @cached_property
    def low(self) -> float:
        return float(self.values.min())

    @cached_property
    def high(self) -> float:
        return float(self.values.max())

    @cached_property
    def total(self) -> float:
        return float(self.values.sum(dtype=np.float64))

    def above(self, threshold: float) -> int:
        """How many voxels have a >= threshold; a voxel of 0 has no mass, whatever the threshold."""
        return self.ordered.size - _place(self.ordered, threshold)


@dataclass(frozen=True, eq=False)
class Inside:
    """The mass inside one mask: `index` holds the mask's voxels, as flat indices in ascending order."""

    mass: Mass
    index: Array

    @cached_property
    def ordered(self) -> Array:
        """The values inside, ascending."""
        return np.sort(self.mass.values.reshape(-1)[self.index])

    @property
    def voxels(self) -> int:
        return len(self.index)

    @cached_property
    def total(self) -> float:
        return float(self.mass.values.reshape(-1)[self.index].sum(dtype=np.float64))

    def above(self, threshold: float) -> int:
        return self.voxels - _place(self.ordered, threshold)

    def excess(self, threshold: float) -> float:
        """Sum of a - min(a) over the mask's voxels with a >= threshold."""
        return _excess(self.ordered, threshold, self.mass.low)

    @cached_property
    def curve(self) -> tuple[Array, Array, Array, Array]:
        """For each distinct value v inside, ascending: v, how often it occurs inside, and all voxels < v and <= v.

        Thresholds between them change no true positives, so that these are all a rank metric needs.
        """
        everywhere = self.mass.ordered
        value, count = np.unique(self.ordered, return_counts=True)
        return value, count, np.searchsorted(everywhere, value, "left"), np.searchsorted(everywhere, value, "right")


def insides(mass: Mass, labels: Array, wanted: list[int]) -> Iterator[tuple[int, Inside]]:
    """Each wanted label with its part of the mass; the label image is gone through once."""
    flat = labels.reshape(-1)
    foreground = np.flatnonzero(flat)
    value = flat[foreground]
    order = np.argsort(value, kind="stable")  # so that each label's voxels stay in ascending order
    value, foreground = value[order], foreground[order]
    for label in wanted:
        first, last = np.searchsorted(value, label, "left"), np.searchsorted(value, label, "right")
        yield label, Inside(mass, foreground[first:last])


def excess(mass: Mass, threshold: float) -> float:
    """Sum of a - min(a) over all voxels with a >= threshold."""
    return _excess(mass.ordered, threshold, mass.low)


def _place(ordered: Array, threshold: float) -> int:
    """Where the values >= threshold (and > 0) begin; in the map's own precision, so that nothing is copied."""
    smallest = np.finfo(ordered.dtype).smallest_subnormal
    return int(np.searchsorted(ordered, max(ordered.dtype.type(threshold), smallest), "left"))


def _excess(ordered: Array, threshold: float, low: float) -> float:
    kept = ordered[_place(ordered, threshold) :]
    return float(kept.sum(dtype=np.float64) - low * len(kept))
