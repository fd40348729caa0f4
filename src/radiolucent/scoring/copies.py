"""Scores of many changed copies of an image: what all share that ask the model about such copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from radiolucent.errors import BadInput
from radiolucent.hooks import check_items_apart, mixes_items
from radiolucent.protocols import Additive, Target, adds_up
from radiolucent.scoring.chunks import in_chunks
from radiolucent.scoring.remembered import Remembered
from radiolucent.tiling import Tiled


def score(model: Callable[[Tensor], Any], copies: Tensor, targets: Target) -> Tensor:
    """Scores (k, t, b) of copies (k, b, ...) of a batch, in float32 at least, from one forward pass.

    Each copy's part of the output meets the targets alone, since their masks belong to its b items.
    The model may write into `copies`.
    """
    k, b = copies.shape[:2]
    if isinstance(model, nn.Module):
        check_items_apart(model, b)
        if k > 1 and mixes_items(model):
            return torch.cat([score(model, copy[None], targets) for copy in copies])
    scores = Copies(targets, k, b)(model(copies.flatten(0, 1)))
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).unflatten(1, (k, b)).movedim(1, 0).contiguous()


def scoring(model: nn.Module, targets: Target) -> Callable[[Tensor], Tensor]:
    """`score` of one model and its targets, for all chunks of copies of one explanation.

    Of a model that predicts in windows, and targets that are a sum over voxels, a window whose content came before is
    not predicted again: neither one that no perturbation touches nor one that looks as it did in another copy.
    """
    remembered = Remembered(model, targets) if isinstance(model, Tiled) and isinstance(targets, Additive) else None

    def scored(copies: Tensor) -> Tensor:
        if remembered is None or not adds_up(targets, copies.shape[3:]):
            return score(model, copies, targets)
        check_items_apart(model, copies.shape[1])
        scores = remembered(copies)
        for row in scores:
            check_scores(row, copies.shape[1])
        return scores

    return scored


@dataclass(frozen=True, eq=False)
class Copies:
    """Targets for k copies of a batch of b in a row, each of which meets `targets` alone: scores (t, k * b)."""

    targets: Target
    k: int
    b: int

    def __call__(self, output: Any) -> Tensor:
        scores = [self.targets(part) for part in _parts(output, self.k, self.b)]
        for each in scores:
            check_scores(each, self.b)
        return torch.cat(scores, 1)

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.targets.names(classes)

    def fix(self, output: Any) -> Copies:
        return self

    def adds_up(self, grid: Sequence[int]) -> bool:
        return adds_up(self.targets, grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Copies, tuple[int, ...]]:
        assert isinstance(self.targets, Additive)
        part, rows = self.targets.within(where, factor)
        return replace(self, targets=part), rows


def unchanged(scored: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Scores (t, b) of x itself, by what `scoring` gives."""
    ((_, scores),) = in_chunks(1, 1, lambda _: scored(x[None].clone()), told=False)
    return scores[0]


def _parts(output: Any, k: int, b: int) -> list[Any]:
    """The output, whatever it consists of, as k outputs of b items each."""
    if k == 1:
        return [output]
    leaves, form = pytree.tree_flatten(output)

    def parts(o: Any) -> Sequence[Any]:
        # Unbound in one go, whose backward pass is one copy; each slice's own would fill the whole with zeros.
        along = isinstance(o, Tensor) and o.ndim > 0 and len(o) == k * b
        return o.unflatten(0, (k, b)).unbind(0) if along else [o] * k

    return [pytree.tree_unflatten(list(part), form) for part in zip(*map(parts, leaves), strict=True)]


def check_scores(scores: Tensor, batch: int) -> None:
    """Refuse what is not one finite score per target and batch item."""
    if scores.ndim != 2 or scores.shape[1] != batch or not len(scores):
        raise BadInput(
            f"scores of shape (targets, {batch}): one per target and batch item",
            f"shape {tuple(scores.shape)}",
            "Does the model keep the batch axis? A squeeze() drops it for a single image.",
        )
    if not torch.isfinite(scores).all():
        raise BadInput("finite scores", f"{scores.detach().tolist()}", "Check the weights and the input's intensities.")
