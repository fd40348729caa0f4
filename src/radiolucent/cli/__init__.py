"""The command line: flags in, the package's functions called, words and an exit code out.

Exit codes: 0 done, 1 wrong usage (nothing was done), 3 some case failed (the others are done).
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from radiolucent.cli.measure import measure, metrics
from radiolucent.cli.study import app as study
from radiolucent.cli.terminal import progress, reason, table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="See through medical-imaging models."
)

Model = Annotated[
    str,
    typer.Option(
        "--model", help="A folder with a card, a card file, module:factory, nnunet:FOLDER, a MONAI bundle, or an archive."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Safetensors or a state dict; default: the card's.")]
Trust = Annotated[bool, typer.Option("--trust-model", help="Let code that comes with the model run; its SHA-256 is noted.")]
Task = Literal["classification", "regression", "segmentation"]
Reduce = Literal["sum", "mean", "probability"]
NonFinite = Literal["refuse", "zero"]
Colour = Literal["refuse", "grey", "channels"]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.command()
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
    weights: Weights = None,
    task: Annotated[Task | None, typer.Option(help="What the model does, where no card says it.")] = None,
    part: Annotated[str | None, typer.Option(help="Key or position to explain, where the model returns several.")] = None,
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
    trust_model: Trust = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Explain what a model does on one or more scans: maps on each scan's grid, a table and a report.

    Of a DICOM scan there are DICOM maps too; these carry the patient's data, as their source does.
    """
    from radiolucent.case import Plan, explain_case
    from radiolucent.errors import BadInput
    from radiolucent.hooks.taps import module_of
    from radiolucent.methods import default_method, from_settings, named_layers
    from radiolucent.models import Preprocessing
    from radiolucent.parcellation import Parcellation

    network, card = _load(model, weights, trust_model)
    if part is not None:
        card = replace(card, output=int(part) if part.isdecimal() else part)
    card = replace(card, task=task or card.task)
    plan = Plan(
        from_settings(method or [default_method(network)], set_, layer or [card.layer]),
        tuple(target),
        reduce,
        _frame(frame),
        nonfinite,
        colour,
        parcellation,
        names,
        series,
        seg_percentile,
    )
    if card.preprocessing == Preprocessing():
        print("note: the model says nothing of preprocessing: values and axes go in as they are stored", file=sys.stderr)
    for wanted in target:
        card.index(wanted)
    for name in (name for m in plan.methods for name in named_layers(m)):
        module_of(network, name)
    if names and not parcellation:
        raise BadInput("--names with --parcellation", "--names alone", "Give the label image too, or leave the names out.")
    regions = Parcellation.read(parcellation, names) if parcellation else None
    place = model.partition(":")[2] if model.startswith(("nnunet:", "bundle:")) else model
    inputs = [*images, *(Path(p) for p in (place, weights, parcellation, names) if p)]
    cases = _cases(images, out, overwrite, inputs)
    done: list[dict[str, Any]] = []
    with progress(len(cases), as_json) as (say, step):
        for image, folder in cases:
            try:
                summary = explain_case(image, folder, network, card, plan, regions, overwrite=overwrite, say=say)
                done.append({"status": "done", **summary})
            except Exception as error:  # one case must not take the others along
                done.append({"case": folder.name, "status": "failed", "reason": reason(error)})
                say(f"{image.name} failed: {reason(error)}")
            step()
    _finish(done, as_json)


@app.command()
def layers(
    model: Model,
    image: Annotated[Path | None, typer.Option(help="A scan to run; default: zeros of the card's size.")] = None,
    shape: Annotated[str | None, typer.Option(help="Without a card: channels and grid of the input, as in 1,96,96,96.")] = None,
    weights: Weights = None,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """List a model's layers with the shapes of their outputs, in the order in which they run."""
    import numpy as np

    from radiolucent import Volume, io, predict
    from radiolucent.errors import BadInput
    from radiolucent.hooks import last_layer

    network, card = _load(model, weights, trust_model)
    if image is not None:
        prediction = predict(network, io.read_channels(image, card.channels or 1), card.preprocessing)
    elif shape or card.preprocessing.size:
        size = _numbers(shape) if shape else (card.channels or 1, *(card.preprocessing.size or ()))
        prediction = predict(network, Volume(np.zeros(size, np.float32)))
    else:
        raise BadInput("the size of an input", "a card without preprocessing size", "Give --image or --shape 1,96,96,96.")
    found = prediction.layers
    auto = last_layer(found).partition("#")[0] if any(x.is_spatial and not x.is_output for x in found) else ""
    if as_json:
        rows = [{"layer": x.name, "kind": x.kind, "shape": list(x.shape), "runs": x.runs, "spatial": x.is_spatial} for x in found]
        print(json.dumps({"auto": auto, "layers": rows}, indent=1))
        return
    table(
        ["layer", "kind", "channels x grid", ""],
        [
            [x.name, x.kind, " x ".join(map(str, x.shape)), "auto" if x.name == auto else "" if x.is_spatial else "no grid"]
            for x in found
        ],
    )


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Show one method whole.")] = None, as_json: Json = False) -> None:
    """List the methods with their settings, or show one whole."""
    from dataclasses import MISSING, fields

    from radiolucent.methods import METHODS, describe, from_dict

    def settings(kind: type[Any]) -> dict[str, Any]:
        values = {}
        for field in fields(kind):
            factory = field.default_factory
            default = factory() if factory is not MISSING else None if field.default is MISSING else field.default
            values[field.name] = default if isinstance(default, (int, float, str, type(None))) else repr(default)
        return values

    if name is not None and name not in METHODS:
        from_dict({"method": name})  # raises, and lists what there is
    chosen = {name: METHODS[name]} if name else METHODS
    if as_json:
        print(json.dumps([{**describe(kind), "settings": settings(kind)} for kind in chosen.values()], indent=1))
    elif name:
        text = describe(METHODS[name])
        shown = ", ".join(f"{k}={v!r}" for k, v in settings(METHODS[name]).items())
        print(f"{name}: {text['summary']}\n\n{text['equation']}\n\n{text['meaning']}\n\nSettings: {shown or 'none'}")
    else:
        rows = [
            [key, describe(kind)["summary"], ", ".join(f"{k}={v}" for k, v in settings(kind).items())]
            for key, kind in METHODS.items()
        ]
        table(["method", "what it is", "settings (--set)"], rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("radiolucent-demo"), as_json: Json = False
) -> None:
    """Segment the hippocampus in a real brain scan and show where the model looked. Needs no network."""
    from radiolucent.demo import run

    with progress(1, as_json) as (say, _):
        summary = run(out, say)
    _finish([{"status": "done", **summary}], as_json)


app.command()(measure)
app.command()(metrics)
app.add_typer(study, name="study")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from radiolucent import __version__

        print(__version__)
        raise typer.Exit


def _load(model: str, weights: Path | None, trust: bool) -> tuple[Any, Any]:
    """The model and its card; what loading has to say becomes lines on standard error."""
    from radiolucent.errors import InputWarning
    from radiolucent.models import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        network, card = load(model, weights, trust=trust)
    for note in card.notes:
        print(f"note: {note}", file=sys.stderr)
    return network, card


def _numbers(text: str) -> tuple[int, ...]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise typer.BadParameter(f"--shape takes whole numbers such as 1,96,96,96, not {text!r}")
    return tuple(int(part) for part in text.split(","))


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
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".radiolucent-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput("a folder that can be written to", f"{out}: {error}", "Choose another --out.") from None
    return [(image, out / io.stem(image)) for image in images]


def _finish(done: list[dict[str, Any]], as_json: bool) -> None:
    failed = [d for d in done if d["status"] == "failed" or d.get("failed_methods")]
    if as_json:
        print(json.dumps({"cases": done}, indent=1))
    else:
        for case in done:
            if case["status"] == "done":
                scores = ", ".join(f"{name} {score:.5g}" for name, score in case["targets"].items())
                print(f"{case['case']}: {scores} ({case['seconds']} s)\n  report: {Path(case['report']).resolve()}")
            for method, reason in case.get("failed_methods", {}).items():
                print(f"  {method} failed: {reason}")
        if len(done) > 1 or failed:
            print(f"{sum(d['status'] == 'done' for d in done)} of {len(done)} cases done")
    if failed:
        raise typer.Exit(3)


def main() -> None:
    """Entry point: errors of usage and of input become one line and exit code 1."""
    from radiolucent.errors import BadInput

    try:
        app()
    except SystemExit as end:
        sys.exit(1 if end.code == 2 else end.code)  # 2 is the command-line library's own code for wrong usage
    except BrokenPipeError:  # `| head`: nobody reads on
        sys.stdout = None
    except (BadInput, OSError) as error:
        print(f"radiolucent: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
