"""`radiolucent explain` and `radiolucent demo`: from scans to maps, tables and reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from radiolucent.cli.options import (
    Json,
    Model,
    Overlap,
    Part,
    Trust,
    Weights,
    Windows,
    in_windows,
    load_model,
    part_of_card,
    place_of,
)
from radiolucent.cli.terminal import progress, reason

if TYPE_CHECKING:
    from torch import nn

    from radiolucent.beside import Beside
    from radiolucent.models import Card
    from radiolucent.parcellation import Parcellation
    from radiolucent.plan import Plan
    from radiolucent.protocols import Method

Task = Literal["classification", "regression", "segmentation"]
Reduce = Literal["sum", "mean", "probability"]
NonFinite = Literal["refuse", "zero"]
Colour = Literal["refuse", "grey", "channels"]
Check = Literal["quick", "full", "off"]


def explain(
    images: Annotated[list[Path], typer.Argument(help="Scans: NIfTI, MGZ, NPY, PNG, JPEG, TIFF, or DICOM (a series' folder).")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the results, one subfolder per scan.")],
    method: Annotated[list[str], typer.Option(help="Method, may be repeated; default: grad-cam (see `radiolucent methods`).")] = [],  # noqa: B006
    target: Annotated[list[str], typer.Option(help="Class name or number, may be repeated; default: what is predicted.")] = [],  # noqa: B006
    layer: Annotated[
        list[str], typer.Option(help="Layer for layer-wise methods, may be repeated; auto, or full for all with a grid.")
    ] = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="Setting of a method: samples=10 or smooth-grad.samples=10.")] = [],  # noqa: B006
    beside: Annotated[
        list[str], typer.Option(help="A further model for the same scan and targets (another seed, a 3D network), may be repeated.")
    ] = [],  # noqa: B006
    weights: Weights = None,
    task: Annotated[Task | None, typer.Option(help="What the model does, where no card says it.")] = None,
    part: Part = None,
    reduce: Annotated[Reduce, typer.Option(help="How a segmentation target adds up its voxels.")] = "sum",
    parcellation: Annotated[Path | None, typer.Option(help="Label image to add relevance up by.")] = None,
    names: Annotated[Path | None, typer.Option(help="Names of its labels: TSV, CSV, FreeSurfer table, dataset.json.")] = None,
    frame: Annotated[str | None, typer.Option(help="Which image of a 4D file, or channels.")] = None,
    nonfinite: Annotated[NonFinite, typer.Option(help="What happens to NaN and infinite voxels.")] = "refuse",
    colour: Annotated[Colour, typer.Option(help="What happens to colour images.")] = "refuse",
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a folder holds several DICOM series.")] = None,
    seg_percentile: Annotated[
        float, typer.Option(min=0, max=100, help="DICOM: outline the relevance from this percentile of the positive voxels.")
    ] = 99.0,
    check: Annotated[
        Check, typer.Option(help="Ask whether each map can be believed; quick costs up to 3 times the maps, or 64 images.")
    ] = "quick",
    window: Windows = None,
    overlap: Overlap = None,
    trust_model: Trust = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Explain what a model does on one or more scans: maps on each scan's grid, a table and a report.

    Of a DICOM scan there are DICOM maps too; these carry the patient's data, as their source does.
    """
    from radiolucent.methods import at_layer, default_method, from_settings
    from radiolucent.plan import Plan

    network, card = load_model(model, weights, trust_model)
    network = in_windows(network, card, window, overlap)
    card = replace(card, task=task or card.task, output=part_of_card(part, card))
    asked = from_settings(method or [default_method(network)], set_, layer or ["auto"])
    card, others = _beside(card, asked, [model, *beside], layer, trust_model)
    plan = Plan(
        tuple(at_layer(m, "auto" if layer else card.layer) for m in asked),
        tuple(target),
        reduce,
        _frame(frame),
        nonfinite,
        colour,
        parcellation,
        names,
        series,
        seg_percentile,
        check,
    )
    regions = _check(plan, network, card, others)
    inputs = [*images, *map(place_of, (model, *beside)), *(path for path in (weights, parcellation, names) if path)]
    cases = _cases(images, out, overwrite, inputs)
    _finish(_each(cases, network, card, plan, regions, others, overwrite, as_json), as_json)


def _beside(card: Card, asked: Sequence[Method], models: list[str], layers: list[str], trust: bool) -> tuple[Card, list[Beside]]:
    """The further models, `models[1:]`, with the methods that suit them; and the first one's card, its name apart from theirs."""
    from radiolucent.beside import Beside, names_apart, suited

    loaded = [load_model(model, None, trust) for model in models[1:]]
    first, *names = names_apart([card.name, *(own.name for _, own in loaded)], models)
    others = []
    for name, (network, own) in zip(names, loaded, strict=True):
        others.append(Beside(name, network, own, suited(network, asked, "auto" if layers else own.layer)))
    return replace(card, name=first), others


def _check(plan: Plan, network: nn.Module, card: Card, others: Sequence[Beside]) -> Parcellation | None:
    """Refuse what no scan can mend; the parcellation, which is the same for all scans."""
    from radiolucent.beside import theirs
    from radiolucent.errors import BadInput
    from radiolucent.hooks.taps import module_of
    from radiolucent.methods import named_layers
    from radiolucent.models import Preprocessing
    from radiolucent.parcellation import Parcellation

    for name, own in [("the model", card), *((other.name, other.card) for other in others)]:
        if own.preprocessing == Preprocessing():
            print(f"note: {name} says nothing of preprocessing: values and axes go in as they are stored", file=sys.stderr)
    indices = [card.index(wanted) for wanted in plan.targets]
    for other in others:
        theirs(indices, card, other)
    for model, methods in [(network, plan.methods), *((other.model, other.methods) for other in others)]:
        for layer in (layer for m in methods for layer in named_layers(m)):
            module_of(model, layer)
    if plan.names and not plan.parcellation:
        raise BadInput("--names with --parcellation", "--names alone", "Give the label image too, or leave the names out.")
    return Parcellation.read(plan.parcellation, plan.names) if plan.parcellation else None


def _each(
    cases: list[tuple[Path, Path]],
    network: nn.Module,
    card: Card,
    plan: Plan,
    regions: Parcellation | None,
    others: Sequence[Beside],
    overwrite: bool,
    as_json: bool,
) -> list[dict[str, Any]]:
    """All cases, one after the other: their summaries, or why they failed."""
    from radiolucent.case import explain_case

    done: list[dict[str, Any]] = []
    with progress(len(cases), as_json) as (say, step):
        for image, folder in cases:
            try:
                summary = explain_case(image, folder, network, card, plan, regions, beside=others, overwrite=overwrite, say=say)
                done.append({"status": "done", **summary})
            except Exception as error:  # one case must not take the others along
                done.append({"case": folder.name, "status": "failed", "reason": reason(error)})
                say(f"{image.name} failed: {reason(error)}")
            step()
    return done


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("radiolucent-demo"), as_json: Json = False
) -> None:
    """Segment the hippocampus in a real brain scan and show where the model looked. Needs no network."""
    from radiolucent.demo import run

    with progress(1, as_json) as (say, _):
        summary = run(out, say)
    _finish([{"status": "done", **summary}], as_json)


def _frame(text: str | None) -> Any:
    if text is None or text == "channels":
        return text
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"--frame takes a number from 0 or 'channels', not {text!r}")


def _cases(images: list[Path], out: Path, overwrite: bool, inputs: list[Path]) -> list[tuple[Path, Path]]:
    """Each image with its folder; what would lose or mix up results is refused before any work."""
    from radiolucent import io
    from radiolucent.errors import BadInput

    seen: dict[str, Path] = {}
    for image in images:
        name = io.stem(image).casefold()
        if name in seen:
            raise BadInput("scans whose names differ", f"{seen[name]} and {image}", "Rename one, or explain them into two folders.")
        seen[name] = image
        if image.resolve().parent == out.resolve():
            raise BadInput("an output folder apart from the scans", str(out), "Choose another --out.")
        folder = out / io.stem(image)
        if not io.stem(image):
            raise BadInput("a scan with a name before its suffix", image.name, "Rename it.")
        if image.is_dir() and out.resolve().is_relative_to(image.resolve()):  # the next reading would find our maps in it
            raise BadInput("an output folder outside the series", str(out), "Choose another --out.")
        if any(path.resolve().is_relative_to(folder.resolve()) for path in inputs):
            raise BadInput("results apart from what they are made of", f"{folder} holds an input", "Choose another --out.")
        if folder.exists() and not overwrite:
            raise BadInput("no results yet", f"the folder {folder}", "Choose another --out, or pass --overwrite.")
        if folder.exists() and any(folder.iterdir()) and not (folder / "summary.json").is_file():
            raise BadInput("earlier results to overwrite", f"{folder}, which holds something else", "Choose another --out.")
    io.check_writable(out)
    return [(image, out / io.stem(image)) for image in images]


def _checked(case: dict[str, Any]) -> list[str]:
    """What became of the maps' checks, where any was made: one line for each map that fails, and how many pass."""
    words = {f"{name}, {target}": word for name, own in case.get("trust", {}).items() for target, word in own.items()}
    passed = sum(word == "passes" for word in words.values())
    failed = [f"{name}: {word}" for name, word in words.items() if word.startswith("FAILS")]
    return [*failed, f"{passed} of {len(words)} maps pass their check (see the report and trust.json)"] if words else []


def _finish(done: list[dict[str, Any]], as_json: bool) -> None:
    failed = [d for d in done if d["status"] == "failed" or d.get("failed_methods")]
    if as_json:
        print(json.dumps({"cases": done}, indent=1))
    else:
        for case in done:
            if case["status"] == "done":
                scores = ", ".join(f"{name} {score:.5g}" for name, score in case["targets"].items())
                print(f"{case['case']}: {scores} ({case['seconds']} s)\n  report: {Path(case['report']).resolve()}")
                for line in _checked(case):
                    print(f"  {line}")
            for method, reason in case.get("failed_methods", {}).items():
                print(f"  {method} failed: {reason}")
        if len(done) > 1 or failed:
            print(f"{sum(d['status'] == 'done' for d in done)} of {len(done)} cases done")
    if failed:
        raise typer.Exit(3)
