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
from radiolucent.methods import CONTROLS, METHODS, at_layer, from_dict, titles
from radiolucent.metrics import Part
from radiolucent.models import Card, load
from radiolucent.protocols import Method, Target
from radiolucent.scores import Scores
from radiolucent.targets import Logits, Outputs, Region

MEASURED = ("pointing-game", "energy-pointing-game", "auroc", "average-precision", "rank-accuracy")
"""Against the truth: peak, share of the mass, ranks, and overlap at the truth's own size."""
_SHARE = "energy-pointing-game"


@dataclass(frozen=True)
class Located:
    """All scores of one world, and of each method that gave no map its reasons."""

    world: str
    parts: tuple[str, ...]
    scores: Scores
    failed: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A row per method, best average precision first: its means, cases, and the share of the mass on each part."""
        means = self.scores.means()
        names = list(dict.fromkeys((row["method"], row["layer"]) for row in means))
        rows = []
        for method, layer in names:
            own = {(r["region"], r["metric"]): r for r in means if (r["method"], r["layer"]) == (method, layer)}
            row: dict[str, Any] = {"world": self.world, "method": method, "layer": layer}
            row |= {metric: _mean(own.get(("truth", metric))) for metric in MEASURED}
            row |= {f"on {part}": _mean(own.get((part, _SHARE))) for part in self.parts}
            rows.append(row | {"cases": own["truth", MEASURED[0]]["n"] if ("truth", MEASURED[0]) in own else 0})
        return sorted(rows, key=lambda row: -_known(row["average-precision"]))

    def markdown(self) -> str:
        """The rows as a table, and below it what gave no map."""
        columns = ["method", "layer", *MEASURED, *(f"on {part}" for part in self.parts), "cases"]
        lines = [f"**{self.world}**", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in self.rows()]
        missing = [f"- {method}: {reason}" for method, reason in self.failed.items()]
        return "\n".join(lines + (["", "No map, in one case or more:", "", *missing] if missing else []))


def locate(
    folder: str | Path,
    methods: Sequence[str] = (),
    *,
    layer: str = "",
    cases: int = 10,
    part: Part = "positive",
    say: Callable[[str], None] = lambda text: None,
    step: Callable[[], None] = lambda: None,
) -> Located:
    """Measure methods' maps of a world's network against the truth, in the cases that the network gets right.

    Args:
        folder: what `make` wrote.
        methods: names; () is all of METHODS, each as it is by default, and the controls.
        layer: of the layer-wise methods; "" is the card's.
        cases: at most so many, the first that have a truth and are right.
        part: what counts as mass in a signed map (see radiolucent.metrics.measure).
        say, step: are told what happens, and of each case.
    """
    folder = Path(folder)
    facts, rows = _read(folder)
    network, card = load(str(folder / "model"))
    chosen, failed = _methods(methods, layer or card.layer)
    used = [row for row in rows if row["right"] == "yes" and row["truth"]][:cases]
    if not used:
        raise BadInput("a case with a truth that the network gets right", f"none of {len(rows)}", "Train longer: --set steps=...")
    parts = tuple(facts["parts"]) if len(facts["parts"]) > 1 else ()
    located = Located(str(facts["world"]), parts, Scores(), failed)
    for row in used:
        say(f"{located.world}: {row['case']}")
        _case(located, folder, row, network, card, chosen, part)
        step()
    return located


def _case(
    located: Located, folder: Path, row: Mapping[str, str], network: nn.Module, card: Card, methods: Sequence[Method], part: Part
) -> None:
    """All methods on one case."""

    def gone(method: Method, error: BadInput) -> None:
        located.failed.setdefault(titles(method)[0], str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        prediction = predict(network, io.read(folder / row["file"]), card.preprocessing)
        made = prediction.explain(methods, _target(card, row), classes=card.classes, failed=gone, spread=card.spread)
    truth = io.read_labels(folder / row["truth"])
    masks = {name: io.read_labels(folder / row[name]) for name in located.parts if row[name]}
    for explanation in made:
        located.scores.measure(row["case"], explanation, truth, names={1: "truth"}, metrics=MEASURED, part=part)
        for name, mask in masks.items():
            located.scores.measure(row["case"], explanation, mask, names={1: name}, metrics=(_SHARE,), part=part)


def _target(card: Card, row: Mapping[str, str]) -> Target:
    """The class, the value, or the label that the truth is the cause of."""
    if card.task == "regression":
        return Outputs(0)
    return Region(1) if card.task == "segmentation" else Logits(card.index(row["label"]))


def _methods(names: Sequence[str], layer: str) -> tuple[list[Method], dict[str, str]]:
    """Methods at the layer, and the reasons why some cannot be without settings."""
    made: list[Method] = []
    failed: dict[str, str] = {}
    for name in names or (*METHODS, *CONTROLS):
        try:
            made.append(at_layer(from_dict({"method": name}), layer))
        except BadInput as error:
            if names:
                raise
            failed[name] = str(error)
    return made, failed


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """world.json and the rows of cases.csv."""
    try:
        facts = json.loads((folder / "world.json").read_bytes())
        with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
            return facts, list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise BadInput(f"a world at {folder}", str(error), "Name the folder that `radiolucent worlds make --out` wrote.") from None


def _mean(row: Mapping[str, Any] | None) -> float:
    return float(row["mean"]) if row else math.nan


def _known(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _cell(value: Any) -> str:
    return ("" if math.isnan(value) else f"{value:.3f}") if isinstance(value, float) else str(value)
