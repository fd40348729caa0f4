"""Targets that wait for what the model says about the unperturbed image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from radiolucent.protocols import Additive, Target, adds_up
from radiolucent.targets.parts import detached
from radiolucent.targets.select import Select


class Deciding:
    """Targets that the first output decides: `decide(output)` gives them, fixed; `scores` keeps what they said then.

    That output is the unperturbed image's, since every first-order pass starts with it.
    """

    def __init__(self, decide: Callable[[Any], Target]) -> None:
        self.decide = decide
        self.scores: Tensor | None = None
        self._target: Target | None = None

    @classmethod
    def decided(cls, target: Target) -> Deciding:
        """Targets that are fixed already; their scores are kept all the same."""
        self = cls(lambda _: target)
        self._target = target
        return self

    @property
    def target(self) -> Target:
        """The targets, once they are decided, on the part of the output that they explain."""
        assert self._target is not None
        return self._target.target if isinstance(self._target, Select) else self._target

    def __call__(self, output: Any) -> Tensor:
        if self._target is None:
            self._target = self.decide(tree_map(detached, output))
        scores = self._target(output)
        if self.scores is None:
            self.scores = scores.detach().clone()
        return scores

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.target.names(classes)

    def fix(self, output: Any) -> Deciding:
        return self

    def adds_up(self, grid: Sequence[int]) -> bool:
        return self._target is not None and adds_up(self._target, grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Target, tuple[int, ...]]:
        """A part of the targets; of its scores nothing is remembered."""
        assert isinstance(self._target, Additive)
        return self._target.within(where, factor)
