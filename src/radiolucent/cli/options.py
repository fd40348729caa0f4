"""Flags that several commands have, and the model that they stand for."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

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


def part_of_card(text: str | None, card: Any) -> str | int | None:
    """--part as a key or a position; without it, the card's own."""
    return card.output if text is None else int(text) if text.isdecimal() else text
