"""What of an image is hidden together: single voxels, cubes, regions, slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from radiolucent.errors import BadInput

AXES = ("i", "j", "k")
OVER = ("voxels", "cubes", "semantic", "supervoxels", "parcellation", *AXES)
"""Single voxels; `cubes` along each axis; what the model predicts; SLIC; a label map of your own; slices along an axis."""


@dataclass(frozen=True, eq=False)
class Units:
    """The voxels of a grid in `count` groups; `code` (*grid) is the number of each voxel's group, None: each is its own."""

    grid: tuple[int, ...]
    count: int
    code: Tensor | None = None

    @classmethod
    def of(cls, labels: Tensor) -> Units:
        """The groups of a label map (*grid); 0 is a group like the others."""
        values, code = torch.unique(labels, return_inverse=True)
        return cls(tuple(labels.shape), len(values), code.cpu())

    @classmethod
    def slices(cls, grid: tuple[int, ...], axis: str) -> Units:
        """The slices along an axis, "i", "j" or "k"."""
        place = AXES.index(axis)
        if place >= len(grid):
            raise BadInput(f"an axis among {', '.join(AXES[: len(grid)])}", repr(axis), f"The grid is {grid}.")
        shape = [-1 if p == place else 1 for p in range(len(grid))]
        return cls(grid, grid[place], torch.arange(grid[place]).reshape(shape).expand(grid))

    def sums(self, values: Tensor) -> Tensor:
        """What (c, *grid) on the processor adds up to in each unit, over the channels too: (count,); sums in double precision."""
        if self.code is None:  # of single voxels in their own, since there may be hundreds of millions
            return values[0].flatten() if len(values) == 1 else values.sum(0).flatten()
        total = values.sum(0, dtype=torch.float64).flatten()
        return total.new_zeros(self.count).index_add_(0, self.code.flatten(), total)

    def where(self, members: Tensor) -> Tensor:
        """The voxels of some units, as booleans (*grid) on the processor."""
        chosen = torch.zeros(self.count, dtype=torch.bool)
        chosen[members.long()] = True
        return chosen.reshape(self.grid) if self.code is None else chosen[self.code]
