"""Which target a call explains: what was asked for, or what the model predicts, each batch item for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from radiolucent.errors import BadInput
from radiolucent.protocols import Target
from radiolucent.targets import Logits, Predicted, Region, Select, as_tensor, part_of


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
        elif scores.ndim == 2:
            chosen = Predicted() if self.wanted is None else Logits(*_numbers(self.wanted))
        else:
            labels = _predicted_labels(scores) if self.wanted is None else _numbers(self.wanted)
            chosen = Each(tuple(Region(label) for label in labels))
        return chosen if self.part is None else Select(self.part, chosen)


def _numbers(target: Any) -> tuple[int, ...]:
    return (target,) if isinstance(target, int) else tuple(target)


def _predicted_labels(scores: Tensor) -> tuple[int, ...]:
    labels = (scores > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
    found = tuple(int(label) for label in labels.unique() if label > 0)
    if not found:
        raise BadInput("a predicted label other than the background", "background everywhere", "Name one: target=1.")
    return found


class Deciding:
    """A target that is chosen and fixed when the unperturbed output comes, which it keeps."""

    def __init__(self, choose: Callable[[Any], Target], output: Any = None) -> None:
        self.choose = choose
        self.output: Any = None
        self.target = None if output is None else choose(output).fix(output)

    def __call__(self, output: Any) -> Tensor:
        if self.output is None:
            self.output = tree_map(detached, output)
        if self.target is None:
            self.target = self.choose(self.output).fix(self.output)
        return self.target(output)

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.target.names(classes) if self.target else ()

    def fix(self, output: Any) -> Deciding:
        return self


@dataclass(frozen=True)
class Each:
    """Targets that each batch item decides for itself; one that an item does not have scores 0 and is noted."""

    targets: tuple[Target, ...]
    fixed: tuple[tuple[Target | BadInput, ...], ...] = ()

    def __call__(self, output: Any) -> Tensor:
        items = [_item(output, i) for i in range(len(self.fixed[0]))]
        rows = [[_score(t, item) for t, item in zip(row, items, strict=True)] for row in self.fixed]
        return torch.stack([torch.stack(row) for row in rows])

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(target.names(classes)[0] for target in self.targets)

    def fix(self, output: Any) -> Each:
        batch = len(next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
        return Each(self.targets, tuple(tuple(_fixed(t, _item(output, i)) for i in range(batch)) for t in self.targets))


def _item(output: Any, i: int) -> Any:
    return tree_map(lambda part: part[i : i + 1] if isinstance(part, Tensor) and part.ndim else part, output)


def _fixed(target: Target, output: Any) -> Target | BadInput:
    try:
        return target.fix(output)
    except BadInput as error:
        if "voxel" not in error.expected:  # a label that the model does not have is nobody's
            raise
        return error


def _score(target: Target | BadInput, output: Any) -> Tensor:
    if not isinstance(target, BadInput):
        return target(output)[0, 0]
    leaf = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return leaf.float().sum() * 0


def detached(part: Any) -> Any:
    """A leaf of an output, out of the graph."""
    return part.detach() if isinstance(part, Tensor) else part
