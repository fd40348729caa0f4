"""A target on one part of a model's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from radiolucent.protocols import Additive, Target, adds_up
from radiolucent.targets.parts import part_of
from radiolucent.targets.region import Region


@dataclass(frozen=True)
class Select:
    """A target on one part of an output that is a dict, tuple or list (`key`: its name or position)."""

    key: str | int
    target: Target

    def __call__(self, output: Any) -> Tensor:
        return self.target(part_of(output, self.key))

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.target.names(classes)

    def fix(self, output: Any) -> Self:
        return replace(self, target=self.target.fix(part_of(output, self.key)))

    def adds_up(self, grid: Sequence[int]) -> bool:
        return adds_up(self.target, grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Self, tuple[int, ...]]:
        assert isinstance(self.target, Additive)
        part, rows = self.target.within(where, factor)
        return replace(self, target=part), rows


def own_labels(target: Target) -> tuple[int, ...]:
    """Each target's label in a segmentation; none for what is no label."""
    if isinstance(target, Select):
        return own_labels(target.target)
    return target.labels if isinstance(target, Region) else ()
