"""Landmarks: places that have a name, as masks on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.volume import Volume

Mask = NDArray[np.bool_]


def from_volume(mask: Volume, grid: Grid) -> Mask:
    """Where a mask of one channel is not 0, on the map's grid; another grid is refused."""
    if len(mask.data) != 1 or mask.grid.shape != grid.shape or (mask.has_world and mask.grid != grid):
        raise BadInput(f"a mask of one channel on {grid}", f"{mask!r}", "Resample it: mask.on(grid, nearest=True).")
    return mask.data[0] != 0


def from_points(points: Sequence[Sequence[float]], grid: Grid, radius_mm: float) -> Mask:
    """All voxels whose centre lies within `radius_mm` of one of the points, given in voxels (row, column, ...).

    In an image without a world a voxel is 1 mm.
    """
    places = _numbers(points, grid, "points")
    if not 0 < radius_mm < float("inf"):
        raise BadInput("a radius above 0 mm", repr(radius_mm), "Correct it.")
    index = np.indices(grid.shape).reshape(len(grid.shape), -1).T
    step = grid.affine[:3, : len(grid.shape)].T  # mm per voxel
    inside = np.zeros(len(index), bool)
    for point in places:
        inside |= np.linalg.norm((index - point) @ step, axis=1) <= radius_mm + 1e-6
    return inside.reshape(grid.shape)


def from_box(low: Sequence[float], high: Sequence[float], grid: Grid) -> Mask:
    """The voxels whose centres v fulfil low <= v <= high along every axis."""
    (low, high) = _numbers([low, high], grid, "two corners")
    if (np.asarray(low) > np.asarray(high)).any():
        raise BadInput("a box from its low corner to its high one", f"{list(low)} and {list(high)}", "Change them round.")
    mask = np.ones(grid.shape, bool)
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        along = np.arange(grid.shape[axis])
        mask &= ((along >= a) & (along <= b)).reshape([-1 if d == axis else 1 for d in range(len(grid.shape))])
    return mask


def from_polygons(polygons: Sequence[Sequence[Sequence[float]]], grid: Grid) -> Mask:
    """The pixels of a 2D grid whose centre lies inside one of the polygons, each a list of corners (row, column)."""
    if len(grid.shape) != 2:
        raise BadInput("a 2D grid for polygons", f"{grid}", "Give a mask.")
    from matplotlib.path import Path

    centres = np.indices(grid.shape).reshape(2, -1).T
    inside = np.zeros(len(centres), bool)
    for corners in polygons:
        inside |= Path(_numbers(corners, grid, "corners")).contains_points(centres)
    return inside.reshape(grid.shape)


def checked(landmarks: Mapping[str, Mask], shape: tuple[int, ...]) -> dict[str, Mask]:
    """The masks, if they are boolean and of this shape."""
    for name, mask in landmarks.items():
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != shape:
            got = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')} for {name!r}"
            raise BadInput(f"boolean masks of shape {shape}", got, "See from_volume, from_points, from_box, from_polygons.")
    return dict(landmarks)


def _numbers(values: Sequence[Sequence[float]], grid: Grid, what: str) -> Array:
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = np.empty(())
    if found.ndim != 2 or found.shape[1] != len(grid.shape) or not len(found) or not np.isfinite(found).all():
        raise BadInput(f"{what} with {len(grid.shape)} finite numbers each, in voxels", f"{values!r:.80}", "Correct them.")
    return found
