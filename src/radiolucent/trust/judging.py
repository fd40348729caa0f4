"""All cards of one scan: the questions asked together, so that what several need is done once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch

from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction, examine
from radiolucent.explanation.checking import on_model_s_grid
from radiolucent.hooks import Cost, costing, evaluating
from radiolucent.methods import EdgeMap, title, unique_titles
from radiolucent.metrics.faithfulness import Asked
from radiolucent.metrics.faithfulness.changed import Changed, Unchanged
from radiolucent.metrics.faithfulness.correlation import RandomSubsets
from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.remaking import scores_of
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Target
from radiolucent.targets import Logits
from radiolucent.trust.card import QUESTIONS, TrustCard, not_tested
from radiolucent.trust.faithfulness import Compared, Hidden, chosen, compared, faithfulness, holm, together
from radiolucent.trust.sanity import Learnt, copies, learnt, randomly, sanity, top_layers
from radiolucent.trust.scene import Scene, Values
from radiolucent.trust.stability import agreement, change, stability
from radiolucent.trust.standards import Standards, standards

FURTHER = (
    "parameter-randomisation(draws=3)",
    "repeatability",
    "shift-continuity",
    "completeness",
    "deletion",
    "insertion",
    "road",
    "sparseness",
)
"""What level "full" adds, without a verdict."""

Got = TypeVar("Got")


def trust(
    prediction: Prediction,
    explanations: Sequence[Explanation],
    targets: Target,
    level: str | Standards = "quick",
    *,
    classes: Sequence[str] = (),
    parcellation: Parcellation | None = None,
    spread: Sequence[float] = (),
) -> list[TrustCard]:
    """A card for each map of each target, in the order of `explanations`: can it be believed?

    Args:
        prediction: what `predict` gave for the scan.
        explanations: what `prediction.explain` gave for it.
        targets: as they were explained.
        level: "quick", "full", or Standards of your own.
        classes, parcellation, spread: as for `explain`.

    A question that cannot be asked ("not tested") is no error, and says why. The model is left exactly as it was.
    """
    asked = standards(level)
    if isinstance(explanations, Explanation) or not explanations:
        raise BadInput("a list of explanations", f"{explanations!r:.60}", "Give what prediction.explain returned.")
    scene = Scene(prediction, explanations, targets, classes, parcellation, spread)
    with costing(prediction.model, prediction.x.device) as cost:
        evidence = _Evidence()
        judged = _or_reason(lambda: _judged(scene, asked, evidence))
    cards = _none(scene, judged) if isinstance(judged, str) else judged
    return [replace(card, cost=_cost(scene, cost, evidence, asked)) for card in cards]


def _judged(scene: Scene, asked: Standards, evidence: _Evidence) -> list[TrustCard]:
    _ask(scene, asked, evidence)
    cards = _cards(scene, evidence, asked)
    return _further(scene, cards) if asked.further else cards


def _none(scene: Scene, reason: str) -> list[TrustCard]:
    """Cards that say why nothing was tested: a check that fails must not take the maps along."""
    verdicts = tuple(not_tested(question, reason) for question in QUESTIONS)
    maps = zip(unique_titles([e.method for e in scene.explanations]), scene.explanations, strict=True)
    return [TrustCard(name, target, repr(e.method), verdicts) for name, e in maps for target in e.targets]


@dataclass
class _Evidence:
    """What was found out for all maps together. A text stands for what could not be."""

    maps: int = 0
    pass_: int = 1
    random: dict[int, list[Values]] = field(default_factory=lambda: defaultdict(list))
    no_random: str = ""
    noisy: list[list[Values]] = field(default_factory=list)
    no_noisy: str = ""
    hidden: Hidden | str = ""
    learnt: Learnt = field(default_factory=Learnt)


def _ask(scene: Scene, asked: Standards, found: _Evidence) -> None:
    prediction = scene.prediction
    layers = _or_reason(lambda: top_layers(prediction.model, prediction.x, asked.top))
    with costing(prediction.model, prediction.x.device) as one:
        _or_reason(lambda: scores_of(prediction.model, scene.fixed)(prediction.x))
    found.pass_ = max(1, one.forwards or 1)
    with costing(prediction.model, prediction.x.device) as maps:
        for seed in range(asked.noisy):
            made = _or_reason(partial(_noisy, scene, asked, seed))
            if isinstance(made, str):
                found.no_noisy = made
                break
            found.noisy.append(made)
    found.maps = math.ceil((maps.evaluations or 0) / asked.noisy)
    draws, subsets = _affordable(found.maps / found.pass_, asked)
    if isinstance(layers, str):
        found.no_random = layers
    else:
        _draw(scene, layers, range(draws), range(len(scene.explanations)), found)
        doubtful = [i for i, own in found.random.items() if _highest(own) >= asked.doubtful]
        _draw(scene, layers, range(draws, asked.most_draws), doubtful, found)
    found.hidden, found.learnt = _hide(scene, asked, subsets)


def _draw(scene: Scene, layers: Sequence[str], seeds: range, which: Sequence[int], found: _Evidence) -> None:
    """The maps of some explanations with random weights, once for each seed."""
    part = replace(scene, explanations=[scene.explanations[i] for i in which])
    for seed in seeds if which else ():
        random = _or_reason(partial(randomly, part, layers, seed))
        if isinstance(random, str):
            found.no_random = random
            break
        for i, made in zip(which, random, strict=True):
            found.random[i].append(made)


def _highest(draws: Sequence[Values]) -> float:
    """Of the targets' mean similarities to their maps with random weights."""
    known = [[value for own in draws if not isinstance(value := own[target], str)] for target in draws[0]]
    return max((sum(values) / len(values) for values in known if values), default=0.0)


def _noisy(scene: Scene, asked: Standards, seed: int) -> list[Values]:
    return scene.each(scene.again(image=scene.noisy(asked.noise, seed), run=seed + 1), change)


def _affordable(maps: float, asked: Standards) -> tuple[int, int]:
    """How often weights are drawn and how many subsets are hidden, where all maps cost as much as `maps` images."""
    if not asked.times:
        return asked.draws, asked.subsets
    must = asked.subsets + 6 + 4 * asked.models  # the layers, what a pass costs, the image, three of its copies
    left = max(asked.times * maps, 2 * maps + asked.spare) - (asked.noisy + asked.draws) * maps - must - asked.draws
    more = min(asked.most_draws - asked.draws, int(left // (maps + 1))) if maps else 0
    more = max(0, more)
    left -= more * (maps + 1)
    return asked.draws + more, min(asked.most_subsets, asked.subsets + max(0, int(left)))


def _hide(scene: Scene, asked: Standards, subsets: int) -> tuple[Hidden | str, Learnt]:
    """The scores of changed copies, for all maps and targets; and what shuffled networks say of some of them."""
    prediction = scene.prediction
    x, model = prediction.x, prediction.model
    lattice = together(asked, x.shape[2:])
    random = RandomSubsets("cubes", asked.cubes, asked.subset, subsets, baseline=asked.baseline, seed=1)

    def ask() -> tuple[Hidden, Learnt]:
        with evaluating(model), torch.no_grad():
            witness = Asked(model, x, scene.fixed)
            units = witness.units("cubes", asked.cubes)
            drawn = random.drawn(units)
            few = copies(asked, units.count)
            copied: list[Changed] = [Unchanged(), *drawn, *few]
            witness.ask(copied)
        members = chosen(units.count, [d.members(units) for d in drawn])
        scores = torch.stack([witness.said[c] for c in copied[: 1 + subsets]])
        edges = units.sums(EdgeMap()(model, x, Logits(0))[0, 0].cpu()).numpy()
        own = torch.stack([witness.said[c] for c in few])
        known = _or_reason(lambda: learnt(model, x, scene.fixed, few, own, asked))
        return Hidden(units, lattice, members, scores, edges), Learnt(reason=known) if isinstance(known, str) else known

    found = _or_reason(ask)
    return (found, Learnt(reason=found)) if isinstance(found, str) else found


def _cards(scene: Scene, found: _Evidence, asked: Standards) -> list[TrustCard]:
    cards = []
    names = unique_titles([e.method for e in scene.explanations])
    for number, explanation in enumerate(scene.explanations):
        seen = _compared(scene, explanation, found.hidden)
        corrected = [
            holm([getattr(c, p) if isinstance(c, Compared) else math.nan for c in seen]) for p in ("p_elsewhere", "p_edges")
        ]
        for t, target in enumerate(explanation.targets):
            first = scene.first[number][target]
            random = [made[target] for made in found.random[number]] or [found.no_random]
            noisy = [made[number][target] for made in found.noisy] or [found.no_noisy]
            others = {names[i]: maps[target] for i, maps in enumerate(scene.first) if i != number and target in maps}
            verdicts = (
                sanity(random, found.learnt, asked),
                faithfulness(seen[t], corrected[0][t], corrected[1][t], asked),
                stability(noisy, explanation.method, asked),
                agreement(first, others, partial(scene.alike, absolute=True)),
            )
            cards.append(TrustCard(names[number], target, repr(explanation.method), verdicts))
    return cards


def _compared(scene: Scene, explanation: Explanation, hidden: Hidden | str) -> list[Compared | str]:
    """For each target of the explanation."""
    if isinstance(hidden, str):
        return [hidden] * len(explanation.targets)
    maps = on_model_s_grid(scene.prediction, explanation, explanation.targets)[:, 0]
    return [
        _or_reason(partial(compared, row, hidden, scene.names.index(target)))
        for row, target in zip(maps, explanation.targets, strict=True)
    ]


def _further(scene: Scene, cards: Sequence[TrustCard]) -> list[TrustCard]:
    """The cards with rows that have no verdict."""
    methods = [e.method for e in scene.explanations]
    how: dict[str, Any] = {"classes": scene.classes, "parcellation": scene.parcellation, "spread": scene.spread}
    rows = _or_reason(lambda: examine(scene.prediction, methods, scene.targets, FURTHER, **how))
    if isinstance(rows, str):
        return list(cards)
    places = [(i, target) for i, e in enumerate(scene.explanations) for target in e.targets]
    done = []
    for card, (i, target) in zip(cards, places, strict=True):
        mine = [row for row in rows if row["target"] == target and _title(row) == title(methods[i])]
        done.append(replace(card, further=tuple(mine)))
    return done


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['method']} at {row['layer']}" if row["layer"] else str(row["method"])


def _cost(scene: Scene, cost: Cost, found: _Evidence, asked: Standards) -> dict[str, Any]:
    shared = {e.method: e.provenance.get("shared_by_methods", 1) for e in scene.explanations}
    seconds = sum(e.provenance.get("seconds", 0.0) / max(1, shared[e.method]) for e in scene.explanations)
    spent = cost.evaluations
    said = f"The check took {cost.seconds:.1f} s for all maps of this case, which took {seconds:.1f} s themselves"
    if spent is not None and found.maps:
        said = f"{said}: {spent} evaluations of the model against {found.maps}"
        if asked.times and spent > asked.times * found.maps:
            said += f". That is more than {asked.times:g} times, since fewer than {asked.subsets} changed images tell nothing"
    known = {"evaluations": spent, "maps_evaluations": found.maps or None}
    return known | {"seconds": round(cost.seconds, 3), "maps_seconds": round(seconds, 3), "said": said + "."}


def _or_reason(work: Callable[[], Got]) -> Got | str:
    """What the work gives, or in words why it gives nothing: a guest may raise anything."""
    try:
        return work()
    except (BadInput, Undefined) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
