"""Real scans at low resolution to plant into: any folder of heads, or of anything with air around it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid, reorient
from radiolucent.models.loading.files import sha256
from radiolucent.volume import Volume

_AIR = 0.1
"""Share of the 99th percentile below which a voxel counts as air."""
_NOISE = 0.02


@dataclass(frozen=True, eq=False)
class Head:
    """A scan in RAS on a cube of voxels.

    `image` (*size) is 0 in the air and 1 at the 99th percentile; `depth` is the distance of each voxel from what is not
    head, in voxels (0 outside): a ball of radius r around a voxel of depth > r lies inside.
    """

    name: str
    digest: str
    image: Array
    depth: Array
    affine: Array

    @property
    def size(self) -> int:
        return len(self.image)

    @property
    def grid(self) -> Grid:
        return Grid(self.image.shape, self.affine)

    def varied(self, draw: Generator) -> Head:
        """The head mirrored or not, moved by up to a sixteenth of the grid, brighter or darker, and with noise."""
        step = -1 if draw.random() < 0.5 else 1
        far = self.size // 16
        shift = draw.integers(-far, far + 1, 3)
        image, depth = _moved(self.image[::step], shift), _moved(self.depth[::step], shift)
        image = image * draw.uniform(0.85, 1.15) + _NOISE * draw.standard_normal(image.shape) * (depth > 0)
        return replace(self, image=image.astype(np.float32), depth=np.minimum(depth, _from_border(self.size)))


def scans_folder(given: str | Path | None) -> Path:
    """The folder that was given; else IXI's T1 scans in RADIOLUCENT_DATA."""
    if given is not None:
        return Path(given)
    data = os.environ.get("RADIOLUCENT_DATA", "")
    if not data:
        raise BadInput("a folder of scans to plant into", "none, and RADIOLUCENT_DATA is not set", "Name one with --scans.")
    return Path(data) / "ixi" / "t1"


def read_heads(folder: str | Path, size: int = 24) -> tuple[Head, ...]:
    """All scans of a folder, by name, each on a cube of `size` voxels around what is not air.

    Raises:
        BadInput: fewer than 3 scans, one that is 2D or has several channels, or holds no head.
    """
    folder = Path(folder)
    if not 16 <= size <= 96 or size % 8:
        raise BadInput("16 to 96 voxels a side, a multiple of 8", f"{size}", "24 to 40 are trained in minutes.")
    if not folder.is_dir():
        raise BadInput(f"a folder of scans at {folder}", "nothing there", "Name one with --scans.")
    files = sorted(p for p in folder.iterdir() if io.suffix(p) in io.SUFFIXES and p.is_file() and not p.name.startswith("."))
    if len(files) < 3:
        expected = f"3 scans or more in {folder}, as some are kept for the test"
        raise BadInput(expected, f"{len(files)}", "Name the folder that holds them with --scans.")
    return tuple(head_of(io.read(path), io.stem(path), size, sha256(path)) for path in files)


def head_of(scan: Volume, name: str, size: int, digest: str = "") -> Head:
    """One scan as a Head."""
    if scan.data.ndim != 4 or len(scan.data) != 1:
        raise BadInput(f"a 3D scan of one channel as {name}", f"shape {scan.data.shape}", "Take it out of the folder.")
    upright = scan.on(reorient(scan.grid, "RAS"))
    image = upright.data[0] / max(float(np.percentile(upright.data, 99)), 1e-12)
    body = image > _AIR
    if not 0.01 < body.mean() < 0.95:
        got = f"{body.mean():.0%} of the voxels above a tenth of the brightest"
        raise BadInput(f"a scan with air around something in {name}", got, "Take it out of the folder.")
    grid = _cube(upright.grid, body, size)
    blur = [0.4 * new / old for new, old in zip(grid.spacing, upright.grid.spacing, strict=True)]
    soft = np.clip(ndimage.gaussian_filter(image, blur), 0, 1.5)[None].astype(np.float32)
    coarse = upright.like(soft).on(grid).data[0]
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(coarse > _AIR, 2), iterations=2))[2:-2, 2:-2, 2:-2]
    parts, count = ndimage.label(inside)
    if count > 1:
        inside = parts == 1 + np.argmax(ndimage.sum_labels(inside, parts, range(1, count + 1)))
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    return Head(name, digest, coarse, depth.astype(np.float32), grid.affine)


def parted(heads: Sequence[Head]) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """Heads to train on, and the last third, which only the test sees."""
    kept = max(1, len(heads) // 3)
    if len(heads) - kept < 1:
        raise BadInput("2 heads or more", f"{len(heads)}", "Name a folder with more scans.")
    return tuple(heads[:-kept]), tuple(heads[-kept:])


def _cube(grid: Grid, body: Array, size: int) -> Grid:
    """`size` voxels a side over the bounding box of the body, with a margin."""
    lines = [np.flatnonzero(body.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    middle = np.array([(line[0] + line[-1]) / 2 for line in lines])
    reach = max((line[-1] - line[0] + 1) * mm for line, mm in zip(lines, grid.spacing, strict=True))
    spacing = reach * 1.08 / size
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / np.array(grid.spacing) * spacing
    centre = (grid.affine @ [*middle, 1.0])[:3]
    affine[:3, 3] = centre - affine[:3, :3] @ np.full(3, (size - 1) / 2)
    return Grid((size,) * 3, affine)


def _moved(data: Array, shift: Array) -> Array:
    """Moved by whole voxels, 0 where nothing comes from."""
    far = int(np.abs(shift).max())
    wide = np.pad(data, far)
    return wide[tuple(slice(far - k, far - k + n) for k, n in zip(shift, data.shape, strict=True))]


def _from_border(size: int) -> Array:
    """How far each voxel of a cube is from what lies beyond it."""
    line = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0
    return np.minimum(np.minimum(line[:, None, None], line[None, :, None]), line[None, None, :])
