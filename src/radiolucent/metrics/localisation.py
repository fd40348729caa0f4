"""Localisation without a threshold: peaks, shares and ranks of the relevance against a mask.

Throughout, a[p] >= 0 is the relevance mass of voxel p (see Mass: what counts in a signed map), and M the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.prepared import Inside, Score


@dataclass(frozen=True)
class PointingGame:
    """Does the map's peak lie in the mask, or within `tolerance_mm` of it (Zhang et al., IJCV 2018)?

        PG = 1 if min_{q in M} |argmax a - q| <= tolerance, else 0        distances between voxel centres, in mm

    Higher is better; the mean over cases is the hit rate. Where several voxels share the maximum, the share of
    them that hit (what a random choice among them gives). Blind to all but the peak.
    """

    tolerance_mm: float = 0.0

    name = "pointing-game"
    category = "localisation"
    higher_is_better = True

    def __post_init__(self) -> None:
        if not 0 <= float(self.tolerance_mm) < float("inf"):
            raise BadInput("a tolerance of 0 mm or more", repr(self.tolerance_mm), "Correct it.")

    def __call__(self, inside: Inside) -> Score:
        mass = inside.mass
        peaks = np.flatnonzero(mass.values.reshape(-1) == mass.high)
        hit = np.isin(peaks, inside.index, assume_unique=True)
        if self.tolerance_mm and not hit.all():
            near = cKDTree(_world(inside, inside.index)).query(_world(inside, peaks[~hit]))[0]
            hit[~hit] = near <= self.tolerance_mm + 1e-6
        return Score(float(hit.mean()), mass.high)


@dataclass(frozen=True)
class EnergyPointingGame:
    """The share of the mass that lies in the mask (Score-CAM's energy-based pointing game, Wang et al., CVPRW 2020).

        EPG = sum_{p in M} a[p] / sum_p a[p]

    Higher is better; |M| / all voxels is what a constant map gets. The same as the relevance mass accuracy of
    Arras et al. (Information Fusion 2022). Needs no threshold; much faint relevance weighs as
    much as little strong relevance.
    """

    name = "energy-pointing-game"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        return Score(inside.total / inside.mass.total)


@dataclass(frozen=True)
class Enrichment:
    """How many times denser the mass is inside the mask than over all (Kohlbrenner et al., IJCNN 2020).

        E = (sum_{p in M} a[p] / sum_p a[p]) / (|M| / all voxels)

    Higher is better, 1 is chance, all voxels / |M| the most. Comparable between masks of different size, where
    the energy pointing game is not; it depends on how much background the image has.
    """

    name = "enrichment"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        mass = inside.mass
        return Score(inside.total / mass.total / (inside.voxels / mass.values.size))


@dataclass(frozen=True)
class MassConcentration:
    """The share of the mass on the mask's side of the image (SE3D's code; Wisniewski et al., arXiv 2405.14584).

        MC = sum_{p in H} a[p] / sum_{p in H or the other half} a[p]        H the half that holds M

    Halves along the grid's longest axis, without the slice in the middle of an odd number. Higher is better, 0.5 is
    chance. Undefined for a mask that reaches into both halves: it is meant for lesions of one hemisphere.
    """

    name = "mass-concentration"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        values = inside.mass.values
        axis = int(np.argmax(values.shape))
        along = np.unravel_index(inside.index, values.shape)[axis]
        half, length = values.shape[axis] // 2, values.shape[axis]
        first, last = bool((along < half).any()), bool((along >= length - half).any())
        if first == last:
            where = "reaches into both halves" if first else "lies in the middle slice"
            raise Undefined(f"the mask {where} of the image")
        moved = np.moveaxis(values, axis, 0)
        sums = [float(part.sum(dtype=np.float64)) for part in (moved[:half], moved[length - half :])]
        if sum(sums) == 0:
            raise Undefined("there is no mass in either half")
        return Score(sums[0 if first else 1] / sum(sums))


@dataclass(frozen=True)
class RankAccuracy:
    """Of as many voxels as the mask has, taken by their mass, how many lie in it (Arras et al., Information Fusion 2022).

        RRA = |P & M| / K        P = the K voxels of highest mass, K = |M|

    Higher is better; |M| / all voxels is chance. Where voxels of equal mass compete for the last places,
    they share them (what a random order among them gives), so that the value does not depend on their order.
    """

    name = "rank-accuracy"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        everywhere, here, k = inside.mass.ordered, inside.ordered, inside.voxels
        t = everywhere[everywhere.size - k]
        low, high = (int(np.searchsorted(everywhere, t, side)) for side in ("left", "right"))
        low_in, high_in = (int(np.searchsorted(here, t, side)) for side in ("left", "right"))
        places = k - (everywhere.size - high)  # what is left for the voxels of value t
        return Score(((k - high_in) + (high_in - low_in) * places / (high - low)) / k, float(t))


@dataclass(frozen=True)
class AveragePrecision:
    """Area under the precision-recall curve of the mass as a detector of the mask's voxels (SE3D's VxAP).

        AP = sum_k (recall_k - recall_{k-1}) precision_k        over all distinct thresholds, downwards

    Higher is better; |M| / all voxels is chance. No threshold is chosen and no scale matters, only the order of
    the voxels. Exact, equal values included, as in scikit-learn.
    """

    name = "average-precision"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        _, count, below, _ = inside.curve
        true = _from_above(count)
        return Score(float((count * (true / (inside.mass.values.size - below))).sum() / inside.voxels))


@dataclass(frozen=True)
class MaxF1:
    """The best F1 (Dice) over all thresholds, with the threshold that gives it (SE3D).

        MaxF1 = max_t 2 |A'(t) & M| / (|A'(t)| + |M|)        A'(t) = {p: a[p] >= t}

    Higher is better. An upper bound: the threshold is chosen with the mask in hand.
    """

    name = "max-f1"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        value, count, below, _ = inside.curve
        f1 = 2 * _from_above(count) / (inside.mass.values.size - below + inside.voxels)
        best = int(np.argmax(f1))
        return Score(float(f1[best]), float(value[best]))


@dataclass(frozen=True)
class AUROC:
    """Chance that a voxel of the mask has more mass than one outside it, equal ones counting half.

        AUROC = sum_{p in M, q not in M} ([a[p] > a[q]] + [a[p] = a[q]] / 2) / (|M| |not M|)

    Higher is better, 0.5 is chance. On small masks it is close to 1 for poor maps too: see average precision.
    """

    name = "auroc"
    category = "localisation"
    higher_is_better = True

    def __call__(self, inside: Inside) -> Score:
        _, count, below, up_to = inside.curve
        outside = inside.mass.values.size - inside.voxels
        if not outside:
            raise Undefined("the mask covers the whole image")
        lower = below - (count.cumsum() - count)  # voxels outside with less mass, and with as much
        equal = up_to - below - count
        return Score(float((count * (lower + equal / 2)).sum() / (inside.voxels * outside)))


def _from_above(count: Array) -> Array:
    """How many are at or above each value."""
    return count[::-1].cumsum()[::-1]


def _world(inside: Inside, index: Array) -> Array:
    """Voxel centres in mm, (n, 3)."""
    grid = inside.mass.grid
    places = np.zeros((len(index), 3))
    places[:, : len(grid.shape)] = np.stack(np.unravel_index(index, grid.shape), 1)
    return places @ grid.affine[:3, :3].T
