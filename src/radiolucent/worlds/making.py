"""A world's folder, whole or not at all: a network that has learnt the world, cases that it has not seen, and their truth.

world.json               what it is, how it was made, and what the network knows of the cause
model/                   card.json, model.safetensors: what `radiolucent.load` and `radiolucent explain` take
cases.csv                a row per case (see `ROW`)
cases/CASE.nii.gz        the images, as the network takes them
truth/CASE.nii.gz        0 and 1: the voxels of the parts that cause the output; none where nothing does
parts/PART/CASE.nii.gz   likewise, of each part that is there
labels/CASE.nii.gz       of a segmentation: the label map
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.io.tables import write_table
from radiolucent.methods import describe
from radiolucent.models import Card
from radiolucent.settings import read
from radiolucent.training.folder import write_model
from radiolucent.version import VERSION
from radiolucent.volume import Volume
from radiolucent.worlds.heads import Head, parted, read_heads
from radiolucent.worlds.learning import Training, card_of, drawn, fit
from radiolucent.worlds.planting import Case, World
from radiolucent.worlds.testing import SEED, effects, outputs_of, performance, right

FORMAT = 1
ROW = ("case", "file", "label", "predicted", "right", "truth")
"""The first columns of cases.csv: paths are relative to the folder, "" where there is no such file; right is yes or no."""


def make(
    world: World,
    scans: str | Path,
    out: str | Path,
    training: Training | None = None,
    *,
    size: int = 24,
    cases: int = 40,
    tested: int = 200,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train a network on a world, test it, and write all of it; returns what world.json says.

    Args:
        world: such as `Lesion()`.
        scans: a folder of 3 scans or more; the last third, by name, is for the test alone.
        out: a folder that is new, or replaced with `overwrite`.
        size: voxels a side.
        cases: how many of the `tested` ones are written.
        say, step: are told what happens, and of each step of the training.

    Raises:
        BadInput: scans that cannot be used, a world that does not fit into them, a folder that is taken.
    """
    training = training or Training()
    if not 1 <= cases <= tested:
        raise BadInput("1 case or more, and not more than are tested", f"{cases} of {tested}", "Correct --cases.")
    with io.new_folder(Path(out), replace=overwrite) as new:
        heads = read_heads(scans, size)
        known, unseen = parted(heads)
        say(f"{world.name}: {training.steps} steps on {len(known)} scans, tested on {len(unseen)} others")
        began = time.perf_counter()
        network, weights = fit(world, known, training, step)
        seconds = round(time.perf_counter() - began, 1)
        fair = world.fair()
        found = drawn(fair, unseen, SEED, tested)
        outputs = outputs_of(network, found)
        test = {name: round(value, 4) for name, value in performance(fair, found, outputs).items()}
        card = _card(world, size, found, test)
        facts = _facts(world, training, heads, known, card) | {"seconds": seconds, "test": test}
        facts["effects"] = effects(fair, network, unseen, min(tested, 100))
        (new / "model").mkdir()
        write_model(new / "model", weights, card)
        rows = [_written(new, world, f"case-{n:03d}", *one) for n, one in enumerate(_some(fair, found, outputs, cases))]
        write_table(new / "cases.csv", rows, ROW)
        io.put(new / "world.json", json.dumps(facts, indent=1).encode())
    say(f"{world.name}: {', '.join(f'{name} {value:g}' for name, value in test.items())} ({seconds:g} s)")
    return facts


def world_of(kinds: dict[str, type[Any]], name: str, settings: Sequence[str] = ()) -> World:
    """A world by name, with settings such as "agreement=0.8" or "radius=2,3"."""
    if name not in kinds:
        raise BadInput(f"a world among {', '.join(kinds)}", repr(name), "Choose one of them.")
    known = kinds[name].__dataclass_fields__
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key not in known or not equals:
            raise BadInput(f"settings of {name} as NAME=VALUE, among {', '.join(known)}", repr(setting), "Correct it.")
        try:
            one = known[key].type in ("int", "float")
            values[key] = read(known[key].type, text) if one else tuple(float(part) for part in text.split(","))
        except (TypeError, ValueError):
            raise BadInput(f"{known[key].type} for {key}", repr(text), "Two numbers are written as 2,3.") from None
    found: World = kinds[name](**values)
    return found


def _card(world: World, size: int, cases: Sequence[Case], test: dict[str, float]) -> Card:
    """The model card with what the test found; a regression's has the mean and spread of the truths."""
    card = replace(card_of(world, size), about={"world": world.name, "test": test, "limits": "A toy; not for diagnosis."})
    if world.task != "regression":
        return card
    values = np.array([case.target for case in cases])
    return replace(card, mean=(float(values.mean()),), spread=(float(values.std(ddof=1)),))


def _facts(world: Any, training: Training, heads: Sequence[Head], known: Sequence[Head], card: Card) -> dict[str, Any]:
    """What the world is and what it was made from: with this, it can be made again."""
    words = describe(type(world))
    return {
        "format": FORMAT,
        "world": world.name,
        "settings": asdict(world),
        "summary": words["summary"],
        "equation": words["equation"],
        "task": world.task,
        "classes": list(world.classes),
        "parts": list(world.parts),
        "cause": list(world.cause),
        "size": heads[0].size,
        "heads": [{"name": h.name, "sha256": h.digest, "split": "train" if h in known else "test"} for h in heads],
        "training": asdict(training),
        "network": {"network": card.network, "arguments": dict(card.arguments)},
        "versions": {"radiolucent": VERSION, "torch": torch.__version__, "numpy": np.__version__},
    }


def _some(world: World, cases: Sequence[Case], outputs: Array, count: int) -> list[tuple[Case, Array, bool]]:
    good = right(world, cases, outputs)
    return [(cases[n], outputs[n], bool(good[n])) for n in range(count)]


def _written(folder: Path, world: World, name: str, case: Case, output: Array, good: bool) -> dict[str, Any]:
    """One case's files, and its row."""

    def put(kind: str, data: Array) -> str:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        file = f"{kind}/{name}.nii.gz"
        io.write(folder / file, Volume(data if data.ndim == 4 else data[None].astype(np.uint8), case.grid.affine))
        return file

    row = {"case": name, "file": put("cases", case.image), "label": case.label, "predicted": _said(world, output)}
    row |= {"right": "yes" if good else "no", "truth": put("truth", case.truth) if case.truth.any() else ""}
    if world.task == "segmentation":
        row["segmentation"] = put("labels", case.target)
    masks = {part: case.masks.get(part) for part in world.parts}
    return row | {part: "" if mask is None else put(f"parts/{part}", mask) for part, mask in masks.items()}


def _said(world: World, output: Array) -> str:
    if world.task == "classification":
        return world.classes[int(output.argmax())]
    return f"{output[0]:.2f}" if world.task == "regression" else world.classes[1] if output.any() else ""
