"""Volume: an array that knows where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid, check_affine, resample


@dataclass(frozen=True, eq=False)
class Volume:
    """`data` (C, *grid) with its (4, 4) `affine`, voxel -> world mm in RAS+ (nibabel's convention).

    `has_world` is False where the source defines no anatomical space (a PNG, a bare array): the affine
    then holds voxel sizes only, and pictures carry no orientation marks. `notes` are the remarks
    that reading it gave rise to; they travel with the data into reports.
    """

    data: Array
    affine: Array = field(default_factory=lambda: np.eye(4))
    has_world: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            data = np.asarray(self.data)
            affine = np.array(self.affine, np.float64)  # a copy: the caller's may change
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(
                "an array as data and a (4, 4) affine", str(error), "For a tensor: tensor.detach().cpu().numpy()."
            ) from None
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)
        if data.dtype.kind not in "biuf":
            raise BadInput("real numbers as data", f"dtype {data.dtype}", "Convert it: one channel, or the magnitude.")
        if data.ndim not in (3, 4) or 0 in data.shape:
            raise BadInput(
                "data of shape (channels, *grid) with a grid of 2 or 3 axes, none empty",
                f"shape {data.shape}",
                "Add a channel axis in front: data[None].",
            )
        check_affine(affine)

    @property
    def grid(self) -> Grid:
        return Grid(tuple(self.data.shape[1:]), self.affine)

    def like(self, data: Array) -> Volume:
        """Other data (C', *grid) on this grid; another grid is refused."""
        if data.shape[1:] != self.data.shape[1:]:
            raise BadInput(
                f"data on the grid {self.grid.shape}",
                f"data of shape {data.shape} (channels first)",
                "Resample it with `.on(grid)` first.",
            )
        return Volume(data, self.affine, self.has_world)

    def on(self, grid: Grid, *, nearest: bool = False) -> Volume:
        """The same image on another grid; 0 where that grid reaches out of this one."""
        if len(grid.shape) != self.data.ndim - 1:
            raise BadInput(f"a grid of {self.data.ndim - 1} axes", f"{grid}", "2D and 3D do not mix.")
        return Volume(resample(self.data, self.grid, grid, nearest=nearest), grid.affine, self.has_world, self.notes)

    def noted(self, *notes: str) -> Volume:
        return Volume(self.data, self.affine, self.has_world, self.notes + notes)

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Volume)
            and self.data.dtype == other.data.dtype
            and np.array_equal(self.data, other.data)
            and self.grid == other.grid
            and self.has_world == other.has_world
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable

    def __repr__(self) -> str:
        return f"Volume({len(self.data)} x {self.grid}, {self.data.dtype})"
