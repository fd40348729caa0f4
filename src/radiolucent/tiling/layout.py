"""Where windows lie in an image, and how much each has to say at a voxel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from radiolucent.errors import BadInput

Where = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """One window: `where` it lies in the image, and its share `weights` in the output at each of its voxels.

    The weights of all pieces sum to 1 at each voxel of the image, beyond which no piece goes.
    """

    where: Where
    weights: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The part of values (..., *grid) that lies in the window."""
        index: tuple[Any, ...] = (..., *self.where)
        return values[index]


class Layout:
    """Where the windows lie in images of one size."""

    def __init__(self, settings: dict[str, Any], x: Tensor) -> None:
        self.grid = tuple(x.shape[2:])
        self.window = per_axis("window", settings["window"], self.grid)
        overlap = per_axis("overlap", settings["overlap"], self.grid)
        self.size = tuple(map(min, self.window, self.grid))
        before = [(w - s) // 2 for w, s in zip(self.window, self.size, strict=True)]
        after = [w - s - b for w, s, b in zip(self.window, self.size, before, strict=True)]
        self.pads = [pad for pair in reversed(list(zip(before, after, strict=True))) for pad in pair]  # as F.pad wants them
        self.crop: tuple[Any, ...] = (..., *(slice(b, b + s) for b, s in zip(before, self.size, strict=True)))
        starts = _even if settings["blend"] == "nnunet" else _moved_back
        self.starts = [starts(n, s, o) for n, s, o in zip(self.grid, self.size, overlap, strict=True)]
        self.importance = _importance(settings["blend"], self.window, x)[self.crop]

    def pieces(self) -> Iterator[Piece]:
        places = [self._place(corner, self.size) for corner in product(*self.starts)]
        total = self._total(places, self.grid)
        return (Piece(where, self.importance / total[where]) for where in places)

    def bands(self) -> Iterator[Piece]:
        total = self._total([self._place(corner, self.size) for corner in product(*self.starts)], self.grid)
        size = (self.size[0], *self.grid[1:])
        own = self._total([self._place(corner, self.size) for corner in product([0], *self.starts[1:])], size)
        places = [self._place((start, *(0 for _ in size[1:])), size) for start in self.starts[0]]
        return (Piece(where, own / total[where]) for where in places)

    @staticmethod
    def _place(corner: Sequence[int], size: Sequence[int]) -> Where:
        return tuple(slice(a, a + s) for a, s in zip(corner, size, strict=True))

    def _total(self, places: Iterable[Where], grid: Sequence[int]) -> Tensor:
        total = self.importance.new_zeros(tuple(grid))
        for where in places:
            total[where] += self.importance
        return total


def _moved_back(n: int, size: int, overlap: float) -> list[int]:
    """Where windows start along an axis of n voxels: one step after the other, the last moved back to end with the image."""
    step = max(1, int(size * (1 - overlap)))
    return [min(i * step, n - size) for i in range(-(-(n - size) // step) + 1)]


def _even(n: int, size: int, overlap: float) -> list[int]:
    """The same in equal steps, as nnU-Net has them."""
    steps = math.ceil((n - size) / (size * (1 - overlap)))
    return [round(i * (n - size) / max(1, steps)) for i in range(steps + 1)]


def _importance(blend: str, window: Sequence[int], x: Tensor) -> Tensor:
    """g (*window), in single precision at least."""
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    g = torch.ones((), dtype=dtype, device=x.device)
    for w in window:
        middle = w // 2 if blend == "nnunet" else (w - 1) / 2
        place = torch.arange(w, dtype=dtype, device=x.device) - middle
        along = torch.ones_like(place) if blend == "constant" else torch.exp(-((place / (w / 8)) ** 2) / 2)
        g = g[..., None] * along
    return g.clamp(min=1e-8 if blend == "nnunet" else 1e-3)


def all_of(value: Any) -> tuple[Any, ...]:
    """One value, or one for each axis, as a tuple."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def per_axis(name: str, value: Any, grid: Sequence[int]) -> tuple[Any, ...]:
    """A setting that is one number for all axes of a grid, or one for each, as one for each."""
    values = all_of(value) if isinstance(value, Sequence) else (value,) * len(grid)
    if len(values) != len(grid):
        raise BadInput(
            f"{name} as one number, or one for each of {len(grid)} axes", repr(value), f"The image has the grid {tuple(grid)}."
        )
    return values


def rolling(bands: Iterable[Piece], make: Callable[[Piece], list[Tensor]]) -> Iterator[tuple[Where, list[Tensor]]]:
    """The sum of what `make` gives for each band, (..., *band), slab by slab: each as soon as no later band reaches it."""
    upcoming = iter(bands)
    later: Piece | None = next(upcoming)
    rest: list[Tensor] = []  # what the band before has in common with this one
    while (band := later) is not None:
        later = next(upcoming, None)
        made, axis = make(band), -len(band.where)
        for new, old in zip(made, rest, strict=False):
            new.narrow(axis, 0, old.shape[axis]).add_(old)
        rows, *across = band.where
        end = rows.stop if later is None else later.where[0].start
        done, height = end - rows.start, rows.stop - rows.start
        rest = [m.narrow(axis, done, height - done).clone() for m in made]
        slab = [m.narrow(axis, 0, done) for m in made]
        del made
        yield (slice(rows.start, end), *across), slab
        del slab
