"""Extremal perturbation: the part of the image of a given area that keeps the score best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.methods.descent import Descended, Steps, Until, descend
from radiolucent.methods.masking import wide
from radiolucent.methods.pieces import Through, cells_of, through
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least

COLDNESS = 20.0
"""Of the smooth maximum: 1 / T."""


@dataclass(frozen=True)
class ExtremalPerturbation:
    """The smooth mask of a given area with the largest effect (Fong, Patrick & Vedaldi, ICCV 2019, eq. 2-5).

        R = m(p*),   p* = argmax e(image through m) - l_i mean_j (sort(m)[j] - r[j])^2,   l_i = weight^(i/n)
        m(p)[u] = smax_v k(|u - v| / width) p[v],   k(z) = exp(-2 max(0, z - 1/2)^2),   r = 0, ..., 0, 1, ..., 1
        e = (S - S(baseline)) / (S(image) - S(baseline))

    p in [0, 1] has `cells` along the longest axis, and u, v are cells; m is interpolated linearly to the image. smax is
    the mean weighted by exp(20 k p), and `area` the share of ones in r. game="delete" instead seeks the area whose loss
    has the largest effect: e of the image through 1 - m is made small. The score is measured by e: 1 for the image, 0
    for the `baseline`. n = `iterations` steps of Adam from all shown, where the authors' code has momentum and an l_i that goes
    from 300 up, for logits: from there, cells that are equal at the start would be dropped by their number and not
    by their effect. The area is sorted over the cells, and the authors' mirrored copies are left out: an organ is
    not its mirror image.

    0 to 1, on the grid of the cells. The area is an answer that you give: run several. A mask says that
    this much suffices (or is missed), not that the rest counts for nothing.
    """

    area: float = 0.1
    game: str = "preserve"
    width: float = 3.0
    cells: int | tuple[int, ...] = 32
    baseline: str = "blur"
    weight: float = 300.0
    step: float = 0.01
    iterations: int = 800
    batch: int = 0

    unit = "mask"

    def __post_init__(self) -> None:
        at_least(self, area=0, width=0, cells=1, weight=1, step=0, iterations=1, batch=0)
        among(self, baseline=baselines.BASELINES, game=("preserve", "delete"))
        if not 0 < self.area < 1:
            raise BadInput("0 < area < 1", f"{self.area}", "0.1 is the default.")

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.detailed(model, x, targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The masks, and for each target the area reached and the parts of the objective on the way."""
        found = through(model, x, targets, self.baseline, self.batch, self._find)
        areas = found.masks[:, 0].flatten(1).mean(1).tolist()
        return found.masks, [{"area": a} | row for a, row in zip(areas, found.rows(("effect", "misfit"), stops=False), strict=True)]

    def _find(self, seen: Through, which: range) -> Descended:
        smooth = Smooth(cells_of(self.cells, seen.x), self.width, seen.x.device)

        def parts(p: Tensor, here: Tensor, i: int) -> Tensor:
            m = smooth(p)
            preserves = self.game == "preserve"
            effect = seen.effect(m if preserves else 1 - m, here + which.start)
            return torch.stack([-effect if preserves else effect, self.weight ** (i / self.iterations) * self.misfit(m)])

        start = wide(seen.x.new_ones(len(which), len(seen.x), 1, *smooth.cells))
        found = descend(start, parts, Steps("adam", self.step), Until(self.iterations), lambda p: p.clamp(0, 1))
        return replace(found, masks=smooth(found.masks))

    def misfit(self, m: Tensor) -> Tensor:
        """Mean square between the sorted cells of masks (k, b, 1, *cells) and r: (k, b)."""
        values = m.flatten(2).sort(dim=2).values
        r = (torch.arange(values.shape[2], device=m.device) >= int(values.shape[2] * (1 - self.area))).to(m)
        return (values - r).square().mean(2)


class Smooth:
    """m(p): each cell is the smooth maximum of those around it, which weigh less the farther they are."""

    def __init__(self, cells: tuple[int, ...], width: float, device: torch.device) -> None:
        self.cells = cells
        reach = [min(ceil(2 * width), n - 1) for n in cells]  # k(2) = 0.01
        offsets = torch.tensor(list(product(*(range(-r, r + 1) for r in reach))), device=device)
        far = offsets.float().norm(dim=1) / max(width, 1e-6)
        offsets, far = offsets[far <= 2], far[far <= 2]
        self.k = torch.exp(-2 * (far - 0.5).clamp(min=0) ** 2)[:, None]
        places = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in cells), indexing="ij"), -1).flatten(0, -2)
        around = offsets[:, None] + places  # (offsets, places, axes)
        size = torch.tensor(cells, device=device)
        outside = ((around < 0) | (around >= size)).any(2)
        strides = torch.tensor([int(torch.tensor(cells[a + 1 :]).prod()) for a in range(len(cells))], device=device)
        self.index = torch.where(outside, len(places), (around * strides).sum(2))  # the last one is 0

    def __call__(self, p: Tensor) -> Tensor:
        flat = torch.nn.functional.pad(p.flatten(2), (0, 1))
        values = self.k.to(p) * flat[..., self.index]
        return ((COLDNESS * values).softmax(2) * values).sum(2).unflatten(2, self.cells).unsqueeze(2)
