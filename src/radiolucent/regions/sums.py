"""Adding up: maps in, piece by piece; rows out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.parcellation import Parcellation
from radiolucent.regions.prepared import Regions
from radiolucent.regions.shells import Shells


class RegionSums:
    """Collects the relevance of several targets by region, from pieces of the maps in any order.

    In memory are the codes of the grid's voxels and two numbers per target and code, whatever the size of the maps.
    float64, so that millions of small values are not lost beside large ones.

    Args:
        regions: what is added up over, on the grid of the maps.
        targets: the targets' names.
    """

    def __init__(self, regions: Regions | Parcellation, targets: Sequence[str]) -> None:
        self.regions = regions if isinstance(regions, Regions) else Regions(regions)
        self.targets = tuple(targets)
        self._near = [self.regions.near(target) for target in self.targets]
        codes = len(self.regions.voxels)
        self._seen = np.zeros(codes, np.int64)
        self._sums = np.zeros((len(self.targets), 2, codes))  # _SIGNED: of e; _MASS: of |e|
        self._shells = [np.zeros((2, len(near.names) if near else 0)) for near in self._near]

    def add(self, slices: Sequence[slice], relevance: Tensor | Array | Sequence[Tensor | Array]) -> None:
        """Relevance (t, c, *piece) of the voxels at `slices` (leading axes of the grid; () is all of it), each voxel once."""
        box = _box(slices, self.regions.grid.shape)
        shape = tuple(s.stop - s.start for s in box)
        shapes = {tuple(each.shape[1:]) for each in relevance}
        if len(relevance) != len(self.targets) or shapes - {shape}:
            expected = f"relevance ({len(self.targets)} targets, channels, *{shape})"
            raise BadInput(expected, f"{len(relevance)} targets on {sorted(shapes)}", "Is it on the grid of the parcellation?")
        step = max(1, _CHUNK * shape[0] // max(1, math.prod(shape)))
        for first in range(0, shape[0], step):
            chunk = slice(first, min(first + step, shape[0]))
            self._add((slice(box[0].start + chunk.start, box[0].start + chunk.stop), *box[1:]), relevance, chunk)

    def _add(self, box: tuple[slice, ...], relevance: Tensor | Array | Sequence[Tensor | Array], chunk: slice) -> None:
        """What fits into the processor's cache: each value is read from memory once for all sums."""
        codes = self.regions.codes[box]
        runs, which = _runs(codes.reshape(-1))
        number = len(self._seen)
        lengths = None if runs is None else np.diff(runs, append=codes.size)
        self._seen += np.bincount(which, lengths, number).astype(np.int64)
        e = np.empty(codes.shape)  # float64; one for all maps, since fresh memory costs as much as the sums
        for t, channels in enumerate(relevance):
            near = _overlap(box, self._near[t])
            for channel in channels:
                _copy(channel[chunk], e)
                for row in (_SIGNED, _MASS):
                    if row == _MASS:
                        np.abs(e, out=e)
                    with np.errstate(invalid="ignore"):  # infinity - infinity; `of` refuses such a sum
                        by_run = e.reshape(-1) if runs is None else np.add.reduceat(e.reshape(-1), runs)
                    self._sums[t, row] += np.bincount(which, by_run, number)
                    if near:
                        shell, here = near
                        self._shells[t][row] += np.bincount(shell, e[here].reshape(-1), len(self._shells[t][row]))

    def rows(self, method: str = "", layer: str = "") -> list[dict[str, Any]]:
        """The rows of all targets."""
        return [
            {"method": method, "layer": layer, "target": target, **row}
            for t, target in enumerate(self.targets)
            for row in self.of(t)
        ]

    def of(self, t: int) -> list[dict[str, Any]]:
        """The rows of target number t. Every voxel must have been added once."""
        voxels = self.regions.voxels
        if (self._seen != voxels).any():
            raise BadInput(
                "each voxel of the grid once", f"{self._seen.sum()} of {voxels.sum()} voxels", "Add every piece of the map, once."
            )
        total = self._sums[t, _MASS].sum()
        if not 0 < total < np.inf:
            where = f" for {self.targets[t]}" if self.targets[t] else ""
            raise BadInput(
                f"relevance{where} that is finite and not zero everywhere", f"a sum of {total}", "There is nothing to share out."
            )
        rows = []
        for part in self.regions.parts:
            about = {"region": part.region, "label": part.label, "hemisphere": part.hemisphere, "kind": part.kind}
            signed, mass = self._sums[t][:, part.codes].sum(1)
            rows.append(about | self._values(signed, mass, total, int(voxels[part.codes].sum())))
        return rows + self._near_rows(t, total)

    def _near_rows(self, t: int, total: float) -> list[dict[str, Any]]:
        near, rows = self._near[t], []
        if near is None:
            return []
        sums = self._shells[t].copy()
        # What lies beyond is the rest of the map, most of which is outside of the shells' box.
        sums[:, -1] = self._sums[t].sum(1) - sums[:, :-1].sum(1)
        for name, (signed, mass), voxels in zip(near.names, sums.T, near.voxels, strict=True):
            about = {"region": name, "label": -1, "hemisphere": "", "kind": "near"}
            mass = mass if near.voxels.any() else np.nan  # nothing is near to a target that is not there
            rows.append(about | self._values(signed, max(mass, abs(signed)), total, int(voxels)))
        return rows

    def _values(self, signed: float, mass: float, total: float, voxels: int) -> dict[str, float | int]:
        every = self.regions.codes.size
        return {
            "mass_fraction": float(mass / total),
            "positive": float((mass + signed) / 2 / total),
            "negative": float((mass - signed) / 2 / total),
            "density": float(mass / voxels) if voxels else np.nan,
            "enrichment": float(mass / total / (voxels / every)) if voxels else np.nan,
            "voxels": voxels,
            "volume_mm3": voxels * self.regions.grid.voxel_mm3,
        }


_SIGNED, _MASS = 0, 1
_CHUNK = 1 << 19  # voxels


def _runs(codes: Array) -> tuple[Array | None, Array]:
    """Where runs of equal codes begin, and the code of each; or None and every code, where runs are too short to pay."""
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    if len(starts) * 8 > len(codes):
        return None, codes.astype(np.intp)
    return starts, codes[starts].astype(np.intp)


def _box(slices: Sequence[slice], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """One slice with start and stop per axis of the grid."""
    if len(slices) > len(shape):
        raise BadInput(f"slices of at most {len(shape)} axes", f"{len(slices)}", "Leave out those of target and channel.")
    given = (*slices, *[slice(None)] * (len(shape) - len(slices)))
    limits = [s.indices(n) for s, n in zip(given, shape, strict=True)]
    if any(step != 1 or stop <= start for start, stop, step in limits):
        raise BadInput(f"slices that hold voxels of {shape}, in steps of 1", f"{tuple(slices)}", "Give slice(start, stop).")
    return tuple(slice(start, stop) for start, stop, _ in limits)


def _overlap(box: tuple[slice, ...], near: Shells | None) -> tuple[Array, tuple[slice, ...]] | None:
    """Of the shells' box and a piece of the grid: the shells' codes, and where the piece has them."""
    if near is None:
        return None
    both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, near.box, strict=True)]
    if any(s.start >= s.stop for s in both):
        return None
    of_piece, of_shells = (
        tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(both, within, strict=True)) for within in (box, near.box)
    )
    return near.codes[of_shells].reshape(-1), of_piece


def _copy(values: Tensor | Array, to: Array) -> None:
    if isinstance(values, Tensor):
        torch.from_numpy(to).copy_(values.detach())
    else:
        np.copyto(to, values, casting="unsafe")
