"""Faithfulness by deletion: how far an output moves when the voxels of highest relevance are taken away first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor, nn

from radiolucent.baselines import blur

Array = NDArray[np.floating]
RANDOM = 3
"""Draws of each random control."""


@dataclass(frozen=True)
class Deletion:
    """Area under the deletion curve, as a mean change of the output.

        D = 1/f[n] integral_0^f[n] |S(x without its first f) - S(x)| / sigma df

    f = the share of the grid's voxels that is taken away, `shares` of them, with straight lines between (0 at f = 0);
    taken away: replaced by the scan through a wide Gaussian (`baselines.blur`). In standard deviations of the output over
    the training data. Higher: what was taken away mattered more. Voxels of equal relevance are taken in a random order.
    """

    shares: tuple[float, ...] = (0.01, 0.03, 0.1)
    batch: int = 16

    def __call__(self, model: nn.Module, x: Tensor, firsts: Array, sigma: Tensor) -> Array:
        """D (k, outputs) for k maps (k, *grid) that say what goes first, of one scan x (1, c, *grid)."""
        n = x[0, 0].numel()
        counts = [max(1, round(share * n)) for share in self.shares]
        with torch.inference_mode():
            plain = model(x)
            changes = [(model(copies) - plain).abs() / sigma for copies in self._copies(x, firsts, counts)]
        change = torch.cat(changes).unflatten(0, (len(firsts), len(counts))).double().numpy()
        from_zero = np.concatenate([np.zeros_like(change[:, :1]), change], 1)
        return np.trapezoid(from_zero, [0.0, *self.shares], axis=1) / self.shares[-1]

    def _copies(self, x: Tensor, firsts: Array, counts: list[int]) -> Iterator[Tensor]:
        """The scan without ever more voxels, for one map after the other."""
        hidden = blur(x).flatten(2)[0]
        shuffle = np.random.default_rng(0).permutation(x[0, 0].numel())
        waiting = []
        for first in firsts:
            values = first.reshape(-1)[shuffle]
            most = np.argpartition(-values, counts[-1] - 1)[: counts[-1]]
            order = shuffle[most[np.argsort(-values[most], kind="stable")]]
            for count in counts:
                copy = x[0].flatten(1).clone()
                copy[:, order[:count]] = hidden[:, order[:count]]
                waiting.append(copy.reshape(x.shape[1:]))
                if len(waiting) == self.batch:
                    yield torch.stack(waiting)
                    waiting = []
        if waiting:
            yield torch.stack(waiting)


def random_orders(shape: tuple[int, ...]) -> dict[str, Array]:
    """Controls that know nothing: single voxels, and patches as a coarse map has them."""
    noise = np.random.default_rng(1).standard_normal((RANDOM, *shape))
    return {"random voxels": noise, "random patches": np.stack([gaussian_filter(each, 2.0) for each in noise])}


def nearest_first(inside: NDArray[np.bool_], shape: tuple[int, ...], spacing: tuple[float, ...]) -> Array:
    """A structure from its inside outwards, on the grid `shape`; `inside` is on that grid or a finer one."""
    blocks = [part for n, m in zip(shape, inside.shape, strict=True) for part in (n, m // n)]
    share = inside.reshape(blocks).mean(tuple(range(1, 2 * len(shape), 2)))
    return share - distance_transform_edt(share == 0, sampling=spacing)
