"""What a check may cost: evaluations of the model, counted as each question spends them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from radiolucent.explanation import Explanation, Prediction, sharing
from radiolucent.hooks import Cost, costing
from radiolucent.trust.standards import Standards


@dataclass(frozen=True)
class Group:
    """Explanations whose maps are made in one go, by their numbers, and the evaluations that this takes."""

    numbers: tuple[int, ...]
    forwards: int
    backwards: int

    def cost(self, share: float = 1.0) -> int:
        """Of the maps of that share of the targets: each has backward passes of its own."""
        return self.forwards + math.ceil(self.backwards * share)


def grouped(explanations: Sequence[Explanation]) -> list[Group]:
    """What can be made in one go, at the cost that the explanations tell of; the cheapest first."""
    groups = []
    for numbers in sharing({i: e.method for i, e in enumerate(explanations)}):
        told = [explanations[i].provenance for i in numbers]
        forwards, backwards = (_together([(p.get(k) or 0, p.get("shared_by_methods", 1)) for p in told]) for k in _PASSES)
        groups.append(Group(tuple(numbers), forwards, backwards))
    return sorted(groups, key=Group.cost)


_PASSES = ("forwards", "backwards")


def _together(told: Sequence[tuple[int, int]]) -> int:
    """Of what several explanations tell of themselves: the whole of the pass that they shared, and by how many it was."""
    return max(*(whole for whole, _ in told), math.ceil(sum(whole / max(1, by) for whole, by in told)))


@dataclass(eq=False)
class Budget:
    """How many evaluations all questions may take together, and what each has taken.

        limit = max(times * maps, 2 * maps + spare * image)

    maps: what all maps took. image: what one image takes, which is more than one evaluation in windows.
    """

    standards: Standards
    maps: int
    image: int = 1
    taken: Counter[str] = field(default_factory=Counter)

    @property
    def limit(self) -> float:
        asked = self.standards
        return max(asked.times * self.maps, 2 * self.maps + asked.spare * self.image) if asked.times else math.inf

    @property
    def least(self) -> int:
        """What faithfulness and the shuffled networks take at least: hidden subsets, and three copies that all networks see."""
        return self.image * (self.standards.subsets + 3 + 4 * self.standards.models)

    @property
    def left(self) -> float:
        """Beside that."""
        return self.limit - sum(self.taken.values()) - self.least

    @contextmanager
    def counting(self, question: str, prediction: Prediction) -> Iterator[None]:
        """What happens inside is this question's."""
        cost = Cost()
        try:
            with costing(prediction.model, prediction.x.device) as cost:
                yield
        finally:
            self.taken[question] += cost.evaluations or 0


def said(known: Mapping[str, Any], budget: Budget) -> str:
    """A check's cost as a sentence, from its numbers."""
    told = f"The check took {known['seconds']:.1f} s for all maps of this case, which took {known['maps_seconds']:.1f} s themselves"
    if known["ratio"] is None:
        return told + "."
    by = ", ".join(f"{question} {count}" for question, count in sorted(budget.taken.items()) if count)
    numbers = f"{known['evaluations']} evaluations of the model against {known['maps_evaluations']}"
    told = f"{told}: {numbers}, which is {known['ratio']:.1f} times as many ({by})."
    asked, spent = budget.standards, sum(budget.taken.values())
    if asked.times * budget.maps < spent <= budget.limit < math.inf:
        told += f" Fewer than {asked.subsets} changed images tell nothing: of maps that cost little it may be twice"
        told += f" what they took, and {asked.spare} images for all of them."
    if spent > budget.limit:
        told += f" It was to be {budget.limit:g} at most, but a method took longer than before, or images cost more than the first."
    return told
