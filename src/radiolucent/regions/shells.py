"""Context or border? How far from its target relevance lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid, shear


@dataclass(frozen=True, eq=False)
class Shells:
    """A target's inside, the shells around it, and what lies beyond.

    Args:
        box: the part of the grid outside of which everything lies beyond.
        codes: in the box, 0 inside the target, i in its i-th shell, the last number beyond (uint8).
        names: of all shells, from the inside to the beyond.
        voxels: of each, in the whole grid; all 0 where the target has no voxel.
    """

    box: tuple[slice, ...]
    codes: Array
    names: tuple[str, ...]
    voxels: Array


def check_distances(near_mm: Sequence[float]) -> tuple[float, ...]:
    """The distances in rising order."""
    try:
        distances = tuple(sorted({float(k) for k in near_mm}))
    except (TypeError, ValueError):
        distances = (0.0,)
    if not all(0 < k < np.inf for k in distances) or len(distances) > _MOST_SHELLS:
        raise BadInput(f"at most {_MOST_SHELLS} distances above 0 mm", f"{near_mm!r}", "For example near_mm=[5.0].")
    return distances


_MOST_SHELLS = 32


def shell_names(near_mm: Sequence[float]) -> tuple[str, ...]:
    """ "inside the target", "outside, 0 to 5 mm", "outside, beyond 5 mm"."""
    if not near_mm:
        return ()
    steps = zip((0, *near_mm), near_mm, strict=False)
    between = [f"outside, {low:g} to {high:g} mm" for low, high in steps]
    return ("inside the target", *between, f"outside, beyond {near_mm[-1]:g} mm")


def shells(target: Array, grid: Grid, near_mm: Sequence[float]) -> Shells:
    """The shells around a target (*grid, booleans).

    Only the target's bounding box, grown by the largest distance, is looked at: no voxel outside of it is that near.
    """
    names = shell_names(near_mm)
    # A step along an axis moves by at least 1 / (norm of that row of the inverse) away from the planes across it.
    reach = near_mm[-1] * np.linalg.norm(np.linalg.pinv(grid.affine[:3, : target.ndim]), axis=1)
    box: tuple[slice, ...] = ()
    for axis, size in enumerate(target.shape):
        found = np.flatnonzero(target[box].any(axis=tuple(a for a in range(target.ndim) if a != axis)))
        if not len(found):
            none = np.zeros(len(names), np.int64)
            return Shells((slice(0, 0),) * target.ndim, np.zeros((0,) * target.ndim, np.uint8), names, none)
        grow = math.ceil(reach[axis]) + 1
        box += (slice(max(0, int(found[0]) - grow), min(size, int(found[-1]) + grow + 1)),)
    inside = target[box]
    # 1e-6 mm: five voxels of 0.1 mm are half a millimetre, whatever the last bit says
    codes = 1 + np.searchsorted(np.array(near_mm) + 1e-6, _distance(inside, grid, near_mm[-1] + 1e-3)).astype(np.uint8)
    codes[inside] = 0
    voxels = np.bincount(codes.reshape(-1), minlength=len(names))
    voxels[-1] += target.size - codes.size
    return Shells(box, codes, names, voxels)


def _distance(inside: Array, grid: Grid, most: float) -> Array:
    """Distance in mm from each voxel's centre to that of the nearest voxel inside; may be infinite above `most`."""
    if shear(grid.affine) < 1e-3:
        from scipy.ndimage import distance_transform_edt

        return np.asarray(distance_transform_edt(~inside, sampling=grid.spacing))
    # The axes of a sheared grid are not orthogonal: look for the nearest point in the world instead.
    from scipy.spatial import cKDTree

    axes = grid.affine[:3, : inside.ndim]
    distance = np.zeros(inside.shape)
    distance[~inside], _ = cKDTree(np.argwhere(inside) @ axes.T).query(np.argwhere(~inside) @ axes.T, distance_upper_bound=most)
    return distance
