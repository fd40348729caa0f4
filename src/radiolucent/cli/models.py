"""`radiolucent layers` and `radiolucent methods`: what can be explained, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from radiolucent.cli.options import Json, Model, Part, Trust, Weights, load_model, part_of_card
from radiolucent.cli.terminal import table


def layers(
    model: Model,
    image: Annotated[Path | None, typer.Option(help="A scan to run; default: zeros of the card's size.")] = None,
    shape: Annotated[str | None, typer.Option(help="Without a card: channels and grid of the input, as in 1,96,96,96.")] = None,
    part: Part = None,
    weights: Weights = None,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """List a model's layers with the shapes of their outputs, in the order in which they run."""
    import numpy as np

    from radiolucent import Volume, io, predict
    from radiolucent.errors import BadInput

    network, card = load_model(model, weights, trust_model)
    grid = card.preprocessing.size or card.window
    if image is not None:
        prediction = predict(network, io.read_channels(image, card.channels or 1), card.preprocessing)
    elif shape or grid:
        size = _numbers(shape) if shape else (card.channels or 1, *(grid or ()))
        prediction = predict(network, Volume(np.zeros(size, np.float32)))
    else:
        raise BadInput("the size of an input", "a card without preprocessing size", "Give --image or --shape 1,96,96,96.")
    found = prediction.layers
    has_auto = any(x.is_spatial and not x.is_output for x in found)
    auto = prediction.auto(part_of_card(part, card)).partition("#")[0] if has_auto else ""
    own = "" if card.layer == "auto" else card.layer.partition("#")[0]
    if as_json:
        rows = [
            {"layer": x.name, "kind": x.kind, "shape": x.shape, "cells": x.cells, "runs": x.runs, "spatial": x.is_spatial}
            for x in found
        ]
        print(json.dumps({"auto": auto, "card": own, "layers": rows}, indent=1))
        return
    marks = {x.name: ", ".join(word for word, name in (("auto", auto), ("the card's", own)) if name == x.name) for x in found}
    table(
        ["layer", "kind", "output", "cells", ""],
        [[x.name, x.kind, _by(x.shape), _by(x.cells) if x.is_spatial else "no grid", marks[x.name]] for x in found],
    )


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def methods(name: Annotated[str | None, typer.Argument(help="Show one method whole.")] = None, as_json: Json = False) -> None:
    """List the methods with their settings, or show one whole."""
    from dataclasses import MISSING, fields, is_dataclass

    from radiolucent.methods import METHODS, describe, from_dict

    def settings(kind: type[Any]) -> dict[str, Any]:
        values = {}
        for field in fields(kind):
            factory = field.default_factory
            default = factory() if factory is not MISSING else None if field.default is MISSING else field.default
            values[field.name] = describe(type(default))["name"] if is_dataclass(default) else default
        return values

    def shown(setting: str, default: Any) -> str:
        return f"{setting}={'METHOD' if default is None else default}"

    if name is not None and name not in METHODS:
        from_dict({"method": name})  # raises, and lists what there is
    chosen = {name: METHODS[name]} if name else METHODS
    if as_json:
        print(json.dumps([{**describe(kind), "settings": settings(kind)} for kind in chosen.values()], indent=1))
    elif name:
        text = describe(METHODS[name])
        listed = ", ".join(shown(k, v) for k, v in settings(METHODS[name]).items())
        print(f"{name}: {text['summary']}\n\n{text['equation']}\n\n{text['meaning']}\n\nSettings (--set): {listed or 'none'}")
    else:
        rows = [
            [key, describe(kind)["summary"], ", ".join(shown(k, v) for k, v in settings(kind).items())]
            for key, kind in METHODS.items()
        ]
        table(["method", "what it is", "settings (--set)"], rows)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (3, 4) or not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"--shape takes channels and a grid of 2 or 3 axes, such as 1,96,96,96, not {text!r}")
    return tuple(int(part) for part in parts)
