"""What is done to a case: the plan, what it means for a scan and a model, and the explanations that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction
from radiolucent.io.tables import Name
from radiolucent.methods import title
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.settings import among
from radiolucent.targets import Logits, Outputs, Overlapping, Region, Select, as_tensor, label_map, part_of
from radiolucent.trust import TrustCard, trust
from radiolucent.volume import Volume


@dataclass(frozen=True)
class Plan:
    """What is done to every case.

    Args:
        methods: one or more; they share the model's forward pass where they can.
        targets: class names or numbers; none means the predicted class, every output of a regression, or
            every predicted label of a segmentation.
        reduce: how a segmentation target adds up its voxels (see Region).
        frame, nonfinite, colour: how images are read (see io.read).
        parcellation, names: label image and its table of names; None takes a segmentation's own labels.
        series: the SeriesInstanceUID, where a scan's folder holds several DICOM series.
        check: how thoroughly it is asked whether the maps can be believed: quick, full or off (see radiolucent.trust).
        seg_percentile: for DICOM scans, where the outlined region begins among the positive relevance.
    """

    methods: tuple[Method, ...]
    targets: tuple[str, ...] = ()
    reduce: Literal["sum", "mean", "probability"] = "sum"
    frame: int | Literal["channels"] | None = None
    nonfinite: Literal["refuse", "zero"] = "refuse"
    colour: Literal["refuse", "grey", "channels"] = "refuse"
    parcellation: Path | None = None
    names: Path | None = None
    series: str | None = None
    seg_percentile: float = 99.0
    check: Literal["quick", "full", "off"] = "quick"

    def __post_init__(self) -> None:
        among(self, check=("quick", "full", "off"))


def read_scan(image: Path, card: Card, plan: Plan) -> Volume:
    """The scan, with as many channels as the model wants."""
    how: dict[str, Any] = {"frame": plan.frame, "nonfinite": plan.nonfinite, "colour": plan.colour, "series": plan.series}
    scan = io.read_channels(image, card.channels or 1, **how).noted(*card.notes)
    if card.channels is not None and len(scan.data) != card.channels:
        expected, got = f"{card.channels} channel(s), as {card.name} was trained on", f"{len(scan.data)} in {image.name}"
        raise BadInput(expected, got, "Give the matching image.")
    return scan


def chosen(prediction: Prediction, card: Card, plan: Plan) -> list[int]:
    """The outputs that are explained: those that the plan names, else what the model predicts, of a regression all."""
    output = output_of(prediction, card)
    card.check_outputs(output)
    if plan.targets:
        return [card.index(t) for t in plan.targets]
    if is_segmentation(prediction, card):
        if card.regions:
            found = [c for c in range(output.shape[1]) if (output[:, c] > 0).any()]
        else:
            found = [int(v) for v in torch.unique(label_map(output)) if v > 0]
        if not found:
            raise BadInput("a segmentation with a labelled voxel", "background everywhere", "Name a label with --target.")
        return found
    if card.task == "regression":
        return list(range(output.shape[1] if output.ndim > 1 else 1))
    return [int(_classes(output).argmax(1)[0])]


def choose_targets(prediction: Prediction, card: Card, plan: Plan) -> Target:
    """The plan's target names as a Target of the model's task; without names, what the model predicts."""
    output, indices = output_of(prediction, card), chosen(prediction, card, plan)
    target: Target
    if is_segmentation(prediction, card):
        target = (Overlapping if card.regions else Region)(*indices, reduce=plan.reduce)
    elif card.task == "regression":
        target = Outputs(*(indices if plan.targets else ()))
    else:
        _classes(output)
        target = Logits(*indices)
    return target if card.output is None else Select(card.output, target)


def _classes(output: Tensor) -> Tensor:
    """A classifier's output, which others are refused as."""
    if output.ndim != 2:
        expected, do = "a classifier's output (batch, classes)", "Is it a regression? Say so with --task."
        raise BadInput(expected, f"shape {tuple(output.shape)}", do)
    return output


def output_of(prediction: Prediction, card: Card) -> Tensor:
    """The part of the model's output that is explained."""
    return as_tensor(prediction.output if card.output is None else part_of(prediction.output, card.output))


def is_segmentation(prediction: Prediction, card: Card) -> bool:
    """Whether the model gives a label to every voxel."""
    return card.task == "segmentation" or output_of(prediction, card).ndim > 3


def segmentation(prediction: Prediction, card: Card) -> tuple[Parcellation | None, str]:
    """The labels that the model predicts as a parcellation, and what it is called; nothing for other models."""
    if not is_segmentation(prediction, card):
        return None, ""
    return Parcellation(prediction.labels(card.output, card.regions), class_names(prediction, card)), "the predicted segmentation"


def class_names(prediction: Prediction, card: Card) -> dict[int, Name]:
    """A name for every label that a segmentation model can give, whichever of them are in this scan."""
    known = card.label_names()
    values = (0, *card.regions) if card.regions else range(max(2, output_of(prediction, card).shape[1]))
    return {v: Name(known.get(v, f"label {v}")) for v in values if v or known}


@dataclass(frozen=True, eq=False)
class Explained:
    """One scan's explanations of `targets` by one model, the methods that gave none, with their reasons, remarks, trust cards."""

    prediction: Prediction
    explanations: Sequence[Explanation]
    failures: Mapping[str, str]
    notes: Sequence[str] = ()
    targets: Target | None = None
    cards: Sequence[TrustCard] = ()

    def summary(self, maps: Sequence[str]) -> dict[str, Any]:
        """Scores, files of the maps (`maps`: a folder for each explanation, or nothing), methods that failed."""
        return {
            "targets": {name: score for e in self.explanations for name, score in zip(e.targets, e.scores, strict=True)},
            "maps": {
                name: [f"{name}/target_{t}.nii.gz" for t in range(len(e.targets))]
                for name, e in zip(maps, self.explanations, strict=False)
            },
            "failed_methods": dict(self.failures),
        } | ({"trust": self._trust(maps)} if self.cards else {})

    def _trust(self, maps: Sequence[str]) -> dict[str, dict[str, str]]:
        """What became of each map's check, as its card says it: by the map's folder and target."""
        cards, told = iter(self.cards), {}
        for name, e in zip(maps, self.explanations, strict=False):
            own = {target: next(cards) for target in e.targets}
            told[name] = {target: card.stamp or card.word for target, card in own.items()}
        return told


def explain_all(prediction: Prediction, targets: Target, card: Card, plan: Plan, parcellation: Parcellation | None) -> Explained:
    """All of the plan's methods; one that fails does not take the others along, unless all do."""
    failures: dict[str, str] = {}
    errors: list[BadInput] = []

    def failed(method: Method, error: BadInput) -> None:
        errors.append(error)
        failures[title(method)] = "; ".join(filter(None, (failures.get(title(method)), str(error))))

    explanations = prediction.explain(
        plan.methods, targets, classes=card.classes, failed=failed, parcellation=parcellation, spread=card.spread
    )
    if not explanations and len(errors) == 1:
        raise errors[0]
    if not explanations:
        raise BadInput("at least one method that gives a map", "; ".join(f"{k}: {v}" for k, v in failures.items()), "See above.")
    cards = _cards(prediction, explanations, targets, card, plan, parcellation)
    return Explained(prediction, explanations, failures, targets=targets, cards=cards)


def _cards(
    prediction: Prediction,
    explanations: Sequence[Explanation],
    targets: Target,
    card: Card,
    plan: Plan,
    parcellation: Parcellation | None,
) -> list[TrustCard]:
    if plan.check == "off":
        return []
    return trust(prediction, explanations, targets, plan.check, classes=card.classes, parcellation=parcellation, spread=card.spread)
