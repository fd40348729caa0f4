"""RISE: show random parts of the image and note which parts go with a high score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.hooks import evaluating
from radiolucent.methods.gradient import plain
from radiolucent.protocols import Target
from radiolucent.scoring import VOXELS, in_chunks, scoring, share
from radiolucent.settings import ANY_SEED, among, at_least, per_axis


@dataclass(frozen=True)
class RISE:
    """Mean score of the masked images that show a place (Petsiuk et al., BMVC 2018, eq. 6).

        R[p] = 1 / (p1 N) sum_i S(x * M_i) M_i[p],   E M_i[p] = p1

    N = `samples`, p1 = `shown`. A mask M in [0, 1] is drawn as coarse cells that are 1 with probability
    p1, interpolated linearly to the grid and shifted at random by less than a cell. `cells` of them lie
    along the longest axis and as many of about that size along the others; or give one number per axis.
    The masked part is filled with `baseline`. The masks come from `seed`, the same for each batch item.

    With `centred`, S has its mean over the masks taken off, so that a place that plays no part gets 0 and R is
    signed: the score while p shows against the score of a mask at random. Without, R is the paper's, an unbiased
    estimate of E[S M[p]] / p1, whose zero means nothing. The noise falls with the root of N. On the input's grid.
    Needs no gradient, so it explains any model, and all targets cost as much as one.
    """

    samples: int = 4000
    cells: int | tuple[int, ...] = 7
    shown: float = 0.5
    centred: bool = True
    baseline: str = "zero"
    seed: int = 0
    batch: int = 0

    unit = "score"

    def __post_init__(self) -> None:
        at_least(self, samples=1, cells=1, shown=0, seed=ANY_SEED, batch=0)
        among(self, baseline=baselines.BASELINES)
        if not 0 < self.shown <= 1:
            raise BadInput("0 < shown <= 1", f"{self.shown}", "0.5 is usual.")

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        reference = baselines.baseline(self.baseline, x)
        masks = _Masks(self, x)
        scored = scoring(model, targets)

        def masked(which: range) -> tuple[Tensor, Tensor]:
            M = torch.stack([masks[i] for i in which])
            return M, scored(torch.stack([baselines.hide(x, 1 - m, reference) for m in M]))

        total: Tensor | None = None
        about: Tensor | float | None = None if self.centred else 0.0  # near the mean score, so that little cancels
        sum_S: Tensor | float = 0.0
        sum_M: Tensor | float = 0.0
        with evaluating(model), torch.no_grad():
            for _, (M, S) in in_chunks(self.samples, share(self.batch, x[:, 0].numel(), VOXELS), masked):
                about = S.mean(0) if about is None else about
                S = S - about
                part = torch.einsum("ktb,k...->tb...", S, M.to(S.dtype))
                total = part if total is None else total.add_(part)
                sum_S, sum_M = sum_S + S.sum(0), sum_M + M.to(S.dtype).sum(0)
        assert total is not None
        if self.centred:
            total -= torch.einsum("tb,...->tb...", sum_S / self.samples, sum_M)
        return total.div_(self.shown * self.samples).unsqueeze(2)


class _Masks:
    """The smooth masks: their cells and shifts are drawn at once, and each is made when it is asked for."""

    def __init__(self, rise: RISE, x: Tensor) -> None:
        grid = tuple(x.shape[2:])
        along = per_axis(rise.cells, x, "cells")
        if isinstance(rise.cells, int):
            along = tuple(max(1, round(rise.cells * n / max(grid))) for n in grid)
        self.grid = grid
        # The paper rounds a cell's size down, after which the masks may not reach the end of the grid.
        sizes = [-(-n // a) for n, a in zip(grid, along, strict=True)]
        generator = torch.Generator().manual_seed(rise.seed)
        shape = (rise.samples, *(a + 1 for a in along))  # one cell more, for the shift
        self.drawn = torch.empty(shape, dtype=torch.bool).bernoulli_(rise.shown, generator=generator)
        self.shifts = torch.stack([torch.randint(0, s, (rise.samples,), generator=generator) for s in sizes], 1).tolist()
        self.linear = [_interpolation(a + 1, s).to(x.device) for a, s in zip(along, sizes, strict=True)]

    def __getitem__(self, i: int) -> Tensor:
        mask = self.drawn[i].to(self.linear[0])
        for matrix, shift, n in zip(self.linear, self.shifts[i], self.grid, strict=True):
            mask = torch.tensordot(mask, matrix[shift : shift + n], dims=([0], [1]))  # the next axis moves to the front
        return mask


def _interpolation(cells: int, size: int) -> Tensor:
    """(cells * size, cells): linear interpolation of each cell's centre to its `size` voxels, ends repeated."""
    eye = torch.eye(cells)[None]
    return torch.nn.functional.interpolate(eye, size=cells * size, mode="linear", align_corners=False)[0].T
