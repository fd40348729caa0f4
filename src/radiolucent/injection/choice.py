"""Which target a call explains: what was asked for, or what the model predicts, each batch item for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from radiolucent.errors import BadInput, Nothing
from radiolucent.protocols import Target
from radiolucent.targets import Logits, Outputs, Predicted, Region, Select, as_tensor, label_map, own_labels, part_of


@dataclass(frozen=True)
class Choice:
    """From an output to the target: the one that was asked for (`wanted`), or what the model predicts.

    `part` names the tensor to explain where the output is a dict, tuple or list.
    """

    wanted: Target | int | Sequence[int] | None = None
    part: str | int | None = None

    def __call__(self, output: Any) -> Target:
        scores = as_tensor(output if self.part is None else part_of(output, self.part))
        chosen: Target
        if isinstance(self.wanted, Target):
            chosen = self.wanted
        elif scores.ndim == 1:
            chosen = Outputs() if self.wanted is None else Outputs(*_numbers(self.wanted))
        elif scores.ndim == 2:
            chosen = Predicted() if self.wanted is None else Logits(*_numbers(self.wanted))
        else:
            labels = _predicted_labels(scores) if self.wanted is None else _numbers(self.wanted)
            chosen = Each(tuple(Region(label) for label in labels))
        return chosen if self.part is None else Select(self.part, chosen)


def _numbers(target: Any) -> tuple[int, ...]:
    """One class or several; numpy's and torch's whole numbers are numbers too."""
    try:
        numbers = (index(target),)
    except TypeError:
        numbers = tuple(target) if isinstance(target, Sequence) and not isinstance(target, str) else ()
    if not numbers:
        raise BadInput("a class or label, several, a Target or None", repr(target), "For example target=1.")
    return numbers


def _predicted_labels(scores: Tensor) -> tuple[int, ...]:
    found = tuple(int(label) for label in label_map(scores).unique() if label > 0)
    if not found:
        raise Nothing("a predicted label other than the background", "background everywhere", "Name one: target=1.")
    return found


@dataclass(frozen=True)
class Each:
    """Targets that each batch item decides for itself; one that an item does not have scores 0 and is noted."""

    targets: tuple[Target, ...]
    fixed: tuple[tuple[Target | Nothing, ...], ...] = ()

    def __call__(self, output: Any) -> Tensor:
        items = [_item(output, i) for i in range(len(self.fixed[0]))]
        rows = [[_score(t, item) for t, item in zip(row, items, strict=True)] for row in self.fixed]
        return torch.stack([torch.stack(row) for row in rows])

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(target.names(classes)[0] for target in self.targets)

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(label for target in self.targets for label in own_labels(target))

    def fix(self, output: Any) -> Each:
        batch = len(next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
        return Each(self.targets, tuple(tuple(_fixed(t, _item(output, i)) for i in range(batch)) for t in self.targets))


def _item(output: Any, i: int) -> Any:
    return tree_map(lambda part: part[i : i + 1] if isinstance(part, Tensor) and part.ndim else part, output)


def _fixed(target: Target, output: Any) -> Target | Nothing:
    try:
        return target.fix(output)
    except Nothing as error:
        return error


def _score(target: Target | Nothing, output: Any) -> Tensor:
    if not isinstance(target, Nothing):
        return target(output)[0, 0]
    leaf = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return leaf.float().sum() * 0
