"""Running a scoreboard: models one after the other, of each the cases that are left."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from radiolucent.bench.cases import Item, read_cases
from radiolucent.bench.recipe import Contender, Recipe
from radiolucent.bench.store import Bench, Place
from radiolucent.bench.working import Loaded, work
from radiolucent.errors import BadInput, InputWarning
from radiolucent.hooks.taps import module_of
from radiolucent.methods import as_dict, named_layers
from radiolucent.metrics import as_dict as metric_dict
from radiolucent.models import Card, load
from radiolucent.study.checking import on_device
from radiolucent.study.claims import attempts, claim
from radiolucent.study.working import model_facts


@dataclass
class Run:
    """What a run did, as "model, case". `failed` has a reason; `elsewhere` are those that another process was still at."""

    bench: Bench
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    there: int = 0


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    retry: bool = False,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[int], None] = lambda cases: None,
    step: Callable[[], None] = lambda: None,
) -> Run:
    """Do what is left of a scoreboard: every cell that is neither there nor failed, or, with `retry`, not there.

    May be killed and called again at any time, and several may run on one folder: of what is done, nothing is done again.
    A method that fails on a case and a case that fails as a whole are noted with their reasons, and the others go on.
    `say`, `begin`, `step` are told what happens, how many cases are left, and of each one that ends.
    """
    folder = Path(folder).absolute()
    cases = {contender.name: read_cases(contender, recipe) for contender in recipe.models}
    _check_apart(folder, cases)
    bench = Bench.begin(folder, recipe, _identity(recipe, cases, say), say)
    result, checks = Run(bench), recipe.checks != ()
    places = {(place.model, place.case): place for place in bench.places()}
    left: dict[str, list[tuple[Place, Item]]] = {}
    for contender in recipe.models:
        pairs = [(places[contender.name, item.id], item) for item in cases[contender.name]]
        result.there += sum(place.is_done(checks=checks, retry=retry) for place, _ in pairs)
        todo = [pair for pair in pairs if not pair[0].is_done(checks=checks, retry=retry)]
        left[contender.name] = sorted(todo, key=lambda pair: attempts(pair[0].mark))  # what killed a process comes last
    begin(sum(map(len, left.values())))
    for contender in recipe.models:
        if left[contender.name]:
            _model(contender, recipe, left[contender.name], result, retry, say, step)
    return result


def _model(
    contender: Contender,
    recipe: Recipe,
    waiting: Sequence[tuple[Place, Item]],
    result: Run,
    retry: bool,
    say: Callable[[str], None],
    step: Callable[[], None],
) -> None:
    loaded = Loaded.of(contender, *_load(contender), recipe)
    for _ in range(2):  # a second time for those that another process was at: it may have been killed
        again = []
        for place, item in waiting:
            with claim(place.mark) as ours:
                if not ours:
                    again.append((place, item))
                    continue
                quicker = not retry and place.is_done(checks=recipe.checks != ())  # another process
                if not quicker:
                    work(place, item, loaded, recipe, retry=retry, say=say)
            result.there += quicker
            if not quicker:
                _note(place, recipe, result, say)
            step()
        waiting = again
    result.elsewhere += [f"{place.model}, {place.case}" for place, _ in waiting]


def _note(place: Place, recipe: Recipe, result: Run, say: Callable[[str], None]) -> None:
    name = f"{place.model}, {place.case}"
    if reason := place.reason():
        result.failed[name] = reason
        say(f"{name} failed: {reason}")
        return
    result.done.append(name)
    for number, label in enumerate(recipe.labels):
        why = place.failure(number)
        if why and not why["unfit"]:
            result.failed[f"{name}, {label}"] = why["reason"]
            say(f"{name}, {label} failed: {why['reason']}")


def _load(contender: Contender) -> tuple[nn.Module, Card]:
    with warnings.catch_warnings():  # they are in the card's notes
        warnings.simplefilter("ignore", InputWarning)
        network, card = load(contender.model, trust=contender.trust)
    return on_device(network, contender.device), card


def _identity(recipe: Recipe, cases: Mapping[str, Sequence[Item]], say: Callable[[str], None]) -> dict[str, Any]:
    """All that must stay the same while a scoreboard is filled; every model is loaded once for it, and refused here."""
    models = {}
    for contender in recipe.models:
        network, card = _load(contender)
        for note in card.notes:
            say(f"note: {contender.name}: {note}")
        _check_fit(contender, card, network, recipe)
        asked = {"targets": contender.targets, "reduce": contender.reduce}
        models[contender.name] = model_facts(network, card, contender.device) | asked
    said = {
        contender.name: {item.id: item.said(contender.cases.parent) for item in cases[contender.name]}
        for contender in recipe.models
    }
    values = {
        "models": models,
        "cases": said,
        "methods": {label: as_dict(method) for label, method in zip(recipe.labels, recipe.methods, strict=True)},
        "metrics": {label: metric_dict(metric) for label, metric in zip(recipe.asked, recipe.metrics, strict=True)},
        "part": recipe.part,
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _check_fit(contender: Contender, card: Card, network: nn.Module, recipe: Recipe) -> None:
    """Refuse what no case can mend: a preset for another task, targets and layers that the model does not have."""
    task = recipe.chosen.task if recipe.chosen else ""
    if task and card.task != task:
        expected = f"models for {task}, for the preset {recipe.preset}"
        raise BadInput(expected, f"{contender.name}, for {card.task}", "List methods and metrics yourself, or leave it out.")
    for target in contender.targets:
        card.index(target)
    if len(recipe.models) == 1:  # of several, each has layers of its own
        for layer in (name for method in recipe.methods for name in named_layers(method)):
            module_of(network, layer)


def _check_apart(folder: Path, cases: Mapping[str, Sequence[Item]]) -> None:
    inputs = {path.parent.resolve() for items in cases.values() for item in items for path in (item.file, *item.truths)}
    if folder.resolve() in inputs:
        raise BadInput("a folder apart from the cases", str(folder), "Choose another --out.")
