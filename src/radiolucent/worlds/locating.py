"""Where every method's maps lie against the planted truth: one table per world."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation import predict
from radiolucent.io.tables import write_table
from radiolucent.methods import CONTROLS, METHODS, at_layer, title, titles
from radiolucent.methods.naming import settings_of
from radiolucent.methods.small import small
from radiolucent.metrics import Part
from radiolucent.models import Card, load
from radiolucent.protocols import Method, Target
from radiolucent.scores import Scores
from radiolucent.targets import Logits, Outputs, Region

MEASURED = ("pointing-game", "energy-pointing-game", "auroc", "average-precision", "rank-accuracy")
"""Against the truth: peak, share of the mass, ranks, and overlap at the truth's own size."""
_SHARE = "energy-pointing-game"


Key = tuple[str, str, str]
"""A method's name, settings and layer, as `titles` has them."""


@dataclass(frozen=True)
class Located:
    """All scores of one world, the seconds of each method's maps, and of each that gave no map its reasons."""

    world: str
    parts: tuple[str, ...]
    scores: Scores
    failed: dict[str, str] = field(default_factory=dict)
    settings: dict[Key, str] = field(default_factory=dict)
    seconds: dict[Key, list[float]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A row per method, settings and layer, best average precision first: its means, and the share of the mass on each part.

        `settings` are those that are not the method's usual ones, `cases` those that gave a map, `seconds` what a map took (a
        pass that several methods share is parted evenly).
        """
        groups: dict[Key, dict[tuple[str, str], Mapping[str, Any]]] = {}
        for row in self.scores.means():
            groups.setdefault((row["method"], row["settings"], row["layer"]), {})[row["region"], row["metric"]] = row
        rows = []
        for key, own in groups.items():
            row = {"world": self.world, "method": key[0], "settings": self.settings.get(key, key[1]), "layer": key[2]}
            row |= {metric: _mean(own.get(("truth", metric))) for metric in MEASURED}
            row |= {f"on {part}": _mean(own.get((part, _SHARE))) for part in self.parts}
            row["cases"] = own["truth", MEASURED[0]]["n"] if ("truth", MEASURED[0]) in own else 0
            rows.append(row | {"seconds": _average(self.seconds.get(key, []))})
        return sorted(rows, key=lambda row: -_known(row["average-precision"]))

    def markdown(self) -> str:
        """The rows as a table, and below it what gave no map."""
        columns = ["method", "settings", "layer", *MEASURED, *(f"on {part}" for part in self.parts), "cases", "seconds"]
        lines = [f"**{self.world}**", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in self.rows()]
        missing = [f"- {method}: {reason}" for method, reason in self.failed.items()]
        return "\n".join(lines + (["", "No map, in one case or more:", "", *missing] if missing else []))


def write(out: str | Path, found: Sequence[Located], *, overwrite: bool = False) -> Path:
    """located.md, located.csv and scores.csv (a row per case) in a folder of their own, whole or not at all."""
    with io.new_folder(Path(out), replace=overwrite) as new:
        io.put(new / "located.md", ("\n\n".join(one.markdown() for one in found) + "\n").encode())
        write_table(new / "located.csv", [row for one in found for row in one.rows()])
        write_table(new / "scores.csv", [{"world": one.world} | row for one in found for row in one.scores.rows()])
    return Path(out)


def locate(
    folder: str | Path,
    methods: Sequence[str] = (),
    *,
    layers: Sequence[str] = (),
    cases: int = 10,
    part: Part = "positive",
    say: Callable[[str], None] = lambda text: None,
    step: Callable[[], None] = lambda: None,
) -> Located:
    """Measure methods' maps of a world's network against the truth, in the cases that the network gets right.

    Args:
        folder: what `make` wrote.
        methods: as text: a name has the settings for small grids (`radiolucent.methods.small`), "occlusion(window=6)" has
            those that it names, and of the rest the usual ones. () is all of METHODS and the controls.
        layers: of the layer-wise methods, each once at each of them; () is the card's.
        cases: at most so many, the first that have a truth and are right.
        part: what counts as mass in a signed map (see radiolucent.metrics.measure).
        say, step: are told what happens, and of each case.
    """
    folder = Path(folder)
    facts, rows = read_world(folder)
    network, card = load(str(folder / "model"))
    chosen, failed = _methods(methods, layers or [card.layer])
    parts = tuple(facts["parts"]) if len(facts["parts"]) > 1 else ()
    located = Located(str(facts["world"]), parts, Scores(), failed)
    for row in rows[:cases]:
        say(f"{located.world}: {row['case']}")
        _case(located, folder, row, network, card, chosen, part)
        step()
    return located


def _case(
    located: Located, folder: Path, row: Mapping[str, str], network: nn.Module, card: Card, methods: Sequence[Method], part: Part
) -> None:
    """All methods on one case."""

    def gone(method: Method, error: BadInput) -> None:
        located.failed.setdefault(title(method), str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        prediction = predict(network, io.read(folder / row["file"]), card.preprocessing)
        made = prediction.explain(methods, _target(card, row), classes=card.classes, failed=gone, spread=card.spread)
    truth = io.read_labels(folder / row["truth"])
    masks = {name: io.read_labels(folder / row[name]) for name in located.parts if row[name]}
    for explanation in made:
        key, cost = titles(explanation.method), explanation.provenance
        located.settings[key] = settings_of(at_layer(explanation.method, "auto", key[2]))
        located.seconds.setdefault(key, []).append(cost["seconds"] / cost["shared_by_methods"])
        located.scores.measure(row["case"], explanation, truth, names={1: "truth"}, metrics=MEASURED, part=part)
        for name, mask in masks.items():
            located.scores.measure(row["case"], explanation, mask, names={1: name}, metrics=(_SHARE,), part=part)


def _target(card: Card, row: Mapping[str, str]) -> Target:
    """The class, the value, or the label that the truth is the cause of."""
    if card.task == "regression":
        return Outputs(0)
    return Region(1) if card.task == "segmentation" else Logits(card.index(row["label"]))


def _methods(texts: Sequence[str], layers: Sequence[str]) -> tuple[list[Method], dict[str, str]]:
    """Methods at the layers, and the reasons why some cannot be without settings."""
    made: dict[Method, None] = {}
    failed: dict[str, str] = {}
    for text in texts or (*METHODS, *CONTROLS):
        try:
            made |= dict.fromkeys(at_layer(small(text), layer) for layer in layers)
        except BadInput as error:
            if texts:
                raise
            failed[text] = str(error)
    return list(made), failed


def read_world(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """world.json, and the rows of cases.csv that have a truth and are right.

    Raises:
        BadInput: no world, or no such row.
    """
    try:
        facts = json.loads((folder / "world.json").read_bytes())
        with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise BadInput(f"a world at {folder}", str(error), "Name the folder that `radiolucent worlds make --out` wrote.") from None
    used = [row for row in rows if row["right"] == "yes" and row["truth"]]
    if not used:
        expected = f"a case with a truth that the network gets right in {folder}"
        raise BadInput(expected, f"none of {len(rows)}", "Train longer: --steps.")
    return facts, used


def _mean(row: Mapping[str, Any] | None) -> float:
    return float(row["mean"]) if row else math.nan


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _known(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _cell(value: Any) -> str:
    return ("" if math.isnan(value) else f"{value:.3f}") if isinstance(value, float) else str(value)
