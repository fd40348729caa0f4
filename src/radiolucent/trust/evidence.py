"""What is found out about all maps together, in the order in which it matters, for as many evaluations as there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from radiolucent.errors import BadInput
from radiolucent.hooks import evaluating, randomised
from radiolucent.methods import EdgeMap
from radiolucent.metrics.faithfulness import Asked
from radiolucent.metrics.faithfulness.changed import Changed, Unchanged
from radiolucent.metrics.faithfulness.correlation import RandomSubsets
from radiolucent.metrics.finding import Undefined
from radiolucent.targets import Logits
from radiolucent.trust.budget import Budget, Group, grouped
from radiolucent.trust.faithfulness import Hidden, chosen, together
from radiolucent.trust.sanity import Learnt, copies, learnt, top_layers
from radiolucent.trust.scene import Scene, Values
from radiolucent.trust.stability import change
from radiolucent.trust.standards import Standards

Got = TypeVar("Got")

Answers = defaultdict[tuple[int, str], list[float | str]]
"""By an explanation's number and a target: a number for each time that its map was made again, or why there is none."""

Part = tuple[Sequence[int], Collection[str]]
"""Explanations that are made again in one go, by number, and their targets."""


@dataclass(eq=False)
class Evidence:
    """What was found out, and what it took. A text stands for what could not be.

    random: how like each map is to that with random weights. noisy: by how much noise changes it. shaken: the targets whose
    noisy maps are made, of each group: all, but for what is given up for more draws.
    """

    scene: Scene
    asked: Standards
    random: Answers = field(default_factory=lambda: defaultdict(list))
    noisy: Answers = field(default_factory=lambda: defaultdict(list))
    hidden: Hidden | str = ""
    learnt: Learnt = field(default_factory=Learnt)
    shaken: dict[Group, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups = grouped(self.scene.explanations)
        self.budget = Budget(self.asked, maps=sum(group.cost() for group in self.groups))
        self.shaken = dict.fromkeys(self.groups, frozenset(self.scene.names))

    def cost(self, group: Group, names: Collection[str]) -> int:
        """Of making the group's maps of these targets."""
        return group.cost(len(names) / len(self.scene.names)) if names else 0

    def told(self, answers: Answers, part: Part, work: Callable[[], Values]) -> list[float | str]:
        """Notes what came of some maps, or for all of them the reason why nothing did."""
        got = or_reason(work)
        values = {key: got if isinstance(got, str) else got[key] for key in self.keys(part)}
        for key, value in values.items():
            answers[key].append(value)
        return list(values.values())

    def keys(self, part: Part) -> list[tuple[int, str]]:
        """Each of its maps: the explanation's number and the target."""
        numbers, names = part
        return [(i, t) for i in numbers for t in self.scene.explanations[i].targets if t in names]


def gather(found: Evidence) -> None:
    """All that the cards rest on."""
    scene, budget = found.scene, found.budget
    witness = Asked(scene.prediction.model, scene.prediction.x, scene.fixed)
    with budget.counting("faithfulness", scene.prediction):
        or_reason(lambda: _ask(scene, witness, [Unchanged()]))
    budget.image = max(1, budget.taken["faithfulness"])
    reason = or_reason(lambda: _randomly(found))
    if reason is not None:
        found.random = defaultdict(lambda: [reason])
    _noisily(found)
    _hide(found, witness)


def _randomly(found: Evidence) -> None:
    """Draw random weights: for all maps, then again where that is cheap or the maps seem to stay the same."""
    scene, asked, model = found.scene, found.asked, found.scene.prediction.model
    with found.budget.counting("sanity", scene.prediction):
        layers = top_layers(model, scene.prediction.x, asked.top)
    for seed in range(asked.most_draws):
        parts = _whole(found) if seed < asked.draws else _once_more(found)
        if not parts:
            break
        with found.budget.counting("sanity", scene.prediction):
            other = randomised(model, layers, seed)
            same = [_draw(found, other, part) for part in parts]
            if not seed and all(same) and _says_the_same(scene, other):
                raise Undefined("random weights change nothing: something holds on to the trained ones")


def _draw(found: Evidence, other: nn.Module, part: Part) -> bool:
    """How like some maps are to those by a model with random weights; are all the same?"""
    scene = found.scene
    drawn = found.told(found.random, part, lambda: scene.again(lambda a, b: abs(scene.alike(a, b)), *part, model=other))
    return all(not isinstance(value, str) and value > 1 - 1e-9 for value in drawn)


def _says_the_same(scene: Scene, other: nn.Module) -> bool:
    with evaluating(other), torch.no_grad():
        said = scene.fixed(other(scene.prediction.x))
    return torch.equal(said, scene.fixed(scene.prediction.output))


def _whole(found: Evidence) -> list[Part]:
    return [(group.numbers, found.scene.names) for group in found.groups]


def _once_more(found: Evidence) -> list[Part]:
    """Which maps get another draw: all, where that costs little; else those in doubt, the cheapest first.

    Half of what is free is kept for hidden images, on which all maps' faithfulness rests. A doubtful map that finds no
    place in the other half is not made of noisy images instead, and if need be its group's other targets neither: one
    draw is never the last word on a map in doubt.
    """
    free = _free(found)
    if free >= found.budget.maps:
        return _whole(found)
    free /= 2
    parts: list[Part] = []
    for group in found.groups:
        doubtful = [key for key in found.keys((group.numbers, found.scene.names)) if _in_doubt(found, key)]
        names = {target for _, target in doubtful}
        if not names:
            continue
        cost, first = found.cost(group, names), all(len(found.random[key]) == found.asked.draws for key in doubtful)
        others = found.shaken[group] - names
        for kept in (found.shaken[group], others, frozenset()) if first else (found.shaken[group],):
            saved = found.asked.noisy * (found.cost(group, found.shaken[group]) - found.cost(group, kept))
            if cost <= free + saved:
                found.shaken[group] = kept
                free += saved - cost
                parts.append((sorted({i for i, _ in doubtful}), names))
                break
    return parts


def _in_doubt(found: Evidence, key: tuple[int, str]) -> bool:
    values = [value for value in found.random[key] if not isinstance(value, str)]
    return bool(values) and sum(values) / len(values) >= found.asked.doubtful


def _free(found: Evidence) -> float:
    """What is left beside the noisy maps to come."""
    return found.budget.left - found.asked.noisy * sum(found.cost(group, names) for group, names in found.shaken.items())


def _noisily(found: Evidence) -> None:
    """The maps of noisy images, of which none are begun that may not be paid for."""
    scene, asked = found.scene, found.asked
    for group, names in found.shaken.items():
        if names and asked.noisy * found.cost(group, names) <= max(0, found.budget.left):
            part = group.numbers, names
            with found.budget.counting("stability", scene.prediction):
                for seed in range(asked.noisy):
                    found.told(found.noisy, part, partial(_shaken, scene, part, asked.noise, seed))


def _shaken(scene: Scene, part: Part, noise: float, seed: int) -> Values:
    return scene.again(change, *part, image=scene.noisy(noise, seed), run=seed + 1)


def _hide(found: Evidence, witness: Asked) -> None:
    """The scores of changed copies, for all maps and targets; and what shuffled networks say of some of them."""
    scene, asked, budget = found.scene, found.asked, found.budget
    x, model = scene.prediction.x, scene.prediction.model
    more = max(0, budget.left) // budget.image
    subsets = int(min(max(asked.subsets, asked.most_subsets), asked.subsets + more))
    random = RandomSubsets("cubes", asked.cubes, asked.subset, subsets, baseline=asked.baseline, seed=1)

    def ask() -> tuple[Hidden, Learnt]:
        units = witness.units("cubes", asked.cubes)
        drawn, few = random.drawn(units), copies(asked, units.count)
        with budget.counting("faithfulness", scene.prediction):
            _ask(scene, witness, [Unchanged(), *drawn, *few])
        members = chosen(units.count, [d.members(units) for d in drawn])
        seen: list[Changed] = [Unchanged(), *drawn]
        scores = torch.stack([witness.said[c] for c in seen])
        edges = units.sums(EdgeMap()(model, x, Logits(0))[0, 0].cpu()).numpy()
        own = torch.stack([witness.said[c] for c in few])
        with budget.counting("sanity", scene.prediction):
            known = or_reason(lambda: learnt(model, x, scene.fixed, few, own, asked))
        return Hidden(units, together(asked, x.shape[2:]), members, scores, edges), (
            Learnt(reason=known) if isinstance(known, str) else known
        )

    got = or_reason(ask)
    found.hidden, found.learnt = (got, Learnt(reason=got)) if isinstance(got, str) else got


def _ask(scene: Scene, witness: Asked, changed: Sequence[Changed]) -> None:
    with evaluating(scene.prediction.model), torch.no_grad():
        witness.ask(changed)


def or_reason(work: Callable[[], Got]) -> Got | str:
    """What the work gives, or in words why it gives nothing: a guest may raise anything."""
    try:
        return work()
    except (BadInput, Undefined) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
