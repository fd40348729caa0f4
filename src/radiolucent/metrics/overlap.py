"""Localisation at a threshold: what is pointed at against what is there.

Throughout, a[p] >= 0 is the relevance mass of voxel p (see Mass: what counts in a signed map), M the mask,
A(t) = {p: a[p] >= t, a[p] > 0} what is pointed at, and t the threshold in the map's own unit (see thresholds).
"""

from __future__ import annotations

from dataclasses import dataclass

from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.prepared import Inside, Score, excess
from radiolucent.metrics.thresholds import cut, parse


@dataclass(frozen=True)
class _Thresholded:
    threshold: str | float = "otsu"

    category = "localisation"
    higher_is_better = True

    def __post_init__(self) -> None:
        parse(self.threshold)

    def overlap(self, inside: Inside) -> tuple[float, int, int, int]:
        """(t, |A & M|, |A|, |M|)"""
        t = cut(inside.mass, self.threshold)
        return t, inside.above(t), inside.mass.above(t), inside.voxels


@dataclass(frozen=True)
class IoA(_Thresholded):
    """Intersection over attention: how much of what is pointed at lies in the mask (M3d-CAM's `ioa`).

        IoA = |A(t) & M| / |A(t)|

    Higher is better; |M| / all voxels is what a blind map gets. It is precision: one voxel pointed at, inside
    the mask, scores 1. M3d-CAM writes 0 for an empty mask and NaN, without a word, for a constant map.
    """

    name = "ioa"

    def __call__(self, inside: Inside) -> Score:
        t, both, pointed, _ = self.overlap(inside)
        return Score(both / _some(pointed), t)


@dataclass(frozen=True)
class WeightedIoA(_Thresholded):
    """Intersection over attention, each voxel weighted by its mass (M3d-CAM's `wioa`).

        wIoA = sum_{p in A(t) & M} (a[p] - min a) / sum_{p in A(t)} (a[p] - min a)

    Higher is better. Subtracting the smallest mass is M3d-CAM's scaling to 0..1, kept so that the values
    agree; maps with zeros are not touched by it. (Its `wiou` divides a weighted part by an unweighted one and
    can say nothing; it has no counterpart here.)
    """

    name = "wioa"

    def __call__(self, inside: Inside) -> Score:
        t, _, pointed, _ = self.overlap(inside)
        _some(pointed)
        whole = excess(inside.mass, t)
        if whole <= 0:
            raise Undefined("the map is the same everywhere")
        return Score(inside.excess(t) / whole, t)


@dataclass(frozen=True)
class IoU(_Thresholded):
    """Intersection over union (Jaccard), M3d-CAM's `iou`.

        IoU = |A(t) & M| / |A(t) | M|

    Higher is better. Coarse maps cannot reach 1 on small masks.
    """

    name = "iou"

    def __call__(self, inside: Inside) -> Score:
        t, both, pointed, masked = self.overlap(inside)
        return Score(both / (pointed + masked - both), t)


@dataclass(frozen=True)
class Dice(_Thresholded):
    """Dice's coefficient, the harmonic mean of precision and recall.

        Dice = 2 |A(t) & M| / (|A(t)| + |M|)

    Higher is better.
    """

    name = "dice"

    def __call__(self, inside: Inside) -> Score:
        t, both, pointed, masked = self.overlap(inside)
        return Score(2 * both / (pointed + masked), t)


def _some(pointed: int) -> int:
    if not pointed:
        raise Undefined("no voxel reaches the threshold")
    return pointed
