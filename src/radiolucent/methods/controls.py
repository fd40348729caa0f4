"""Maps that know nothing of the model: what a real one must beat. They are methods, and no entries of METHODS."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import generic_gradient_magnitude, sobel
from torch import Tensor, nn

from radiolucent.hooks import evaluating
from radiolucent.protocols import Target
from radiolucent.settings import ANY_SEED, at_least


@dataclass(frozen=True)
class RandomMap:
    """Relevance by chance: what any map must beat.

        R[p] ~ N(0, 1)        for each target, image and `seed` another one

    on the input's grid, or with `cells` along each axis (as coarse as a CAM's map, which smooth maps must be compared
    with). It depends on the image as any map does, in that each image has its own, and not on the weights.
    """

    cells: int = 0
    seed: int = 0

    unit = "chance"

    def __post_init__(self) -> None:
        at_least(self, cells=0, seed=ANY_SEED)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        count = _count(model, x, targets)
        grid = tuple(min(self.cells or n, n) for n in x.shape[2:])
        rows = []
        for item in x.detach().cpu().float():
            generator = torch.Generator().manual_seed(zlib.crc32(item.contiguous().numpy().tobytes(), self.seed & 0xFFFFFFFF))
            rows.append(torch.randn((count, 1, *grid), generator=generator))
        return torch.stack(rows, 1).to(x.device)


@dataclass(frozen=True)
class EdgeMap:
    """The image's edges: what maps of networks are easily taken for (Adebayo et al., NeurIPS 2018, section 5).

        R[c, p] = sqrt(sum_axis (sobel_axis x[c])^2 [p])

    On the input's grid, without a sign, the same for every target and any weights; the image's edge is repeated beyond it.
    """

    unit = "intensity per voxel, up to a factor"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        values = x.detach().float().cpu().numpy()
        edges = np.stack([[generic_gradient_magnitude(c, sobel, mode="nearest") for c in item] for item in values])
        return torch.from_numpy(edges).to(x.device).expand(_count(model, x, targets), *edges.shape).clone()


CONTROLS = {"random-map": RandomMap, "edge-map": EdgeMap}
"""By name, for recipes and rows."""


def _count(model: nn.Module, x: Tensor, targets: Target) -> int:
    """How many scores there are: what the model says decides that for some targets."""
    names = targets.names()
    if names:
        return len(names)
    with evaluating(model), torch.no_grad():
        return len(targets(model(x.clone())))
