"""One case from its file to its folder: read, predict, explain, add up by region, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.explanation import Prediction, predict
from radiolucent.io.tables import Name, write_table
from radiolucent.methods import describe
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.report import region_rows, write_report
from radiolucent.targets import Logits, Outputs, Region, Select, as_tensor, part_of


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
    """

    methods: tuple[Method, ...]
    targets: tuple[str, ...] = ()
    reduce: Literal["sum", "mean", "probability"] = "sum"
    frame: int | Literal["channels"] | None = None
    nonfinite: Literal["refuse", "zero"] = "refuse"
    colour: Literal["refuse", "grey", "channels"] = "refuse"
    parcellation: Path | None = None
    names: Path | None = None


def explain_case(
    image: Path,
    folder: Path,
    model: nn.Module,
    card: Card,
    plan: Plan,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the case's folder, whole or not at all, and return its summary.

    The folder holds a subfolder per method (see Explanation.save), `segmentation.nii.gz` for a
    segmentation model, `regions.csv` where there is a parcellation, `report.html` and `summary.json`.
    A method that fails is named in the summary with its reason; if all fail, so does the case.
    """
    start = time.perf_counter()
    how = {"frame": plan.frame, "nonfinite": plan.nonfinite, "colour": plan.colour}
    scan = io.read_channels(image, card.channels or 1, **how).noted(*card.notes)
    if card.channels is not None and len(scan.data) != card.channels:
        raise BadInput(
            f"{card.channels} channel(s), as {card.name} was trained on",
            f"{len(scan.data)} in {image.name}",
            "Give the matching image.",
        )
    prediction = predict(model, scan, card.preprocessing)
    targets = choose_targets(prediction, card, plan)
    failures: dict[str, str] = {}
    say(f"explaining {image.name}: {', '.join(describe(m)['name'] for m in plan.methods)}")
    explanations = prediction.explain(
        plan.methods, targets, classes=card.classes, failed=lambda m, e: failures.update({describe(m)["name"]: str(e)})
    )
    if not explanations:
        raise BadInput("at least one method that gives a map", "; ".join(f"{k}: {v}" for k, v in failures.items()), "See above.")
    segments = _is_segmentation(_output(prediction, card), card)
    parcellation, parcellation_name = _parcellation(prediction, card, plan, segments)
    if parcellation and parcellation.labels.grid != scan.grid and not (scan.has_world and parcellation.labels.has_world):
        raise BadInput(
            f"a parcellation on the scan's own grid ({scan.grid}), since one of them has no world space",
            f"{parcellation.labels.grid}",
            "Resample it to the scan's voxels first.",
        )
    with io.new_folder(folder, replace=overwrite) as new:
        folders = _unique([describe(e.method)["name"] for e in explanations])
        for name, explanation in zip(folders, explanations, strict=True):
            explanation.save(new / name)
        if segments:
            io.write(new / "segmentation.nii.gz", prediction.labels(card.output))
        if parcellation:
            write_table(new / "regions.csv", region_rows(explanations, parcellation.on(scan.grid)))
        write_report(
            new / "report.html",
            scan,
            explanations,
            title=io.stem(image),
            subtitle=f"{card.name} ({card.task})",
            parcellation=parcellation,
            parcellation_name=parcellation_name,
            outlines={name: i for i, name in enumerate(card.classes)} if segments and not plan.parcellation else None,
            notes=[f"{method} failed: {reason}" for method, reason in failures.items()],
            facts=_facts(card),
        )
        summary = {
            "case": io.stem(image),
            "folder": str(folder),
            "report": str(folder / "report.html"),
            "targets": dict(zip(explanations[0].targets, explanations[0].scores, strict=True)),
            "maps": {
                name: [f"{name}/target_{t}.nii.gz" for t in range(len(e.targets))]
                for name, e in zip(folders, explanations, strict=True)
            },
            "failed_methods": failures,
            "notes": list(scan.notes),
            "seconds": round(time.perf_counter() - start, 2),
        }
        io.put(new / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def choose_targets(prediction: Prediction, card: Card, plan: Plan) -> Target:
    """The plan's target names as a Target of the model's task; without names, what the model predicts."""
    output = _output(prediction, card)
    indices = [card.index(t) for t in plan.targets]
    chosen: Target
    if _is_segmentation(output, card):
        if not indices:
            indices = [int(v) for v in torch.unique(output.argmax(1) if output.shape[1] > 1 else (output > 0).long()) if v > 0]
        if not indices:
            raise BadInput("a segmentation with a labelled voxel", "background everywhere", "Name a label with --target.")
        chosen = Region(*indices, reduce=plan.reduce)
    elif card.task == "regression":
        chosen = Outputs(*indices)
    else:
        if output.ndim != 2:
            raise BadInput(
                "a classifier's output (batch, classes)", f"shape {tuple(output.shape)}", "Is it a regression? Say so with --task."
            )
        chosen = Logits(*(indices or [int(output.argmax(1)[0])]))
    return chosen if card.output is None else Select(card.output, chosen)


def _output(prediction: Prediction, card: Card) -> Tensor:
    return as_tensor(prediction.output if card.output is None else part_of(prediction.output, card.output))


def _is_segmentation(output: Tensor, card: Card) -> bool:
    return card.task == "segmentation" or output.ndim > 3


def _parcellation(prediction: Prediction, card: Card, plan: Plan, segments: bool) -> tuple[Parcellation | None, str]:
    if plan.parcellation:
        return Parcellation.read(plan.parcellation, plan.names), plan.parcellation.name
    if not segments:
        return None, ""
    labels = prediction.labels(card.output)
    values = {int(v) for v in torch.unique(torch.from_numpy(labels.data))}
    names = {v: Name(card.classes[v] if v < len(card.classes) else f"label {v}") for v in values}
    return Parcellation(labels, names), "the predicted segmentation"


def _facts(card: Card) -> dict[str, str]:
    wanted = ("data", "licence", "limits")
    return {f"model {key}": str(card.about[key]) for key in wanted if key in card.about}


def _unique(names: Sequence[str]) -> list[str]:
    """grad-cam, grad-cam-2, ... where a method occurs with several settings."""
    return [f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]
