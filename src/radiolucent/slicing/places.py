"""Where in a model slices are pooled, and where on the grid each slice lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput
from radiolucent.protocols import Sliced

AXES = ("i", "j", "k")


@dataclass(frozen=True, eq=False)
class Place:
    """The part of a model that pools slices, and the names of the layers on the way.

    stack: through which the features of all slices go.
    weights: through which their weights go; "" where the pooling has none.
    """

    part: Sliced
    stack: str
    weights: str


def find(model: nn.Module, x: Tensor) -> Place:
    """The one part of the model that pools slices of the volumes x; an error in words where there is none."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, Sliced)]
    if len(found) != 1 or x.ndim != 5:
        expected = "a model that pools slices (radiolucent.models.SliceModel), and volumes (b, c, i, j, k)"
        got = f"{type(model).__name__} with {len(found)} such parts, and shape {tuple(x.shape)}"
        raise BadInput(expected, got, "For other models choose a CAM, a gradient or a method that perturbs the input.")
    name, part = found[0]
    before = f"{name}." if name else ""
    return Place(part, f"{before}stack", f"{before}pooling.weights" if hasattr(part.pooling, "weights") else "")


def per_axis(values: Tensor, axes: Sequence[str], grid: Sequence[int]) -> dict[str, Tensor]:
    """Values (..., slices) taken apart: axis -> (..., length of that axis)."""
    parts = values.split([grid[AXES.index(axis)] for axis in axes], -1)
    return dict(zip(axes, parts, strict=True))


def on_grid(maps: Tensor, axis: str, grid: Sequence[int]) -> Tensor:
    """Maps within the slices (..., n, h, w) of one axis as a volume (..., *grid), whose sum is theirs.

    Within a slice each cell's value is shared out among voxels by linear interpolation.
    """
    place = AXES.index(axis)
    rows, columns = (
        _shares(n, g).to(maps) for n, g in zip(maps.shape[-2:], [g for a, g in enumerate(grid) if a != place], strict=True)
    )
    return (rows @ maps @ columns.mT).movedim(-3, place - 3)


def _shares(cells: int, voxels: int) -> Tensor:
    """(voxels, cells): how each cell's value is shared out; columns sum to 1."""
    linear = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], voxels, mode="linear", align_corners=False)[0].T
    reached = linear.sum(0) > 0
    if not reached.all():  # fewer voxels than cells: each goes to the one that it lies in
        linear = torch.zeros(voxels, cells, dtype=torch.float64)
        linear[torch.arange(cells) * voxels // cells, torch.arange(cells)] = 1
    return linear / linear.sum(0)
