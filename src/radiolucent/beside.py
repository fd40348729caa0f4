"""Further models beside the one that a case is explained with: the same scan, the same targets, each by its own card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from radiolucent.errors import BadInput
from radiolucent.explanation import Prediction, predict
from radiolucent.methods import METHODS, HiResCAM, SliceCAM, at_layer, default_method, title, titles
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.plan import Explained, Plan, choose_targets, chosen, explain_all, is_segmentation, read_scan
from radiolucent.protocols import Method


@dataclass(frozen=True, eq=False)
class Beside:
    """A further model: another seed of the same training, or another network. Its card decides on channels and preprocessing.

    name: what it is called beside the others. methods: its own (see `suited`).
    """

    name: str
    model: nn.Module
    card: Card
    methods: tuple[Method, ...]


def suited(model: nn.Module, methods: Sequence[Method], layer: str = "auto") -> tuple[Method, ...]:
    """Of methods that are asked for, those that suit this model, at `layer` (its card's) where they say "auto".

    Methods of pooled slices suit a model that pools slices, methods at a layer with a grid all others. Where none suits:
    slice-attention (slice-cam where slices have no weights), or HiResCAM, which keeps its sign.
    """
    usual = default_method(model)
    own = [m for m in methods if _suits(m, usual)] or [HiResCAM() if usual == "grad-cam" else METHODS[usual]()]
    return tuple(at_layer(method, layer) for method in own)


def _suits(method: Method, usual: str) -> bool:
    if getattr(method, "needs", "") == "slices":
        return usual == "slice-attention" or (usual == "slice-cam" and isinstance(method, SliceCAM))
    return not usual.startswith("slice-") or not titles(method)[2]


def names_apart(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """The models' names; with the folder's name where two have the same one, else with a number."""
    count = Counter(names)
    full = [n if count[n] == 1 else f"{n} ({Path(place).name})" for n, place in zip(names, places, strict=True)]
    again = Counter(full)
    return [n if again[n] == 1 else f"{n} {number}" for number, n in enumerate(full)]


def folder_of(name: str, number: int) -> str:
    """A folder's name that is one on every system."""
    return f"{number}-{re.sub(r'[^A-Za-z0-9+-]+', '-', name).strip('-')[:60]}"


def check_beside(others: Sequence[Beside], prediction: Prediction, card: Card, plan: Plan) -> None:
    """Refuse, before anything is explained, models of one name, and those without the targets."""
    count = Counter([card.name, *(other.name for other in others)])
    twice = [name for name, n in count.items() if n > 1]
    if twice:
        raise BadInput("models whose names differ beside each other", f"{twice[0]!r} twice", "Name them apart: names_apart.")
    for other in others:
        theirs(chosen(prediction, card, plan), card, other)


def explain_beside(
    image: Path,
    others: Sequence[Beside],
    first: Explained,
    card: Card,
    plan: Plan,
    parcellation: Parcellation | None,
    say: Callable[[str], None],
) -> dict[str, Explained]:
    """What each further model says of the scan, for the targets that the first (`first`, `card`) is explained for.

    A target is found by its name; in a model without names by its number, which the notes say. They also say where a model
    has the weights of another, and where it would have answered something else.
    """
    if not others:
        return {}
    prediction = first.prediction
    asked = chosen(prediction, card, plan)
    own = replace(plan, targets=tuple(card.classes[i] if card.classes else str(i) for i in asked))
    names = choose_targets(prediction, card, own).names(card.classes)
    found: dict[str, Explained] = {}
    seen = {_weights(first): card.name}
    for other in others:
        say(f"explaining {image.name} with {other.name}: {', '.join(title(m) for m in other.methods)}")
        own = replace(plan, targets=theirs(asked, card, other), methods=other.methods)
        try:
            one = _explained(image, other, own, names, prediction, parcellation)
        except BadInput as error:
            raise type(error)(f"{error.expected}, for {other.name}", error.got, error.do) from None
        weights = _weights(one)
        same = [f"{other.name} has the same weights as {seen[weights]}"] if weights in seen else []
        seen.setdefault(weights, other.name)
        found[other.name] = replace(one, notes=[*same, *(() if plan.targets else _answer(one, other, own)), *one.notes])
    return found


def _weights(explained: Explained) -> str:
    """The hash of the model's weights, which its explanations have."""
    return str(explained.explanations[0].provenance["weights_sha256"])


def _answer(one: Explained, other: Beside, own: Plan) -> list[str]:
    """A note, where a classifier says another class than the one that it is explained for."""
    if other.card.task != "classification" or is_segmentation(one.prediction, other.card):
        return []
    (said,) = chosen(one.prediction, other.card, replace(own, targets=()))
    asked = [other.card.index(target) for target in own.targets]
    return [] if said in asked else [f"{other.name} says {other.card.classes[said] if other.card.classes else said} of this scan"]


def theirs(indices: Sequence[int], card: Card, other: Beside) -> tuple[str, ...]:
    """The outputs `indices` of the first model (`card`) as targets of another one: by name, or by number where one has no names."""
    named = [card.classes[i] if card.classes and other.card.classes else str(i) for i in indices]
    for name in named:
        try:
            other.card.index(name)
        except BadInput as error:
            expected = f"a model beside {card.name} that has its targets"
            raise BadInput(expected, f"{other.name}, which has no {name!r}", error.do) from None
    return tuple(named)


def _explained(
    image: Path, other: Beside, plan: Plan, names: Sequence[str], first: Prediction, parcellation: Parcellation | None
) -> Explained:
    """One further model's explanations, whose targets are called as the first model calls them."""
    prediction = predict(other.model, read_scan(image, other.card, plan), other.card.preprocessing)
    targets = choose_targets(prediction, other.card, plan)
    explained = explain_all(prediction, targets, other.card, plan, parcellation)
    called = dict(zip(targets.names(other.card.classes), names, strict=True))
    taken = [f"{other.name}: {own} is taken for {name}" for own, name in called.items() if own != name]
    notes = [f"{other.name}: {note}" for note in prediction.scan.notes if note not in first.scan.notes]
    renamed = [replace(e, targets=tuple(called[t] for t in e.targets)) for e in explained.explanations]
    cards = [replace(c, target=called[c.target]) for c in explained.cards]
    return replace(explained, explanations=renamed, notes=taken + notes, cards=cards)
