"""A target on one part of a model's output, and a part of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from radiolucent.protocols import Additive, Target, adds_up
from radiolucent.targets.overlapping import Overlapping
from radiolucent.targets.parts import part_of
from radiolucent.targets.region import Region
from radiolucent.targets.single import Logits, Outputs


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


def only(target: Target, rows: Sequence[int]) -> Target:
    """A fixed target of these of its scores, in this order; one of a kind that is not known here stays whole."""
    if isinstance(target, Select):
        return replace(target, target=only(target.target, rows))
    if isinstance(target, (Logits, Outputs)) and target.indices:
        return type(target)(*(target.indices[t] for t in rows))
    if isinstance(target, Overlapping):
        weights = tuple(target.weights[t] for t in rows) if target.weights else ()
        return Overlapping(*(target.channels[t] for t in rows), reduce=target.reduce, weights=weights)
    if isinstance(target, Region):
        return target.only(rows)
    return target
