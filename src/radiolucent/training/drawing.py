"""Which cases, in which order, as which variant: functions of seed, epoch and case alone, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from radiolucent.geometry import Array
from radiolucent.training.augmentation import Augmentation
from radiolucent.training.images import Draw


def mixed(*numbers: int) -> int:
    """One seed of 63 bits out of several numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def order(numbers: Array, weights: Array | None, seed: int, epoch: int) -> list[int]:
    """An epoch's cases: each once, or as many drawn with replacement by their weights."""
    draw = torch.Generator().manual_seed(mixed(seed, epoch, 1))
    if weights is None:
        picked = torch.randperm(len(numbers), generator=draw)
    else:
        picked = torch.multinomial(torch.from_numpy(weights), len(numbers), replacement=True, generator=draw)
    return [int(n) for n in numbers[picked.numpy()]]


def variant(augmentation: Augmentation, number: int, seed: int, epoch: int) -> Draw:
    """A case as it comes in an epoch. Fixed views do not depend on the seed: all seeds share their features."""
    if not augmentation:
        return number, -1
    if augmentation.views:
        return number, mixed(2, number, epoch % augmentation.views)
    return number, mixed(3, seed, epoch, number)


def views(augmentation: Augmentation, numbers: Array) -> list[Draw] | None:
    """All variants that can come; None where they are endless."""
    if augmentation and not augmentation.views:
        return None
    return [variant(augmentation, int(n), 0, epoch) for n in numbers for epoch in range(max(1, augmentation.views))]


def batches(draws: Sequence[Draw], size: int, least: int) -> list[list[Draw]]:
    """In steps of `size`; a last one of fewer than `least` joins the one before, as batch norm needs several."""
    found = [list(draws[start : start + size]) for start in range(0, len(draws), size)]
    if len(found) > 1 and len(found[-1]) < least:
        found[-2:] = [found[-2] + found[-1]]
    return found


def share(batch: Sequence[Draw], rank: int, world: int, parts: int) -> list[tuple[list[Draw], int]]:
    """One process's part of a batch in pieces, and how many cases of each count.

    All processes have pieces of the same sizes: the first cases fill up, and do not count.
    """
    filled = [batch[i % len(batch)] for i in range(-(-len(batch) // world) * world)]
    mine, counting = filled[rank::world], len(range(rank, len(batch), world))
    ends = [len(mine) * part // parts for part in range(parts + 1)]  # even pieces: no last one of a single case
    return [(mine[a:b], min(b, max(a, counting)) - a) for a, b in pairwise(ends) if b > a]


def balancing(labels: Array, task: str) -> Array | None:
    """A weight per case, so that each class is drawn equally often; None in regression.

    Of several labels, each comes more evenly present and absent, not equally often: a case has them all at once.
    """
    if task == "regression":
        return None
    columns = labels[:, None] if task == "classification" else labels
    weight = np.zeros(len(labels))
    for column in columns.T:
        _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        weight += 1 / counts[which]
    return weight / weight.sum()
