"""One case from its file to its folder: read, predict, explain, add up by region, report."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction, predict, slice_rows
from radiolucent.export import write_dicom
from radiolucent.io.tables import Name, write_table
from radiolucent.methods import describe, title
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.regions import region_rows
from radiolucent.report import write_report
from radiolucent.targets import Logits, Outputs, Overlapping, Region, Select, as_tensor, label_map, part_of
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


def explain_case(
    image: Path,
    folder: Path,
    model: nn.Module,
    card: Card,
    plan: Plan,
    regions: Parcellation | None = None,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the case's folder, whole or not at all, and return its summary.

    The folder holds a subfolder per method (see Explanation.save), `segmentation.nii.gz` for a segmentation model,
    `regions.csv` where there is a parcellation, `slices.csv` of pooled slices, `report.html` and `summary.json`. Where
    the scan is DICOM, its maps are there as DICOM too, which carry the patient's data (see write_dicom).
    A method that fails is named in the summary with its reason; if all fail, so does the case. `regions` is the plan's
    parcellation, where it was read before.
    """
    start = time.perf_counter()
    prediction = predict(model, read_scan(image, card, plan), card.preprocessing)
    targets = choose_targets(prediction, card, plan)
    say(f"explaining {image.name}: {', '.join(title(m) for m in plan.methods)}")
    parcellation, called = _parcellation(prediction, card, plan, regions)
    explained = explain_all(prediction, targets, card, plan, parcellation)
    with io.new_folder(folder, replace=overwrite) as new:
        maps, left_out = _write(new, image, explained, card, plan, parcellation, called)
        summary = {
            "case": io.stem(image),
            "folder": str(folder),
            "report": str(folder / "report.html"),
            **explained.summary(maps),
            "notes": [*prediction.scan.notes, *left_out],
            "seconds": round(time.perf_counter() - start, 2),
        }
        io.put(new / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _write(
    new: Path, image: Path, explained: Explained, card: Card, plan: Plan, parcellation: Parcellation | None, called: str
) -> tuple[list[str], list[str]]:
    """Maps, segmentation, table and report of a case: the maps' names, and what was left out."""
    prediction = explained.prediction
    maps, left_out = write_maps(new, image, explained.explanations, plan)
    if is_segmentation(prediction, card):
        io.write(new / "segmentation.nii.gz", prediction.labels(card.output, card.regions))
    rows = region_rows(explained.explanations, parcellation.on(prediction.scan.grid)) if parcellation else []
    if rows:
        write_table(new / "regions.csv", rows)
    if slices := slice_rows(explained.explanations):
        write_table(new / "slices.csv", slices)
    shown: dict[str, Any] = {"parcellation": parcellation, "parcellation_name": called, "regions": rows}
    shown |= {"outlined": not plan.parcellation, "notes": left_out}
    left_out = left_out + write_page(new / "report.html", io.stem(image), explained, card, **shown)
    return maps, left_out + [remark for e in explained.explanations for remark in e.remarks]


@dataclass(frozen=True, eq=False)
class Explained:
    """One scan's explanations, and the methods that gave none, with their reasons."""

    prediction: Prediction
    explanations: Sequence[Explanation]
    failures: Mapping[str, str]

    def summary(self, maps: Sequence[str]) -> dict[str, Any]:
        """Scores, files of the maps (`maps`: a folder for each explanation, or nothing), methods that failed."""
        return {
            "targets": {name: score for e in self.explanations for name, score in zip(e.targets, e.scores, strict=True)},
            "maps": {
                name: [f"{name}/target_{t}.nii.gz" for t in range(len(e.targets))]
                for name, e in zip(maps, self.explanations, strict=False)
            },
            "failed_methods": dict(self.failures),
        }


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
    return Explained(prediction, explanations, failures)


def write_page(
    path: Path,
    name: str,
    explained: Explained,
    card: Card,
    *,
    parcellation: Parcellation | None,
    parcellation_name: str,
    regions: Sequence[Mapping[str, Any]],
    outlined: bool,
    notes: Sequence[str] = (),
) -> list[str]:
    """The case's report; `outlined` says that the parcellation is the model's segmentation. Returns what it leaves out."""
    shown, left_out = _shown(explained.explanations), []
    if len(shown) < len(explained.explanations):
        left_out = [f"{len(shown)} of {len(explained.explanations)} explanations are drawn here; all are in their folders"]
    outlines = {name: i for i, name in enumerate(card.classes)}
    write_report(
        path,
        explained.prediction.scan,
        shown,
        title=name,
        subtitle=f"{card.name} ({card.task})",
        parcellation=parcellation,
        parcellation_name=parcellation_name,
        regions=regions,
        outlines=outlines if outlined and not card.regions and is_segmentation(explained.prediction, card) else None,
        notes=[*(f"{method} failed: {reason}" for method, reason in explained.failures.items()), *notes, *left_out],
        facts=_facts(card),
    )
    return left_out


_MOST_DRAWN = 24


def _shown(explanations: Sequence[Explanation]) -> Sequence[Explanation]:
    """All, or, of more maps than a page should hold, explanations evenly spaced (over the layers), with the last."""
    most = max(1, _MOST_DRAWN // max(len(e.targets) for e in explanations))
    if len(explanations) <= most:
        return explanations
    last = len(explanations) - 1
    return [explanations[last - round(i * last / max(1, most - 1))] for i in reversed(range(most))]


def read_scan(image: Path, card: Card, plan: Plan) -> Volume:
    """The scan, with as many channels as the model wants."""
    how: dict[str, Any] = {"frame": plan.frame, "nonfinite": plan.nonfinite, "colour": plan.colour, "series": plan.series}
    scan = io.read_channels(image, card.channels or 1, **how).noted(*card.notes)
    if card.channels is not None and len(scan.data) != card.channels:
        expected, got = f"{card.channels} channel(s), as {card.name} was trained on", f"{len(scan.data)} in {image.name}"
        raise BadInput(expected, got, "Give the matching image.")
    return scan


def write_maps(folder: Path, image: Path, explanations: Sequence[Explanation], plan: Plan) -> tuple[list[str], list[str]]:
    """A subfolder per method, with DICOM maps beside the NIfTI ones for a DICOM scan: their names, and what was left out."""
    names, left_out = _folders([e.method for e in explanations]), []
    for name, explanation in zip(names, explanations, strict=True):
        explanation.save(folder / name)
        if io.is_dicom(image):
            reasons = write_dicom(explanation, folder / name, image, series=plan.series, percentile=plan.seg_percentile)
            left_out += [f"{name}: {reason}" for reason in reasons]
    return names, left_out


def choose_targets(prediction: Prediction, card: Card, plan: Plan) -> Target:
    """The plan's target names as a Target of the model's task; without names, what the model predicts."""
    output = output_of(prediction, card)
    card.check_outputs(output)
    indices = [card.index(t) for t in plan.targets]
    chosen: Target
    if is_segmentation(prediction, card):
        if not indices and card.regions:
            indices = [c for c in range(output.shape[1]) if (output[:, c] > 0).any()]
        elif not indices:
            indices = [int(v) for v in torch.unique(label_map(output)) if v > 0]
        if not indices:
            raise BadInput("a segmentation with a labelled voxel", "background everywhere", "Name a label with --target.")
        chosen = (Overlapping if card.regions else Region)(*indices, reduce=plan.reduce)
    elif card.task == "regression":
        chosen = Outputs(*indices)
    else:
        if output.ndim != 2:
            raise BadInput(
                "a classifier's output (batch, classes)", f"shape {tuple(output.shape)}", "Is it a regression? Say so with --task."
            )
        chosen = Logits(*(indices or [int(output.argmax(1)[0])]))
    return chosen if card.output is None else Select(card.output, chosen)


def output_of(prediction: Prediction, card: Card) -> Tensor:
    """The part of the model's output that is explained."""
    return as_tensor(prediction.output if card.output is None else part_of(prediction.output, card.output))


def is_segmentation(prediction: Prediction, card: Card) -> bool:
    """Whether the model gives a label to every voxel."""
    return card.task == "segmentation" or output_of(prediction, card).ndim > 3


def _parcellation(prediction: Prediction, card: Card, plan: Plan, regions: Parcellation | None) -> tuple[Parcellation | None, str]:
    """The parcellation that is asked for, else the segmentation that the model made, and what it is called."""
    scan = prediction.scan
    if not plan.parcellation:
        return segmentation(prediction, card)
    return fitting(regions or Parcellation.read(plan.parcellation, plan.names), scan), plan.parcellation.name


def fitting(parcellation: Parcellation, scan: Volume) -> Parcellation:
    """The parcellation, if it can be laid on the scan: both have a world space, or the same grid."""
    if parcellation.labels.grid != scan.grid and not (scan.has_world and parcellation.labels.has_world):
        raise BadInput(
            f"a parcellation on the scan's own grid ({scan.grid}), since one of them has no world space",
            f"{parcellation.labels.grid}",
            "Resample it to the scan's voxels first.",
        )
    return parcellation


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


def _facts(card: Card) -> dict[str, str]:
    wanted = ("data", "licence", "limits")
    return {f"model {key}": str(card.about[key]) for key in wanted if key in card.about}


def _folders(methods: Sequence[Method]) -> list[str]:
    """grad-cam; grad-cam-layer3, grad-cam-layer4 where a method looks at several layers; then numbers."""
    names = [describe(m)["name"] for m in methods]
    layers = [re.sub(r"[^\w.#+-]", "_", getattr(m, "layer", "")) for m in methods]
    names = [f"{n}-{layer}" if layer and names.count(n) > 1 else n for n, layer in zip(names, layers, strict=True)]
    return [f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]
