"""Flags that several commands have, and the model that they stand for."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model", help="A folder with a card, a card file, module:factory, nnunet:FOLDER, a MONAI bundle, or an archive."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Safetensors or a state dict; default: the card's.")]
Trust = Annotated[bool, typer.Option("--trust-model", help="Let code that comes with the model run; its SHA-256 is noted.")]
Part = Annotated[str | None, typer.Option(help="Key or position to explain, where the model returns several.")]
Windows = Annotated[
    str | None, typer.Option("--window", help="Predict in windows of this size, as 96,96,96; or whole. Default: as the card says.")
]
Overlap = Annotated[float | None, typer.Option(help="Share of a window that lies in the next. Default: the card's, or 0.25.")]
Mass = Annotated[
    Literal["positive", "absolute"],
    typer.Option(help="What counts in a signed map: evidence for the target, or for and against."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def load_model(model: str, weights: Path | None, trust: bool) -> tuple[Any, Any]:
    """The model and its card; what loading has to say becomes lines on standard error."""
    from radiolucent.errors import InputWarning
    from radiolucent.models import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        network, card = load(model, weights, trust=trust)
    for note in card.notes:
        print(f"note: {note}", file=sys.stderr)
    return network, card


def place_of(model: str) -> Path:
    """Where --model lies."""
    return Path(model.partition(":")[2] if model.startswith(("nnunet:", "bundle:")) else model)


def part_of_card(text: str | None, card: Any) -> str | int | None:
    """--part as a key or a position; without it, the card's own."""
    return card.output if text is None else int(text) if text.isdecimal() else text


def in_windows(network: Any, card: Any, window: str | None, overlap: float | None) -> Any:
    """The model with --window and --overlap in the place of what the card says."""
    from radiolucent.errors import BadInput
    from radiolucent.tiling import Tiled, untiled

    if window is None and overlap is None:
        return network
    if window is not None and window != "whole" and not all(part.isdecimal() for part in window.split(",")):
        raise BadInput("--window as one number, one for each axis (96,96,96), or whole", window, "Correct it.")
    size = card.window if window is None else None if window == "whole" else tuple(map(int, window.split(",")))
    if size is None and overlap is not None:
        raise BadInput("--overlap with a window", "none, here or in the card", "Give --window 96,96,96 too.")
    network = untiled(network)
    if size is None:
        return network
    return Tiled(network, size if len(size) > 1 else size[0], card.overlap if overlap is None else overlap, card.blend)
