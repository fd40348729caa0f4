"""What nnU-Net v2 does to a scan before its network, from the rules that its plans.json names.

Written after nnU-Net's documentation and checked against its own preprocessor (tests/test_nnunet.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from radiolucent import geometry
from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.volume import Volume

_ANISOTROPIC = 3.0  # largest over smallest spacing, above which slices are resampled one by one


@dataclass(frozen=True)
class Channel:
    """How the values of one channel are normalised.

    Args:
        scheme: ZScoreNormalization, CTNormalization, RescaleTo01Normalization, RGBTo01Normalization or
            NoNormalization.
        masked: take mean and deviation within the nonzero region, and leave what lies outside as it is.
        mean, deviation, low, high: of the training set's foreground, for CTNormalization.
    """

    scheme: str
    masked: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.scheme not in _SCHEMES:
            do = "A scheme of your own cannot be known here: preprocess yourself, and write a card."
            raise BadInput(f"a normalisation among {', '.join(_SCHEMES)}", self.scheme, do)

    def __call__(self, data: Array, mask: Array) -> Array:
        return _SCHEMES[self.scheme](self, data, mask)


def _zscore(channel: Channel, data: Array, mask: Array) -> Array:
    part = data[mask] if channel.masked else data
    scaled = (data - part.mean()) / max(part.std(), 1e-8)
    return np.where(mask, scaled, data) if channel.masked else scaled


def _ct(channel: Channel, data: Array, mask: Array) -> Array:
    return (np.clip(data, channel.low, channel.high) - channel.mean) / max(channel.deviation, 1e-8)


def _to_01(channel: Channel, data: Array, mask: Array) -> Array:
    data = data - data.min()
    return data / max(data.max(), 1e-8)


def _rgb(channel: Channel, data: Array, mask: Array) -> Array:
    if data.min() < 0 or data.max() > 255:
        raise BadInput("values from 0 to 255 (RGBTo01Normalization)", f"{data.min():g} to {data.max():g}", "Give the 8-bit image.")
    return data / 255


def _none(channel: Channel, data: Array, mask: Array) -> Array:
    return data


_SCHEMES = {
    "ZScoreNormalization": _zscore,
    "CTNormalization": _ct,
    "RescaleTo01Normalization": _to_01,
    "RGBTo01Normalization": _rgb,
    "NoNormalization": _none,
}


@dataclass(frozen=True)
class NnUNetPreprocessing:
    """nnU-Net's steps in its order: turn the axes, crop to nonzero, normalise, resample, pad.

    Args:
        spacing: voxel size of the configuration in mm, along the network's axes. Two numbers are a 2D
            configuration: a volume keeps its slices as they are, along the first axis; an image has none.
        size: the patch: the smallest grid that the network is given.
        multiple: each axis is padded to a multiple of this (of a 2D network's total stride, as it sees slices whole).
        channels: one normalisation per input channel.
        transpose: the network's axes as a choice among (z, y, x) of the file.
        orientation: "RAS" where the images were reoriented at reading, else None: as stored.
        pictures: files are read as (rows, columns), as PNG and TIFF are.
        order, order_z, separate_z: splines of the resampling, in slices and across them; separate_z None:
            slice by slice where the largest spacing is more than 3 times the smallest.

    nnU-Net then moves a window of `size` over a larger scan, which is Tiled's part, and averages mirrored copies,
    which is left out here. A 2D configuration sees each slice whole.
    """

    spacing: tuple[float, ...]
    size: tuple[int, ...]
    multiple: tuple[int, ...]
    channels: tuple[Channel, ...]
    transpose: tuple[int, ...] = (0, 1, 2)
    orientation: str | None = None
    pictures: bool = False
    order: int = 3
    order_z: int = 0
    separate_z: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        channels = [{k: v for k, v in asdict(c).items() if not (isinstance(v, float) and math.isinf(v))} for c in self.channels]
        return {"kind": "nnunet", **asdict(self), "channels": channels}

    def __call__(self, scan: Volume) -> Volume:
        """The scan as the network takes it; its grid says where each voxel lies in the scan."""
        axes = len(scan.grid.shape)
        if axes < len(self.size):
            raise BadInput("a 3D scan for a 3D configuration of nnU-Net", f"{scan.grid}", "Give a volume.")
        if self.pictures and axes > 2:
            raise BadInput("a 2D image, as the model was trained on", f"{scan.grid}", "Give a picture (PNG, TIFF).")
        if len(scan.data) != len(self.channels):
            do = "nnU-Net keeps one file per channel: give the _0000 file with the others beside it."
            raise BadInput(f"{len(self.channels)} channel(s), as the model was trained on", f"{len(scan.data)}", do)
        turned = scan.on(self._turned(scan.grid))
        data, mask, grid = _cropped(turned.data.astype(np.float32), turned.grid)
        data = np.stack([channel(part, mask) for channel, part in zip(self.channels, data, strict=True)])
        spacing = (*grid.spacing[: axes - len(self.spacing)], *self.spacing)
        shape = tuple(max(1, round(a / b * n)) for a, b, n in zip(grid.spacing, spacing, grid.shape, strict=True))
        axis = _coarse_axis(grid.spacing, spacing, self.separate_z) if axes == 3 else None
        data = resample(data, shape, axis, self.order, self.order_z).astype(np.float32)
        image = Volume(data, geometry.coarsen(grid, shape).affine, scan.has_world, scan.notes)
        return image.on(self._padded(image.grid))

    def _turned(self, grid: Grid) -> Grid:
        """Axes as nnU-Net reads them, (z, y, x) of the file, in the order of the plans."""
        if len(grid.shape) == 2:
            inside = [axis - 1 for axis in self.transpose if axis]  # to nnU-Net an image is a volume of one slice
            return geometry.permute(grid, tuple(axis if self.pictures else 1 - axis for axis in inside))
        grid = geometry.reorient(grid, self.orientation) if self.orientation else grid
        return geometry.permute(grid, tuple(2 - axis for axis in self.transpose))

    def _padded(self, grid: Grid) -> Grid:
        """At least the patch, and a multiple of the stride; the odd voxel comes behind."""
        ones = (1,) * (len(grid.shape) - len(self.size))
        size, multiple = (*ones, *self.size), (*ones, *self.multiple)
        shape = tuple(max(p, -(-n // m) * m) for n, p, m in zip(grid.shape, size, multiple, strict=True))
        return geometry.window(grid, tuple(-((m - n) // 2) for n, m in zip(grid.shape, shape, strict=True)), shape)


def _cropped(data: Array, grid: Grid) -> tuple[Array, Array, Grid]:
    """The box around all voxels that are not 0 in some channel; its mask, with holes filled; its grid."""
    from scipy.ndimage import binary_fill_holes

    mask = (data != 0).any(0)
    mask = binary_fill_holes(mask) if mask.ndim == 3 else mask  # of one slice alone, none is closed
    if not mask.any():
        raise BadInput("a scan with values other than 0", "0 everywhere", "Is it the right file?")
    axes = range(mask.ndim)
    where = [np.flatnonzero(mask.any(tuple(set(axes) - {axis}))) for axis in axes]
    box = tuple(slice(int(w[0]), int(w[-1]) + 1) for w in where)
    mask = mask[box]
    return data[(slice(None), *box)], mask, geometry.window(grid, tuple(b.start for b in box), mask.shape)


def _coarse_axis(old: tuple[float, ...], new: tuple[float, ...], separate: bool | None) -> int | None:
    """The axis across which slices are resampled apart from the others; None where all go together."""
    if separate is False:
        return None
    spacing = old if separate or max(old) / min(old) > _ANISOTROPIC else new
    if separate is None and max(spacing) / min(spacing) <= _ANISOTROPIC:
        return None
    largest = [axis for axis, s in enumerate(spacing) if s == max(spacing)]
    return largest[0] if len(largest) == 1 else None


def resample(data: Array, shape: tuple[int, ...], axis: int | None, order: int, order_z: int) -> Array:
    """(c, *grid) to (c, *shape) over the same field of view by splines, within the range of the values given.

    With an `axis`, each slice across it is resampled on its own, and then the slices are, with `order_z`.
    """
    if data.shape[1:] == shape:
        return data
    data = data.astype(np.float64)
    if axis is None:
        return np.stack([_zoomed(channel, shape, order) for channel in data])
    across = shape[:axis] + shape[axis + 1 :]
    slices = [np.stack([_zoomed(s, across, order) for s in np.moveaxis(channel, axis, 0)], axis) for channel in data]
    return np.stack([_across(channel, shape, axis, order_z) for channel in slices])


def _zoomed(image: Array, shape: tuple[int, ...], order: int) -> Array:
    from scipy.ndimage import zoom

    factors = [m / n for n, m in zip(image.shape, shape, strict=True)]
    out = zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(out, image.min(), image.max())


def _across(image: Array, shape: tuple[int, ...], axis: int, order: int) -> Array:
    from scipy.ndimage import map_coordinates

    if image.shape == shape:
        return image
    places = [(np.arange(m) + 0.5) * (n / m) - 0.5 for n, m in zip(image.shape, shape, strict=True)]
    return map_coordinates(image, np.meshgrid(*places, indexing="ij"), order=order, mode="nearest")
