"""The image seen through masks: what the methods share that optimise one on the image itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.hooks import check_follows, check_items_apart, evaluating, mixes_items
from radiolucent.methods.backward import check_differentiable
from radiolucent.methods.descent import Descended
from radiolucent.methods.gradient import check_floating, plain
from radiolucent.methods.masking import own_scores, wide
from radiolucent.protocols import Target
from radiolucent.scoring import VOXELS, check_scores, in_chunks, share
from radiolucent.settings import per_axis


class Through:
    """An image of which masks (1: the image, 0: the baseline) show more or less. scores: the image's own (t, b)."""

    def __init__(self, model: nn.Module, x: Tensor, targets: Target, baseline: str) -> None:
        self.x, self.reference = x, baselines.baseline(baseline, x)
        self._model, self._targets = model, targets
        with torch.no_grad():
            self.scores, self.nothing = (wide(targets(model(image.clone()))) for image in (x, self.reference))
        for scores in (self.scores, self.nothing):
            check_scores(scores, len(x))
        if bool((self.scores == self.nothing).any()):
            got = "the same score of the image and of its baseline for some target"
            raise BadInput("a score that the baseline changes", got, "Choose another baseline.")

    def effect(self, M: Tensor, which: Tensor, shift: tuple[int, ...] = ()) -> Tensor:
        """(S(masked) - S(baseline)) / (S(image) - S(baseline)), (k, b), for masks (k, b, 1, *cells) of the targets `which`.

        The masked image is moved along each axis by `shift` voxels, round the end.
        """
        shown = upsample(M, tuple(self.x.shape[2:]))
        images = torch.lerp(self.reference, self.x, shown.to(self.x.dtype)).flatten(0, 1)
        if any(shift):
            images = images.roll(shift, tuple(range(2, images.ndim)))
        S = own_scores(self._model(images), self._targets, which, len(self.x))
        check_differentiable(S)
        return (S - self.nothing[which]) / (self.scores - self.nothing)[which]


def through(
    model: nn.Module, x: Tensor, targets: Target, baseline: str, batch: int, work: Callable[[Through, range], Descended]
) -> Descended:
    """work(through, which of the targets) for groups of targets, joined."""
    x = plain(x)
    check_floating(x)
    check_items_apart(model, len(x))
    check_follows(model)
    with evaluating(model):
        seen = Through(model, x.clone(), targets, baseline)
        size = 1 if mixes_items(model) else share(batch, x[:, 0].numel(), VOXELS)
        return Descended.joined([found for _, found in in_chunks(len(seen.scores), size, partial(work, seen))])


def cells_of(cells: int | tuple[int, ...], x: Tensor) -> tuple[int, ...]:
    """Cells along each axis: as given, or of one number as many along the longest, and of about that size along the others."""
    grid = tuple(x.shape[2:])
    along = per_axis(cells, x, "cells")
    if isinstance(cells, int):
        along = tuple(max(1, round(cells * n / max(grid))) for n in grid)
    return tuple(min(a, n) for a, n in zip(along, grid, strict=True))
