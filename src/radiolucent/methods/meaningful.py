"""Meaningful perturbation: the smallest smooth part of the image whose loss takes the score away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.methods.descent import Descended, Steps, Until, descend
from radiolucent.methods.masking import wide
from radiolucent.methods.pieces import Through, cells_of, through
from radiolucent.protocols import Target
from radiolucent.settings import ANY_SEED, among, at_least


@dataclass(frozen=True)
class MeaningfulPerturbation:
    """What must go for the score to fall (Fong & Vedaldi, ICCV 2017, eq. 6: the deletion game).

        R = 1 - m,   m = argmin area |1 - m|_1 + smooth sum_a |grad_a m|_b^b + E_s e(image through m, moved by s)
        e = (S - S(baseline)) / (S(image) - S(baseline)),   0 <= m <= 1,   b = `power`

    m = 1 shows the image, m = 0 the `baseline`; it has `cells` along the longest axis and is interpolated linearly.
    `area` and `smooth` are the paper's lambda_1 and lambda_2; E is one random move by 0 to `jitter` voxels along each
    axis in each iteration (from `seed`, the same for all targets), so that m does not fit single voxels. `step` is
    Adam's, `iterations` are always done. The paper's score is a class probability; e takes its place for any score: 1
    for the image, 0 for the baseline. It also takes a start that is shown whole, and leaves out the blur of m on top.

    >= 0, on the grid of the cells: R is 1 in what must go. Says what suffices to take the score to that of the baseline,
    not what there is besides: of two places of which one suffices it may show either. It is free to draw
    shapes in the image that mislead the network; the jitter and the coarse cells are there against that.
    """

    area: float = 1e-4
    smooth: float = 1e-2
    power: float = 3.0
    jitter: int = 4
    cells: int | tuple[int, ...] = 28
    baseline: str = "blur"
    step: float = 0.1
    iterations: int = 300
    seed: int = 0
    batch: int = 0

    unit = "share that must go"

    def __post_init__(self) -> None:
        at_least(self, area=0, smooth=0, power=1, jitter=0, cells=1, step=0, iterations=1, seed=ANY_SEED, batch=0)
        among(self, baseline=baselines.BASELINES)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.detailed(model, x, targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The maps, and for each target the parts of the objective on the way."""
        found = through(model, x, targets, self.baseline, self.batch, self._find)
        return 1 - found.masks, found.rows(("area", "smooth", "effect"), stops=False)

    def _find(self, seen: Through, which: range) -> Descended:
        cells, axes = cells_of(self.cells, seen.x), seen.x.ndim - 2
        generator = torch.Generator().manual_seed(self.seed)
        moves = torch.randint(0, self.jitter + 1, (self.iterations + 1, axes), generator=generator).tolist()
        start = wide(seen.x.new_ones(len(which), len(seen.x), 1, *cells))

        def parts(m: Tensor, here: Tensor, i: int) -> Tensor:
            effect = seen.effect(m, here + which.start, tuple(moves[i]))
            return torch.stack([*self.penalties(m), effect])

        return descend(start, parts, Steps("adam", self.step), Until(self.iterations), lambda m: m.clamp(0, 1))

    def penalties(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """The area and the roughness of masks (k, b, 1, *cells), weighted: (k, b) each."""
        rough = sum((m.diff(dim=axis).abs() ** self.power).flatten(2).sum(2) for axis in range(3, m.ndim))
        return self.area * (1 - m).abs().flatten(2).sum(2), self.smooth * torch.as_tensor(rough)
