"""Grids in the world: affine algebra, and moving data from one grid to another.

A *grid* is a shape and an affine that maps voxel indices to world millimetres in RAS+ (as nibabel
does). Everything that changes a grid is a function Grid -> Grid; `resample` then moves the data once.
A 2D image is a grid of two axes with the same 4x4 affine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from radiolucent.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
_MOST = 1 << 31


@dataclass(frozen=True, eq=False)
class Grid:
    """A shape (2 or 3 axes) and a (4, 4) affine, voxel -> world mm in RAS+."""

    shape: tuple[int, ...]
    affine: Array

    def __eq__(self, other: object) -> bool:
        """Equal shapes, and affines that differ by less than 1e-3 mm at the far corner."""
        if not isinstance(other, Grid) or self.shape != other.shape:
            return False
        far = np.array([*(n - 1 for n in _three(self.shape)), 1.0])
        difference = np.abs(self.affine - other.affine) @ far
        return bool(difference.max() < 1e-3)

    __hash__ = None  # type: ignore[assignment]  # equality has a tolerance, so no hash can agree with it

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis, in mm."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0)[: len(self.shape)].tolist())

    @property
    def orientation(self) -> str:
        """Where each axis points to, as in nibabel: `RAS` runs to the right, front and top."""
        return "".join(_CODES[world][int(sign > 0)] for world, sign in _closest_axes(self))

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3 (of a pixel with its slice thickness, in 2D)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing)
        return f"{size} voxels of {spacing} mm, {self.orientation}"


def check_affine(affine: Array) -> None:
    """Refuse an affine that does not map a grid into the world one to one."""
    if affine.shape != (4, 4) or not (np.abs(affine) < 1e9).all():  # 1000 km; NaN fails too
        raise BadInput(
            "a finite (4, 4) affine in mm",
            np.array2string(affine, precision=3).replace("\n", ""),
            "Mend the header of the file; its geometry cannot be known.",
        )
    if not np.allclose(affine[3], [0, 0, 0, 1]):
        raise BadInput(
            "an affine whose last row is 0 0 0 1", f"{affine[3].tolist()}", "Is it transposed? The translation is its last column."
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if (sizes < 1e-6).any() or abs(np.linalg.det(affine[:3, :3])) < 1e-9 * sizes.prod():
        raise BadInput(
            "an affine that can be inverted, with a voxel size above zero along each axis",
            f"voxel sizes {sizes.round(6).tolist()} mm",
            "Mend the header of the file; its geometry cannot be known.",
        )


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (3 - len(shape))


def _closest_axes(grid: Grid) -> list[tuple[int, int]]:
    """For each axis of the grid, (closest world axis, sign); each world axis is used once."""
    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    left = np.abs(cosines)
    found: dict[int, tuple[int, int]] = {}
    for _ in range(3):
        world, axis = (int(i) for i in np.unravel_index(np.argmax(left), left.shape))
        found[axis] = (world, 1 if cosines[world, axis] > 0 else -1)
        left[world, :] = left[:, axis] = -1.0
    return [found[axis] for axis in range(len(grid.shape))]


def shear(affine: Array) -> float:
    """Largest cosine between two axes: 0 for an orthogonal grid."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _sub(grid: Grid, matrix: Array, offset: Array, shape: tuple[int, ...]) -> Grid:
    """The grid whose voxel v is the given grid's voxel matrix @ v + offset."""
    change = np.eye(4)
    change[:3, :3], change[:3, 3] = matrix, offset
    return Grid(tuple(int(n) for n in shape), grid.affine @ change)


def reorient(grid: Grid, orientation: str) -> Grid:
    """The same voxels with axes that run as `orientation` says, e.g. "RAS". 3D only."""
    if len(grid.shape) != 3:
        raise BadInput("a 3D grid to reorient", f"{grid}", "Leave `orientation` out for 2D images.")
    wanted = parse_orientation(orientation)
    have = {world: (axis, sign) for axis, (world, sign) in enumerate(_closest_axes(grid))}
    matrix, offset, shape = np.zeros((3, 3)), np.zeros(3), [0, 0, 0]
    for new, (world, sign) in enumerate(wanted):
        axis, current = have[world]
        shape[new] = grid.shape[axis]
        matrix[axis, new] = sign * current
        offset[axis] = 0 if sign == current else grid.shape[axis] - 1
    return _sub(grid, matrix, offset, tuple(shape))


def parse_orientation(orientation: str) -> list[tuple[int, int]]:
    """ "RAS" -> for each axis (world axis, sign)."""
    found = [(w, s) for c in str(orientation) for w in (0, 1, 2) for s in (-1, 1) if _CODES[w][s > 0] == c]
    if len(str(orientation)) != 3 or sorted(w for w, _ in found) != [0, 1, 2]:
        raise BadInput(
            "an orientation of three letters, one of R/L, one of A/P, one of S/I", f"{orientation!r}", 'Give for example "RAS".'
        )
    return found


def coarsen(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The grid of another shape over the same field of view (cells of a layer, or a stretched image)."""
    factor = np.array(_three(grid.shape)) / np.array(_three(tuple(shape)))
    return _sub(grid, np.diag(factor), (factor - 1) / 2, tuple(shape))


def respace(grid: Grid, spacing: tuple[float, ...]) -> Grid:
    """The grid of another voxel size (mm) over the same field of view, from the same outer corner."""
    factor = np.ones(3)
    factor[: len(grid.shape)] = np.array(spacing) / np.array(grid.spacing)
    shape = tuple(max(1, round(n / f)) for n, f in zip(grid.shape, factor, strict=False))
    return _sub(grid, np.diag(factor), (factor - 1) / 2, shape)


def centre(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The grid cropped and padded to `shape` around its centre, by whole voxels."""
    return window(grid, tuple((n - m) // 2 for n, m in zip(grid.shape, tuple(shape), strict=True)), shape)


def window(grid: Grid, start: tuple[int, ...], shape: tuple[int, ...]) -> Grid:
    """The `shape` voxels from voxel `start` on; both may reach out of the grid."""
    return _sub(grid, np.eye(3), np.array([*start, 0][:3]), tuple(shape))


def permute(grid: Grid, axes: tuple[int, ...]) -> Grid:
    """The same voxels with the axes in another order: new axis i is the grid's axis axes[i]."""
    matrix = np.eye(3)
    matrix[: len(axes), : len(axes)] = np.eye(len(axes))[:, list(axes)]
    return _sub(grid, matrix, np.zeros(3), tuple(grid.shape[axis] for axis in axes))


def orthonormalise(grid: Grid) -> Grid:
    """The closest grid without shear that covers the same field of view (bounding box of its corners)."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(grid.affine[:3, :3] / spacing)
    straight = np.eye(4)
    straight[:3, :3] = (u @ v) * spacing
    box = np.array([[-0.5, n - 0.5] for n in _three(grid.shape)])
    corners = np.array(np.meshgrid(*box, indexing="ij")).reshape(3, -1)
    world = grid.affine[:3, :3] @ corners + grid.affine[:3, 3:]
    inside = np.linalg.inv(straight[:3, :3]) @ world
    low, high = inside.min(1), inside.max(1)
    shape = np.ceil(high - low - 1e-6).astype(int)
    straight[:3, 3] = straight[:3, :3] @ (low + 0.5)
    return Grid(tuple(shape.tolist())[: len(grid.shape)], straight)


def resample(data: Array, source: Grid, target: Grid, *, nearest: bool = False) -> Array:
    """Values of `data` (c, *source.shape) at the voxel centres of `target`: (c, *target.shape).

    Linear, or `nearest` for labels. Where the target's voxel lies outside the source's field of view,
    0. Between grids that share their voxels (reorient, crop, pad) values are moved, not interpolated.
    """
    given, wanted = _three(source.shape), _three(target.shape)
    if math.prod(wanted) > _MOST:
        raise BadInput(f"a grid of at most {_MOST} voxels", f"{target}, from {source}", "Check the voxel sizes; are they in mm?")
    data = data.reshape(len(data), *given)
    matrix = np.linalg.inv(source.affine) @ target.affine
    whole = matrix.round()
    off = np.abs(matrix - whole)
    turn = np.abs(whole[:3, :3])
    drift = (off @ [*(n - 1 for n in wanted), 1])[:3].max()  # in voxels, at the far corner
    if drift < 1e-3 and (turn.sum(0) == 1).all() and (turn.sum(1) == 1).all():
        out = _move(data, whole, wanted)
    else:
        out = _interpolate(data, np.where(off < 1e-9, whole, matrix), wanted, nearest)
    return out.reshape(len(data), *target.shape)


def _move(data: Array, matrix: Array, shape: tuple[int, ...]) -> Array:
    """resample for a signed permutation and a whole offset: slices only."""
    axes = np.abs(matrix[:3, :3]).argmax(0)
    data = data.transpose(0, *(1 + axes))
    out = np.zeros((len(data), *shape), data.dtype)
    to, fro = [slice(None)], [slice(None)]
    for new, old in enumerate(axes):
        index = np.arange(shape[new]) * int(matrix[old, new]) + int(matrix[old, 3])
        inside = np.flatnonzero((index >= 0) & (index < data.shape[1 + new]))
        if not len(inside):
            return out
        first, last = int(index[inside[0]]), int(index[inside[-1]])
        to.append(slice(int(inside[0]), int(inside[-1]) + 1))
        step = 1 if last >= first else -1
        end = last + step
        fro.append(slice(first, None if end < 0 else end, step))
    out[tuple(to)] = data[tuple(fro)]
    return out


def _interpolate(data: Array, matrix: Array, shape: tuple[int, ...], nearest: bool) -> Array:
    from scipy.ndimage import affine_transform

    inside = affine_transform(np.ones(data.shape[1:], np.uint8), matrix, output_shape=shape, order=0, mode="grid-constant")
    if data.dtype == np.float16:  # which SciPy does not take
        data = data.astype(np.float32)
    kind = data.dtype if nearest else np.float32
    moved = [affine_transform(c, matrix, output_shape=shape, order=int(not nearest), mode="nearest", output=kind) for c in data]
    out = np.stack(moved)
    out[:, inside == 0] = 0
    return out


def upsample(relevance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(t, b, c, *cells) -> (t, b, c, *shape), (tri)linear over the same field of view (align_corners=False)."""
    if tuple(relevance.shape[3:]) == tuple(shape):
        return relevance
    from torch.nn.functional import interpolate

    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    flat = interpolate(relevance.flatten(0, 1), size=tuple(shape), mode=mode, align_corners=False)
    return flat.unflatten(0, relevance.shape[:2])
