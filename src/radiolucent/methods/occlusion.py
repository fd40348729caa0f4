"""Occlusion: cover one window after the other and see how much the score drops."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.hooks import evaluating
from radiolucent.methods.gradient import plain
from radiolucent.protocols import Target
from radiolucent.scoring import VOXELS, in_chunks, scoring, share, unchanged
from radiolucent.settings import among, at_least, per_axis


@dataclass(frozen=True)
class Occlusion:
    """Drop of the score when a window is covered (Zeiler & Fergus, ECCV 2014, section 4.2).

        R[p] = mean of S(x) - S(x covered in w) over the windows w that contain p

    `window` and `stride` in voxels, one number or one per axis; the last window of an axis is cut at the
    edge. `baseline` names what covers (zero, minimum, mean, blur, noise), all channels together. Signed, on
    the input's grid, in steps of the stride. Needs no gradient, so it explains any model, and all targets
    cost as much as one. Where two places can replace each other, covering either alone shows neither.
    Memory: the map, and `batch` images in the forward pass (0: up to 16, of a million voxels together).
    """

    window: int | tuple[int, ...] = 16
    stride: int | tuple[int, ...] = 8
    baseline: str = "zero"
    batch: int = 0

    unit = "score"

    def __post_init__(self) -> None:
        at_least(self, window=1, stride=1, batch=0)
        among(self, baseline=baselines.BASELINES)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        windows = self._windows(x)
        cover = baselines.baseline(self.baseline, x)
        scored = scoring(model, targets)

        def covered(which: range) -> Tensor:
            copies = x.expand(len(which), *x.shape).clone()
            for copy, w in zip(copies, which, strict=True):
                copy[windows[w]] = cover[windows[w]]
            return scored(copies)

        with evaluating(model), torch.no_grad():
            S = unchanged(scored, x)
            total = S.new_zeros(*S.shape, 1, *x.shape[2:])
            count = S.new_zeros(x.shape[2:])
            for which, scores in in_chunks(len(windows), share(self.batch, x[:, 0].numel(), VOXELS), covered):
                for w, drop in zip(which, S - scores, strict=True):
                    total[windows[w]] += drop.reshape(*S.shape, *[1] * (x.ndim - 1))
                    count[windows[w]] += 1
        return total.div_(count)

    def _windows(self, x: Tensor) -> list[tuple[Any, ...]]:
        """Indices of all windows, (..., slice, slice[, slice])."""
        grid = x.shape[2:]
        window, stride = per_axis(self.window, x, "window"), per_axis(self.stride, x, "stride")
        if any(w > n for w, n in zip(window, grid, strict=True)):
            raise BadInput("a window within the image", f"{window} for a grid {tuple(grid)}", "Choose a smaller one.")
        if any(s > w and w < n for s, w, n in zip(stride, window, grid, strict=True)):
            raise BadInput("a stride of at most the window", f"{stride} and {window}", "A larger one leaves gaps.")
        starts = [range(0, n - w + s, s) for n, w, s in zip(grid, window, stride, strict=True)]
        return [(..., *(slice(a, a + w) for a, w in zip(corner, window, strict=True))) for corner in product(*starts)]
