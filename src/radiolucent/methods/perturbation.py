"""Scores of many changed copies of an image: the one piece that all perturbation methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from radiolucent.errors import BadInput, warn
from radiolucent.hooks import check_items_apart, mixes_items, out_of_memory
from radiolucent.methods.backward import check_scores
from radiolucent.methods.remembered import Remembered
from radiolucent.methods.watching import tell, watched
from radiolucent.protocols import Additive, Method, Target, adds_up
from radiolucent.tiling import Tiled

Made = TypeVar("Made")

VOXELS = 2**20
"""Of the input, for batch=0: how many share a forward pass. More gain nothing on a processor, and cost its memory."""

NUMBERS = 2**24
"""In the largest tensor on the way, for batch=0, where only a part of the network runs: 64 MiB in single precision."""

COPIES = 16
"""At once at most, for batch=0: on a processor 80 small images in one pass take a sixth longer each than 16."""


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


def in_passes(
    method: Method, model: nn.Module, images: Iterable[Tensor], targets: Target, batch: int, total: int = 0
) -> Iterator[Tensor]:
    """The method's relevance (t, b, c, *cells) of one image (b, c, *grid) after the other; `batch` in a pass, see `share`.

    `total` is the number of images, for whoever watches.
    """
    images, done = iter(images), 0
    tell(done, total)
    while group := list(islice(images, 1)):
        b, one = len(group[0]), group[0][:, 0].numel()
        group += islice(images, 0 if mixes_items(model) else share(batch, one, 2 * VOXELS) - 1)

        def together(which: range, group: list[Tensor] = group, b: int = b) -> Tensor:
            with watched(None):  # what it does for each image would be counted from 0 again
                if len(which) == 1:
                    return method(model, group[which[0]], targets)[None]
                relevance = method(model, torch.cat([group[i] for i in which]), Copies(targets, len(which), b))
            return relevance.unflatten(1, (len(which), b)).movedim(1, 0)

        for _, relevance in in_chunks(len(group), len(group), together, told=False):
            done += len(relevance)
            tell(done, total)
            yield from relevance


def mean(maps: Iterable[Tensor]) -> Tensor:
    """Of maps of one shape, which are added up as they come."""
    total, count = None, 0
    for relevance in maps:
        total = relevance.clone() if total is None else total.add_(relevance)
        count += 1
    assert total is not None
    return total / count


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


def share(batch: int, one: int, most: int) -> int:
    """How many copies go through the model at once: `batch`, or for 0 as many of size `one` as make `most`, up to COPIES."""
    return batch or max(1, min(COPIES, most // max(1, one)))


def per_axis(value: int | tuple[int, ...], x: Tensor, name: str) -> tuple[int, ...]:
    """A setting that is one number for all axes of x's grid, or one for each, as one for each."""
    grid = tuple(x.shape[2:])
    values = (value,) * len(grid) if isinstance(value, int) else tuple(value)
    if len(values) != len(grid):
        raise BadInput(f"{name} as one number, or one for each of the {len(grid)} axes", str(value), f"The grid is {grid}.")
    return values


def in_chunks(count: int, size: int, work: Callable[[range], Made], *, told: bool = True) -> Iterator[tuple[range, Made]]:
    """(which, work(which)) for 0 to count - 1 in ranges of `size`, which is halved wherever memory runs out.

    `work` must not leave anything behind when it fails, since it is then asked again for less. Whoever watches hears
    of each range, unless not `told`.
    """
    if told:
        tell(0, count)
    start, size = 0, min(size, count)
    while start < count:
        which = range(start, min(start + size, count))
        full = ""
        try:
            made = work(which)
        except Exception as error:
            full = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
            if not out_of_memory(error):
                if len(which) == 1 or isinstance(error, BadInput):
                    raise
                size = 1  # an exported model may be bound to its batch
                continue
        if not full:  # outside the handler, whose traceback holds on to the memory
            yield which, made
            start = which.stop
            if told:
                tell(start, count)
        elif len(which) > 1:
            size = len(which) // 2
            warn(f"memory for {len(which)} copies at once ran out ({full}): going on with {size}")
        else:
            raise BadInput("memory for one forward pass of the input", full, "Explain fewer or smaller images at once.")
