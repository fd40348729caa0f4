"""What relevance is added up over, prepared once for all maps on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.parcellation import Parcellation
from radiolucent.regions.shells import Shells, check_distances, shell_names, shells
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Part:
    """What a row is about. `codes` are the values of `Regions.codes` that belong to it."""

    region: str
    label: int
    hemisphere: str
    kind: str
    codes: Array


class Regions:
    """The labels of a parcellation, joined ones, masks that may overlap, and shells around each target.

    Every voxel gets one code for all that it belongs to, so that one pass over a map serves any number of regions.
    The arguments are those of `by_region`.

    The shells of a target (rows of kind "near") are its inside, its outside up to each distance of `near_mm`, and what
    lies beyond: d[v] = distance in mm from the centre of voxel v to that of the target's nearest voxel.
    """

    def __init__(
        self,
        parcellation: Parcellation,
        *,
        joined: Mapping[str, Sequence[str | int]] | None = None,
        masks: Mapping[str, Volume] | None = None,
        targets: Parcellation | Mapping[str, Volume] | Volume | None = None,
        near_mm: Sequence[float] = (),
    ) -> None:
        joined, masks = joined or {}, masks or {}
        self.parcellation = parcellation
        self.grid = parcellation.labels.grid
        self.near_mm = check_distances(near_mm)
        self._targets = parcellation if targets is None else targets
        self._shells: dict[str, Shells] = {}
        self._check_names([*joined, *masks, *shell_names(self.near_mm)])
        values, codes = compact(parcellation.labels.data[0])
        joins = {name: _values(parcellation, name, members) for name, members in joined.items()}
        label_of, bits = np.arange(len(values)), np.zeros((len(values), 0), bool)  # of each code
        for name, mask in masks.items():
            pairs, codes = compact(codes, _inside(mask, self.grid, f"the mask {name!r}"))
            label_of = label_of[pairs >> 1]
            bits = np.column_stack([bits[pairs >> 1], pairs & 1 == 1])
        self.codes = codes
        self.parts = [
            Part(parcellation.titles[v], v, _SIDES.get(parcellation.hemisphere(v), ""), "label", label_of == i)
            for i, v in enumerate(map(int, values))
        ]
        self.parts += [Part(name, -1, "", "joined", np.isin(values[label_of], v)) for name, v in joins.items()]
        self.parts += [Part(name, -1, "", "mask", bits[:, i]) for i, name in enumerate(masks)]

    @cached_property
    def voxels(self) -> Array:
        """How many voxels have each code."""
        most = int(self.codes.max()) + 1
        return sum((np.bincount(plane.reshape(-1), minlength=most) for plane in self.codes), np.zeros(most, np.int64))

    def near(self, target: str) -> Shells | None:
        """The shells around a target, or None where no distance was asked for; made once for each target."""
        if self.near_mm and target not in self._shells:
            self._shells[target] = shells(self._structure(target), self.grid, self.near_mm)
        return self._shells.get(target)

    def _structure(self, target: str) -> Array:
        """Where the target lies, as booleans (*grid)."""
        where = self._targets
        if isinstance(where, Volume):
            return _inside(where, self.grid, "the targets' mask")
        if isinstance(where, Parcellation):
            if where.labels.grid != self.grid:
                raise BadInput(f"targets on the map's grid ({self.grid})", f"{where.labels.grid}", "Use targets.on(grid).")
            labels = where.labels.data[0]
            return np.logical_or.reduce([labels == v for v in where.find(target)]) if target else labels != 0
        if target not in where:
            raise BadInput(f"a mask for the target {target!r}", f"masks for {', '.join(where) or 'none'}", "Add it to `targets`.")
        return _inside(where[target], self.grid, f"the mask of the target {target!r}")

    def _check_names(self, names: Sequence[str]) -> None:
        """Tables are read by the region's name, so each must stand for one thing."""
        known = [*self.parcellation.titles.values(), *names]
        twice = sorted({name for name in names if known.count(name) > 1})
        if twice:
            raise BadInput("a name of its own for each joined region and mask", f"{', '.join(twice)} twice", "Rename it.")


_SIDES = {"left": "L", "right": "R"}


def compact(values: Array, inside: Array | None = None) -> tuple[Array, Array]:
    """Whole numbers (*grid) as the sorted values that occur and, for each voxel, its value's position among them.

    With `inside` (*grid, booleans), of 2 * values + inside. Plane by plane, with a table instead of a sort: labels are
    few, and a sort of 512^3 voxels takes a minute.
    """

    def planes() -> Iterator[Array]:
        for i, plane in enumerate(values):
            wide = plane.astype(np.int64)
            yield wide if inside is None else 2 * wide + inside[i]

    low, high = int(values.min()), int(values.max())
    low, high = (low, high) if inside is None else (2 * low, 2 * high + 1)
    if high - low >= _MOST_VALUES:
        found, codes = np.unique(np.stack(list(planes())), return_inverse=True)
        return found, codes.reshape(values.shape).astype(np.min_scalar_type(len(found)))
    seen = np.zeros(high - low + 1, bool)
    for plane in planes():
        seen[plane - low] = True
    found = np.flatnonzero(seen) + low
    position = (np.cumsum(seen) - 1).astype(np.min_scalar_type(len(found)))
    codes = np.empty(values.shape, position.dtype)
    for i, plane in enumerate(planes()):
        codes[i] = position[plane - low]
    return found, codes


_MOST_VALUES = 1 << 26


def _values(parcellation: Parcellation, name: str, members: Sequence[str | int]) -> list[int]:
    """The label values that a joined region is made of."""
    if isinstance(members, str) or not members:
        raise BadInput(f"a list of regions to join as {name!r}", repr(members), 'For example {"kidneys": ["left", "right"]}.')
    return [value for member in members for value in parcellation.find(member)]


def _inside(mask: Volume, grid: Grid, what: str) -> Array:
    """Where a mask is not 0, as booleans (*grid)."""
    if not isinstance(mask, Volume) or len(mask.data) != 1:
        got = f"{len(mask.data)} channels" if isinstance(mask, Volume) else type(mask).__name__
        raise BadInput(f"a Volume of one channel as {what}", got, "Give Volume(array[None], affine).")
    if mask.grid != grid:
        raise BadInput(f"{what} on the map's grid ({grid})", f"{mask.grid}", "Use mask.on(grid, nearest=True).")
    data = mask.data[0]
    if data.dtype.kind == "f":
        broken = data[data != np.round(data)]  # NaN too
        if len(broken):
            raise BadInput(
                f"whole numbers in {what}, 0 outside", f"values such as {broken[0]:g}", "Was it interpolated? Use mask > 0.5."
            )
    return data != 0
