"""All cards of one scan: the questions asked together, so that what several need is done once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction, examine
from radiolucent.explanation.checking import on_model_s_grid
from radiolucent.hooks import Cost, costing
from radiolucent.methods import title, unique_titles
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Target
from radiolucent.trust.budget import Budget, said
from radiolucent.trust.card import QUESTIONS, TrustCard, Verdict, not_tested
from radiolucent.trust.evidence import Evidence, gather, or_reason
from radiolucent.trust.faithfulness import Compared, Hidden, compared, faithfulness, holm
from radiolucent.trust.sanity import sanity
from radiolucent.trust.scene import Scene
from radiolucent.trust.stability import agreement, stability
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
    found = Evidence(Scene(prediction, explanations, targets, classes, parcellation, spread), asked)
    with costing(prediction.model, prediction.x.device) as cost:
        cards = or_reason(lambda: _judged(found))
    cards = _none(found.scene, cards) if isinstance(cards, str) else cards
    return [replace(card, cost=_cost(found.scene, cost, found.budget)) for card in cards]


def _judged(found: Evidence) -> list[TrustCard]:
    gather(found)
    cards = _cards(found)
    if not found.asked.further:
        return cards
    with found.budget.counting("further numbers", found.scene.prediction):
        return _further(found.scene, cards)


def _none(scene: Scene, reason: str) -> list[TrustCard]:
    """Cards that say why nothing was tested: a check that fails must not take the maps along."""
    verdicts = tuple(not_tested(question, reason) for question in QUESTIONS)
    maps = zip(unique_titles([e.method for e in scene.explanations]), scene.explanations, strict=True)
    return [TrustCard(name, target, repr(e.method), verdicts) for name, e in maps for target in e.targets]


def _cards(found: Evidence) -> list[TrustCard]:
    cards, asked = [], found.asked
    names = unique_titles([e.method for e in found.scene.explanations])
    agreed = _agreements(found.scene, names)
    for number, explanation in enumerate(found.scene.explanations):
        seen = _compared(found.scene, explanation, found.hidden)
        corrected = [
            holm([getattr(c, p) if isinstance(c, Compared) else math.nan for c in seen]) for p in ("p_elsewhere", "p_edges")
        ]
        for t, target in enumerate(explanation.targets):
            verdicts = (
                sanity(found.random[number, target], found.learnt, asked),
                faithfulness(seen[t], corrected[0][t], corrected[1][t], asked),
                stability(found.noisy[number, target], explanation.method, asked),
                agreed[number, target],
            )
            cards.append(TrustCard(names[number], target, repr(explanation.method), verdicts))
    return cards


def _agreements(scene: Scene, names: Sequence[str]) -> dict[tuple[int, str], Verdict]:
    agreed = {}
    for target in scene.names:
        ranks = scene.sizes(target)
        for number, own in ranks.items():
            agreed[number, target] = agreement(own, {names[i]: other for i, other in ranks.items() if i != number})
    return agreed


def _compared(scene: Scene, explanation: Explanation, hidden: Hidden | str) -> list[Compared | str]:
    """For each target of the explanation."""
    if isinstance(hidden, str):
        return [hidden] * len(explanation.targets)
    maps = on_model_s_grid(scene.prediction, explanation, explanation.targets)[:, 0]
    return [
        or_reason(partial(compared, row, hidden, scene.names.index(target)))
        for row, target in zip(maps, explanation.targets, strict=True)
    ]


def _further(scene: Scene, cards: Sequence[TrustCard]) -> list[TrustCard]:
    """The cards with rows that have no verdict."""
    methods = [e.method for e in scene.explanations]
    how: dict[str, Any] = {"classes": scene.classes, "parcellation": scene.parcellation, "spread": scene.spread}
    rows = or_reason(lambda: examine(scene.prediction, methods, scene.targets, FURTHER, **how))
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


def _cost(scene: Scene, cost: Cost, budget: Budget) -> dict[str, Any]:
    """Evaluations and seconds of the check and of the maps, in numbers and in a sentence."""
    by = [e.provenance.get("shared_by_methods", 1) for e in scene.explanations]
    seconds = sum(e.provenance.get("seconds", 0.0) / max(1, n) for e, n in zip(scene.explanations, by, strict=True))
    maps, spent = budget.maps, cost.evaluations
    known: dict[str, Any] = {"evaluations": spent, "maps_evaluations": maps or None}
    known |= {"ratio": round(spent / maps, 2) if spent is not None and maps else None}
    known |= {"limit": budget.limit, "by_question": dict(budget.taken)}
    known |= {"seconds": round(cost.seconds, 3), "maps_seconds": round(seconds, 3)}
    return known | {"said": said(known, budget)}
