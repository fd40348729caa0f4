"""From a scan as stored to the tensor that a model was trained on, and no further.

All geometry is one change of grid, so that a map comes back by its inverse: `Volume.on(the scan's grid)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, Literal, Protocol

import numpy as np

from radiolucent import geometry
from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.volume import Volume


class Prepares(Protocol):
    """What a model wants of a scan: Preprocessing, or the rules of another tool."""

    @property
    def size(self) -> tuple[int, ...] | None:
        """The grid of an input that the model takes, where there is one."""
        ...

    def __call__(self, scan: Volume) -> Volume:
        """The scan as the model takes it, float32 (c, *size); its grid says where it lies."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the provenance."""
        ...


@dataclass(frozen=True)
class Percentile:
    """Linear to [0, 1] between two percentiles of the whole scan's voxels, per channel, clipped."""

    low: float = 1.0
    high: float = 99.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise BadInput("percentiles with 0 <= low < high <= 100", f"{self.low} and {self.high}", "Correct the model card.")

    def __call__(self, data: Array) -> Array:
        flat = data.reshape(len(data), -1)
        low, high = np.percentile(flat, [self.low, self.high], axis=1).reshape(2, -1, *[1] * (data.ndim - 1))
        return np.clip((data - low) / np.where(high > low, high - low, 1), 0, 1)


@dataclass(frozen=True)
class ZScore:
    """Mean 0 and standard deviation 1 over the scan, per channel.

    `nonzero` measures both over voxels above 0 only; `keep_zero` over voxels other than 0, which alone are
    changed.
    """

    nonzero: bool = False
    keep_zero: bool = False

    def __post_init__(self) -> None:
        for name in ("nonzero", "keep_zero"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"true or false for {name}", repr(getattr(self, name)), "Correct the model card.")
        if self.nonzero and self.keep_zero:
            raise BadInput("one of nonzero and keep_zero", "both", "Correct the model card.")

    def __call__(self, data: Array) -> Array:
        return np.stack([self._scaled(channel) for channel in data])

    def _scaled(self, channel: Array) -> Array:
        inside = channel != 0 if self.keep_zero else channel > 0
        part = channel[inside] if (self.nonzero or self.keep_zero) and inside.any() else channel
        mean, deviation = float(part.mean(dtype=np.float64)), float(part.std(dtype=np.float64))
        constant = deviation <= 1e-7 * float(np.abs(part).max())  # no more than rounding
        scaled = (channel - mean) / (1 if constant else deviation)
        return np.where(inside, scaled, channel) if self.keep_zero else scaled


@dataclass(frozen=True)
class Window:
    """Linear to [0, 1] between two fixed values (HU in CT, 0 and 255 in 8-bit images), clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise BadInput("a window with low < high", f"{self.low} and {self.high}", "Correct the model card.")

    def __call__(self, data: Array) -> Array:
        return np.clip((data - self.low) / (self.high - self.low), 0, 1)


Intensity = Percentile | ZScore | Window
_KINDS: dict[str, type[Any]] = {"percentile": Percentile, "zscore": ZScore, "window": Window}


@dataclass(frozen=True)
class Preprocessing:
    """What a model was trained on. Fields that are None leave the scan as it is.

    Args:
        orientation: axes as the model expects them, e.g. "RAS".
        spacing: voxel size in mm.
        size: the model's grid. fit="centre" crops and pads (with 0, after `intensity`) around the
            centre; fit="stretch" scales the whole field of view.
        intensity: how values are scaled, over the whole scan as stored.
        multiple: each axis is padded in front and behind to a multiple of this (the network's total stride).
        around: "grid", or "mask": the model was trained on crops of `size` around the centre of mass of a mask, which a
            scan alone does not have. `crop(scan, mask)` makes them; all else is refused.
    """

    orientation: str | None = None
    spacing: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    fit: Literal["centre", "stretch"] = "centre"
    intensity: Intensity | None = None
    multiple: int | None = None
    around: Literal["grid", "mask"] = "grid"

    def __post_init__(self) -> None:
        if self.orientation is not None:
            geometry.parse_orientation(self.orientation)
        kinds: tuple[tuple[str, Any, str], ...] = (("spacing", Real, "numbers"), ("size", Integral, "whole numbers"))
        for name, kind, word in kinds:
            value = getattr(self, name)
            if value is None:
                continue
            parts = tuple(value) if isinstance(value, Iterable) else ()
            if len(parts) not in (2, 3) or not all(isinstance(part, kind) and 0 < part < math.inf for part in parts):
                raise BadInput(f"{name} as 2 or 3 {word} above zero", f"{parts or value}", "Correct the model card.")
            object.__setattr__(self, name, tuple((float if name == "spacing" else int)(part) for part in parts))
        if len(self._axes) > 1:
            given = f"{self.orientation}, {self.spacing} and {self.size}"
            raise BadInput("orientation, spacing and size for as many axes each", given, "Correct the model card.")
        if self.multiple is not None and not (type(self.multiple) is int and self.multiple > 0):
            raise BadInput("a whole number above 0 for multiple", repr(self.multiple), "Correct the model card.")
        if self.fit not in ("centre", "stretch"):
            raise BadInput('fit "centre" or "stretch"', repr(self.fit), "Correct the model card.")
        if self.around not in ("grid", "mask"):
            raise BadInput('around "grid" or "mask"', repr(self.around), "Correct the model card.")
        if self.around == "mask" and (self.size is None or self.fit == "stretch" or self.multiple):
            raise BadInput('a size with fit "centre" and no multiple, to crop around a mask', f"{self}", "Correct the model card.")

    @property
    def _axes(self) -> set[int]:
        return {len(x) for x in (self.spacing, self.size, self.orientation) if x is not None}

    def grid(self, scan: Grid) -> Grid:
        """The model's grid for a scan on the given grid."""
        if self._axes - {len(scan.shape)}:
            raise BadInput(
                f"an image of {self._axes.pop()} axes, as the model was trained on",
                f"{len(scan.shape)} axes of shape {scan.shape}",
                "Give a volume to a 3D model and an image to a 2D one.",
            )
        grid = self._upright(scan)
        if self.size:
            grid = geometry.coarsen(grid, self.size) if self.fit == "stretch" else geometry.centre(grid, self.size)
        if self.multiple:
            grid = geometry.centre(grid, tuple(-(-n // self.multiple) * self.multiple for n in grid.shape))
        return grid

    def _upright(self, grid: Grid) -> Grid:
        """Turned and respaced, before any change of size."""
        if self.orientation:
            grid = geometry.reorient(grid, self.orientation)
        return geometry.respace(grid, self.spacing) if self.spacing else grid

    def crop(self, scan: Volume, mask: Volume) -> Volume:
        """The scan on the model's grid around the centre of mass of what is above 0 in the mask; values as they are.

        The mask may lie on another grid of the same space. Scaling comes after: it sees the crop alone.
        """
        inside = np.argwhere(mask.data[0] > 0)
        if not len(inside) or self.size is None:
            got = "no voxel above 0" if self.size else "no size to crop to"
            raise BadInput("a mask with voxels above 0 to crop around", got, "Correct the mask, or the preprocessing.")
        centre = mask.affine @ [*inside.mean(0), *[0.0] * (3 - inside.shape[1]), 1.0]
        self.grid(scan.grid)  # refuses another number of axes
        grid = self._upright(scan.grid)
        voxel = (np.linalg.inv(grid.affine) @ centre)[: len(grid.shape)]
        start = tuple(round(float(v) - (n - 1) / 2) for v, n in zip(voxel, self.size, strict=True))
        return scan.on(geometry.window(grid, start, self.size))

    def __call__(self, scan: Volume) -> Volume:
        """The scan as the model takes it: float32 (c, *size)."""
        if self.around == "mask" and self.grid(scan.grid) != self._upright(scan.grid):
            do = "Crop it around its mask first: preprocessing.crop(scan, mask), and save that."
            raise BadInput(f"a crop of {self.size} voxels, as the model was trained on", f"{scan.grid}", do)
        data = self.intensity(scan.data) if self.intensity else scan.data
        return scan.like(np.asarray(data, np.float32)).on(self.grid(scan.grid))

    def as_dict(self) -> dict[str, Any]:
        values = {k: v for k, v in asdict(self).items() if v is not None and k != "intensity" and (k, v) != ("around", "grid")}
        if self.intensity:
            kind = next(k for k, c in _KINDS.items() if isinstance(self.intensity, c))
            values["intensity"] = {"kind": kind, **asdict(self.intensity)}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`; an unknown key is an error that lists the valid ones."""
        if not isinstance(values, Mapping):
            raise BadInput("a table of preprocessing keys", type(values).__name__, "Correct the model card.")
        known = tuple(cls.__dataclass_fields__)
        unknown = [k for k in values if k not in known]
        if unknown:
            raise BadInput(f"preprocessing keys among {', '.join(known)}", f"{unknown}", "Correct the model card.")
        values = {k: v for k, v in values.items() if v is not None}
        if "intensity" in values:
            settings = dict(values["intensity"]) if isinstance(values["intensity"], Mapping) else {"kind": values["intensity"]}
            kind = settings.pop("kind", None)
            if not isinstance(values["intensity"], Mapping) or str(kind) not in _KINDS:
                raise BadInput(f"an intensity kind among {', '.join(_KINDS)}", repr(kind), "Correct the model card.")
            try:
                values["intensity"] = _KINDS[str(kind)](**settings)
            except TypeError as error:
                raise BadInput(f"settings of intensity {kind}", str(error), "Correct the model card.") from None
        return cls(**values)
