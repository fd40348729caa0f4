"""Changed copies of an image, as values: two that are equal are one evaluation of the model, whoever asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from radiolucent import baselines
from radiolucent.metrics.faithfulness.units import Units

Cubes = int | tuple[int, ...]


class Witness(Protocol):
    """The model on one image x (1, c, *grid), as a check sees it: what changed copies of the image are made from."""

    x: Tensor

    def units(self, over: str, cubes: Cubes) -> Units:
        """What is hidden together."""
        ...

    def reference(self, baseline: str) -> Tensor:
        """What it is hidden by, (1, c, *grid)."""
        ...


class Changed(Hashable, Protocol):
    """How a copy differs from the image."""

    def of(self, witness: Witness) -> Tensor:
        """The copy, (1, c, *grid)."""
        ...


@dataclass(frozen=True)
class Unchanged:
    """The image itself."""

    def of(self, witness: Witness) -> Tensor:
        return witness.x.clone()


@dataclass(frozen=True)
class Gone:
    """Nothing but the baseline."""

    baseline: str

    def of(self, witness: Witness) -> Tensor:
        return witness.reference(self.baseline).clone()


@dataclass(frozen=True)
class Drawn:
    """The image with `size` of its units hidden, which chance chose: the same for every map and target."""

    over: str
    cubes: Cubes
    baseline: str
    size: int
    seed: int
    number: int

    def members(self, units: Units) -> Tensor:
        generator = np.random.default_rng((self.seed, self.number))
        return torch.from_numpy(generator.choice(units.count, self.size, replace=False, shuffle=False))

    def of(self, witness: Witness) -> Tensor:
        units = witness.units(self.over, self.cubes)
        return _hidden(witness, units.where(self.members(units)), self.baseline)


class Order:
    """Units from the highest to the lowest relevance. Maps that rank alike have equal orders, and share their copies."""

    def __init__(self, relevance: Tensor, seed: int) -> None:
        """Of units of equal relevance (count,), chance decides: their places would else be an order of their own."""
        shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(len(relevance)))
        self.ranked = shuffled[relevance[shuffled].argsort(descending=True, stable=True)].int()

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self.ranked.cpu().numpy().tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __len__(self) -> int:
        return len(self.ranked)


@dataclass(frozen=True)
class Top:
    """The image with the first `count` units of an order hidden, or with all the others hidden (`alone`)."""

    over: str
    cubes: Cubes
    baseline: str
    order: Order
    count: int
    alone: bool

    def of(self, witness: Witness) -> Tensor:
        first = witness.units(self.over, self.cubes).where(self.order.ranked[: self.count])
        return _hidden(witness, ~first if self.alone else first, self.baseline)


def without(over: str, cubes: Cubes, baseline: str, order: Order, count: int) -> Changed:
    """The image without the first `count` units of an order."""
    return Unchanged() if not count else Gone(baseline) if count == len(order) else Top(over, cubes, baseline, order, count, False)


def only(over: str, cubes: Cubes, baseline: str, order: Order, count: int) -> Changed:
    """The first `count` units of an order, and else the baseline."""
    return Gone(baseline) if not count else Unchanged() if count == len(order) else Top(over, cubes, baseline, order, count, True)


def _hidden(witness: Witness, where: Tensor, baseline: str) -> Tensor:
    return baselines.hide(witness.x, where.to(witness.x.device), witness.reference(baseline))
