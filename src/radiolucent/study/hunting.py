"""A bias hunt over a table of images: what a classifier answers, where its response lies, and what goes along with that."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas import DataFrame
from torch import nn

from radiolucent import io
from radiolucent.analysis.covariates import NO_COVARIATES
from radiolucent.analysis.profiles import Patients, patients_of, selected
from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation import Prediction, predict
from radiolucent.landmarks import Hunt, correspondence, from_volume, hunt, radiograph_parts
from radiolucent.metrics import Part
from radiolucent.models import Card
from radiolucent.plan import Plan, choose_targets, is_segmentation, output_of, read_scan
from radiolucent.protocols import Method, Target
from radiolucent.provenance import weights_hash
from radiolucent.study.cohort import read_table
from radiolucent.volume import Volume


@dataclass(frozen=True)
class Asked:
    """What a hunt asks of every case.

    Args:
        method: one that knows the target; else it shows what is seen, not what decides.
        label, mask: columns of the table: the true class, and where there is one an image that is not 0 on the anatomy. Without
            it the anatomy is bone and soft tissue as `radiograph_parts` finds them.
        target: the class that is explained in every case: where is what speaks for it? "" explains the one that the network says.
        split: only the cases of this split; "" takes all.
        where: only the cases for which these comparisons hold, as in analysis.profiles.selected; "" takes all.
        covariates: () takes all other columns.
        part: what counts of a signed map, "positive" or "absolute": a unit that looks for the dark has a negative response.
        inverted: bone is dark in these images: for `radiograph_parts`; the model sees them as they are.
        colour, nonfinite: how images are read (see io.read).
    """

    method: Method
    label: str = "label"
    mask: str = "mask"
    target: str = ""
    split: str = ""
    where: str = ""
    covariates: tuple[str, ...] = ()
    part: Part = "positive"
    inverted: bool = False
    colour: Literal["refuse", "grey", "channels"] = "refuse"
    nonfinite: Literal["refuse", "zero"] = "refuse"

    @property
    def plan(self) -> Plan:
        return Plan(
            (self.method,), (self.target,) if self.target else (), colour=self.colour, nonfinite=self.nonfinite, check="off"
        )


@dataclass(frozen=True, eq=False)
class Hunted:
    """A hunt with all that it was made from.

    manifest: a row per case that was answered, with its truth, prediction and covariates; `rows` of its correspondence;
    `failed`: case -> reason, for the others; `table`: the file's name; `weights`: SHA-256 of the network's; `notes`: what there
    was to warn of, each once.
    """

    hunt: Hunt
    manifest: DataFrame
    rows: DataFrame
    failed: Mapping[str, str]
    patients: Patients
    table: str
    weights: str
    notes: tuple[str, ...] = ()


def hunt_table(
    path: Path,
    network: nn.Module,
    card: Card,
    asked: Asked,
    *,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[int], None] = lambda cases: None,
    step: Callable[[], None] = lambda: None,
) -> Hunted:
    """Answer all cases of a table and hunt in the answers. A case that fails is left out with its reason.

    The table is one that `radiolucent train` takes: image (its path starts at the table's folder), label, and where there
    are such columns case, patient, split and mask; all others are covariates.

    Raises:
        BadInput: a table or model that cannot be used, or no case that could be answered.
    """
    if card.task != "classification":
        raise BadInput("a classifier for a bias hunt", f"{card.name}, a model for {card.task}", "Choose another model.")
    if asked.target:
        card.index(asked.target)
    manifest = read_cases(path, card, asked)
    covariates = covariates_of(manifest, asked)
    answers = _Answers(say)
    for text in _of_all_splits(manifest, asked):
        answers.note(text)
    begin(len(manifest))
    for case in manifest.to_dict("records"):
        answers.add(case, network, card, asked)
        step()
    if not answers.predicted:
        reason = next(iter(answers.failed.values()))
        raise BadInput("a case that can be answered", f"none of {len(manifest)}: {reason}", "See above.")
    answered = manifest[manifest["case"].isin(list(answers.predicted))].reset_index(drop=True)
    answered.insert(2, "predicted", answered["case"].map(answers.predicted))
    patients = patients_of(answered)
    found = hunt(answers.rows, answered[["case", "truth", "predicted", *covariates]], covariates, patients=patients)
    return Hunted(
        found, answered, DataFrame(answers.rows), answers.failed, patients, path.name, weights_hash(network), tuple(answers.notes)
    )


@dataclass
class _Answers:
    """What was answered so far."""

    say: Callable[[str], None]
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    predicted: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Each remark is said once, however many cases give rise to it."""
        if text not in self.notes:
            self.notes[text] = None
            self.say(f"note: {text}")

    def add(self, case: Mapping[Any, Any], network: nn.Module, card: Card, asked: Asked) -> None:
        """Ask one more case; one that fails does not take the others along."""
        name = str(case["case"])
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InputWarning)
                self.predicted[name], found = _answer(case, network, card, asked)
            self.rows += [{"case": name, "class": case["truth"]} | row for row in found]
            for each in caught:
                self.note(str(each.message))
        except Exception as error:
            self.failed[name] = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            self.say(f"{name} failed: {self.failed[name]}")


def _of_all_splits(manifest: DataFrame, asked: Asked) -> list[str]:
    """A note, where the network may have been trained on some of the cases."""
    found = sorted(set(manifest["split"].astype(str))) if "split" in manifest.columns and not asked.split else []
    return [f"cases of {', '.join(found)} are hunted in together: choose one with --split"] if len(found) > 1 else []


def _answer(case: Mapping[str, Any], network: nn.Module, card: Card, asked: Asked) -> tuple[str, list[dict[str, Any]]]:
    """The class that the network says, and where its response lies."""
    prediction, targets = ask(case, network, card, asked)
    relevance = prediction.explain([asked.method], targets, classes=card.classes)[0].relevance[0]
    anatomy, marks = places(case, prediction.scan, asked)
    return class_name(prediction, card), correspondence(relevance, anatomy, annotations=marks, part=asked.part)


def read_cases(path: Path, card: Card, asked: Asked) -> DataFrame:
    """The table's rows that are asked for: case, truth, image and mask as paths, and all other columns."""
    table = read_table(path, ("case", "image", asked.label, asked.mask, "split", "patient", "patient_id"))
    missing = [name for name in ("image", asked.label) if name not in table.columns]
    if missing:
        have = ", ".join(map(str, table.columns))
        raise BadInput(f"the columns {', '.join(missing)} in {path.name}", have, "Name the column of classes with --label.")
    if asked.split:
        known = sorted(set(table["split"])) if "split" in table.columns else []
        if asked.split not in known:
            got = ", ".join(known) or "no column split"
            raise BadInput(f"cases whose split is {asked.split!r} in {path.name}", got, 'Choose one, or --split "" for all cases.')
        table = table[table["split"] == asked.split]
    table = table.assign(case=table["case"] if "case" in table.columns else table["image"])
    table = table[table["case"].isin(selected(table, asked.where))] if asked.where else table
    twice = table["case"][table["case"].duplicated()]
    if len(twice) or table.empty:
        raise BadInput(
            "cases, each once", f"{twice.iloc[0]!r} twice" if len(twice) else "none", "Correct the table, or the choice."
        )
    truth = _truth(table, path, card, asked)
    table = table.drop(columns=[c for c in ("truth", "predicted") if c in table.columns])
    table["image"] = [path.parent / file if file else None for file in table["image"]]
    if asked.mask in table.columns:
        table[asked.mask] = [path.parent / file if file else None for file in table[asked.mask]]
    first = ["case", "image"]
    table = table[first + [c for c in table.columns if c not in first]].reset_index(drop=True)
    table.insert(1, "truth", truth)
    return table


def _truth(table: DataFrame, path: Path, card: Card, asked: Asked) -> list[str]:
    """The true classes, as the card calls them; the first case whose class the model does not have is named."""
    found = []
    for case, name in zip(table["case"], table[asked.label], strict=True):
        try:
            found.append(name_of(card, card.index(name)))
        except BadInput as error:
            got = f"{name!r} for {case} in the column {asked.label} of {path.name}"
            do = f"{error.do} Leave other cases out with --where, or name another column with --label."
            raise BadInput("a class that the model has", got, do) from None
    return found


def covariates_of(manifest: DataFrame, asked: Asked) -> list[str]:
    """Those that are asked for, else every column that says something about the case."""
    missing = [name for name in asked.covariates if name not in manifest.columns]
    if missing:
        have = ", ".join(map(str, manifest.columns))
        raise BadInput(f"the covariates {', '.join(missing)} among the table's columns", have, "Correct --covariate.")
    none = {*NO_COVARIATES, asked.mask, "truth", "predicted"} - ({"label"} if asked.label != "label" else set())
    rest = [c for c in manifest.columns if str(c).casefold() not in none and c != asked.label]
    return list(asked.covariates) or rest


def ask(case: Mapping[str, Any], network: nn.Module, card: Card, asked: Asked) -> tuple[Prediction, Target]:
    """What the network says of a case, and the class that it says, or that is asked for, as the target."""
    if case["image"] is None:  # else the table's own folder would be read, as a DICOM series
        raise BadInput("a file in the column image", "an empty cell", "Fill it in.")
    prediction = predict(network, read_scan(Path(case["image"]), card, asked.plan), card.preprocessing)
    if is_segmentation(prediction, card):
        raise BadInput("a classifier's output (batch, classes)", "one for every pixel", "Choose another model.")
    return prediction, choose_targets(prediction, card, asked.plan)


def places(case: Mapping[str, Any], scan: Volume, asked: Asked) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Anatomy and annotations on the scan's grid: from the case's mask, or by the rule for radiographs."""
    file = case.get(asked.mask)
    if file is not None and not pd.isna(file):
        return {"anatomy": from_volume(io.read_labels(Path(file)), scan.grid)}, {}
    grey = scan if len(scan.data) == 1 else scan.like(scan.data.mean(0, keepdims=True))
    parts = radiograph_parts(grey, inverted=asked.inverted)
    return {name: parts[name] for name in ("bone", "soft tissue")}, {"marks": parts["marks"]}


def class_name(prediction: Prediction, card: Card) -> str:
    """The class that the network says."""
    return name_of(card, int(output_of(prediction, card).argmax(1)[0]))


def name_of(card: Card, index: int) -> str:
    """A class by its number, as the card calls it."""
    return card.classes[index] if card.classes else str(index)


def shown_first(ranking: DataFrame, count: int) -> Sequence[str]:
    """Cases to draw: the misclassified ones first, then correct ones (a third, where there are any), each by response outside."""
    wrong, right = (list(ranking["case"][ranking["correct"] == correct]) for correct in (False, True))
    most = max(count - max(1, count // 3), count - len(right))
    wrong = wrong[:most]
    return [*wrong, *right[: count - len(wrong)]]
