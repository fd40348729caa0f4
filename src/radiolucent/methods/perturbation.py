"""A method on many images of one size, several of them in a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from radiolucent.hooks import mixes_items
from radiolucent.protocols import Method, Target
from radiolucent.scoring import VOXELS, Copies, in_chunks, share, tell, watched


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
