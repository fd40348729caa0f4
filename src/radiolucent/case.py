"""One case from its file to its folder: read, predict, explain, add up by region, report."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from radiolucent import io
from radiolucent.beside import Beside, check_beside, explain_beside, folder_of
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction, likeness, predict, slice_rows
from radiolucent.export import write_dicom
from radiolucent.io.tables import write_table
from radiolucent.methods import describe, title
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.plan import Explained, Plan, choose_targets, explain_all, is_segmentation, read_scan, segmentation
from radiolucent.protocols import Method
from radiolucent.regions import region_rows
from radiolucent.report import Anatomy, Page, write
from radiolucent.report.units import unit_pictures
from radiolucent.trust import as_json
from radiolucent.volume import Volume


def explain_case(
    image: Path,
    folder: Path,
    model: nn.Module,
    card: Card,
    plan: Plan,
    regions: Parcellation | None = None,
    *,
    beside: Sequence[Beside] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the case's folder, whole or not at all, and return its summary.

    The folder holds a subfolder per method (see Explanation.save), `segmentation.nii.gz` for a segmentation model,
    `regions.csv` where there is a parcellation, `slices.csv` of pooled slices, `trust.json` (see
    radiolucent.trust), `report.html` and `summary.json`. Where
    the scan is DICOM, its maps are there as DICOM too, which carry the patient's data (see write_dicom).
    A method that fails is named in the summary with its reason; if all fail, so does the case. `regions` is the plan's
    parcellation, where it was read before. Models `beside` it are explained for the same targets, their maps go into
    folders in `beside`, and `likeness.csv` says how alike they are.
    """
    start = time.perf_counter()
    prediction = predict(model, read_scan(image, card, plan), card.preprocessing)
    targets = choose_targets(prediction, card, plan)
    check_beside(beside, prediction, card, plan)
    say(f"explaining {image.name}: {', '.join(title(m) for m in plan.methods)}")
    parcellation, called = _parcellation(prediction, card, plan, regions)
    explained = explain_all(prediction, targets, card, plan, parcellation)
    others = explain_beside(image, beside, explained, card, plan, parcellation, say)
    with io.new_folder(folder, replace=overwrite) as new:
        told, remarks = _write_beside(new, image, others, plan)
        maps, left_out = _write(new, image, explained, card, plan, parcellation, called, others, remarks)
        notes = [*prediction.scan.notes, *remarks, *left_out]
        about = {"case": io.stem(image), "folder": str(folder), "report": str(folder / "report.html")}
        summary = about | explained.summary(maps) | {"notes": notes, "seconds": round(time.perf_counter() - start, 2)}
        summary |= _told(told, summary["failed_methods"]) if told else {}
        io.put(new / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _told(beside: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> dict[str, Any]:
    """What a summary says of the models beside, whose failures stand among the case's own."""
    theirs = {f"{name}: {m}": why for name, own in beside.items() for m, why in own["failed_methods"].items()}
    return {"beside": beside, "failed_methods": {**failed, **theirs}}


def _write_beside(new: Path, image: Path, others: Mapping[str, Explained], plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """The further models' maps and tables, each in a folder of its own: their summaries, and remarks."""
    told, remarks = {}, []
    for number, (name, explained) in enumerate(others.items(), 1):
        folder = new / "beside" / folder_of(name, number)
        maps, left_out = write_maps(folder, image, explained.explanations, plan)
        if slices := slice_rows(explained.explanations):
            write_table(folder / "slices.csv", slices)
        _write_cards(folder, explained)
        told[name] = explained.summary([f"beside/{folder.name}/{own}" for own in maps])
        failed = [f"{method} failed: {reason}" for method, reason in explained.failures.items()]
        said = [*failed, *left_out, *(remark for e in explained.explanations for remark in e.remarks)]
        remarks += [*explained.notes, *(f"{name}: {text}" for text in said)]
    return told, remarks


def _write(
    new: Path,
    image: Path,
    explained: Explained,
    card: Card,
    plan: Plan,
    parcellation: Parcellation | None,
    called: str,
    others: Mapping[str, Explained],
    remarks: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Maps, segmentation, tables and report of a case: the maps' names, and what was left out."""
    prediction = explained.prediction
    maps, left_out = write_maps(new, image, explained.explanations, plan)
    _write_cards(new, explained)
    if is_segmentation(prediction, card):
        io.write(new / "segmentation.nii.gz", prediction.labels(card.output, card.regions))
    tables = {
        "regions": region_rows(explained.explanations, parcellation.on(prediction.scan.grid)) if parcellation else [],
        "slices": slice_rows(explained.explanations),
        "likeness": likeness({card.name: explained.explanations, **{name: own.explanations for name, own in others.items()}}),
    }
    for name, rows in tables.items():
        if rows:
            write_table(new / f"{name}.csv", rows)
    outlined = {} if plan.parcellation else outlines(prediction, card)
    anatomy = Anatomy(parcellation, called, tables["regions"], outlined) if parcellation else None
    notes = [*remarks, *left_out]
    page = new / "report.html"
    left_out = left_out + write_page(page, io.stem(image), explained, card, anatomy, notes, others, tables["likeness"])
    return maps, left_out + [remark for e in explained.explanations for remark in e.remarks]


def _write_cards(folder: Path, explained: Explained) -> None:
    """`trust.json`, where the maps were checked."""
    if explained.cards:
        io.put(folder / "trust.json", as_json(explained.cards))


def write_page(
    path: Path,
    name: str,
    explained: Explained,
    card: Card,
    anatomy: Anatomy | None = None,
    notes: Sequence[str] = (),
    beside: Mapping[str, Explained] | None = None,
    alike: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """The case's report, with what other models made of it and how alike that is (see likeness). Returns what it leaves out."""
    shown, left_out = _shown(explained.explanations), []
    if len(shown) < len(explained.explanations):
        left_out = [f"{len(shown)} of {len(explained.explanations)} explanations are drawn here; all are in their folders"]
    asked, others = explained.targets, beside or {}
    page = Page(
        explained.prediction.scan,
        shown,
        name,
        subtitle=f"{card.name} ({card.task})",
        notes=[*(f"{method} failed: {reason}" for method, reason in explained.failures.items()), *notes, *left_out],
        facts=_facts(card),
        measured_in=_unit(card),
        anatomy=anatomy,
        model=card.name,
        beside={model: _shown(own.explanations) for model, own in others.items()},
        alike=alike,
        cards={"": explained.cards, **{model: own.cards for model, own in others.items()}},
        units=unit_pictures(explained.prediction, asked, shown, card.classes) if asked else (),
    )
    write(path, page)
    return left_out


def outlines(prediction: Prediction, card: Card) -> dict[str, int]:
    """Each class's label in the model's own segmentation, to be drawn around; none of labels that overlap."""
    return {} if card.regions or not is_segmentation(prediction, card) else {name: i for i, name in enumerate(card.classes)}


_MOST_DRAWN = 24


def _shown(explanations: Sequence[Explanation]) -> Sequence[Explanation]:
    """All, or, of more maps than a page should hold, explanations evenly spaced (over the layers), with the last."""
    most = max(1, _MOST_DRAWN // max(len(e.targets) for e in explanations))
    if len(explanations) <= most:
        return explanations
    last = len(explanations) - 1
    return [explanations[last - round(i * last / max(1, most - 1))] for i in reversed(range(most))]


def write_maps(folder: Path, image: Path, explanations: Sequence[Explanation], plan: Plan) -> tuple[list[str], list[str]]:
    """A subfolder per method, with DICOM maps beside the NIfTI ones for a DICOM scan: their names, and what was left out."""
    names, left_out = _folders([e.method for e in explanations]), []
    for name, explanation in zip(names, explanations, strict=True):
        explanation.save(folder / name)
        if io.is_dicom(image):
            reasons = write_dicom(explanation, folder / name, image, series=plan.series, percentile=plan.seg_percentile)
            left_out += [f"{name}: {reason}" for reason in reasons]
    return names, left_out


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


def _unit(card: Card) -> str:
    """What a regression's outputs are measured in, where the card says it."""
    return str(card.about.get("unit", "")).replace("mm3", "mm³") if card.task == "regression" else ""


def _facts(card: Card) -> dict[str, str]:
    wanted = ("data", "licence", "limits")
    return {f"model {key}": str(card.about[key]) for key in wanted if key in card.about}


def _folders(methods: Sequence[Method]) -> list[str]:
    """grad-cam; grad-cam-layer3, grad-cam-layer4 where a method looks at several layers; then numbers."""
    names = [describe(m)["name"] for m in methods]
    layers = [re.sub(r"[^\w.#+-]", "_", getattr(m, "layer", "")) for m in methods]
    names = [f"{n}-{layer}" if layer and names.count(n) > 1 else n for n, layer in zip(names, layers, strict=True)]
    return [f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]
