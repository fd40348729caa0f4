"""A card with its weights, or a factory of the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from radiolucent.errors import BadInput
from radiolucent.models.card import Card, read_card
from radiolucent.models.loading import archives
from radiolucent.models.loading.factories import build, made, named
from radiolucent.models.loading.weights import load_weights


def load(path: Path, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    """The card's network with the card's weights, or with others."""
    card = read_card(path)
    file = weights or inside(path.parent, card.weights)
    if card.network == "archive":
        network, notes = archives.read(file, trust)
    else:
        network = build(card.network, card.arguments, trust)
        notes = load_weights(network, file, trust=trust)
    return network, replace(card, notes=notes)


def from_factory(text: str, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    """What "module:factory" gives, with weights where there are any. The user named the code, so it is trusted."""
    network = made(named(text), {}, text, f"a network from {text}", "Mend it, or name another.")
    notes = load_weights(network, weights, trust=trust) if weights else ()
    return network, Card(name=text, task="classification", network=text, weights=str(weights or ""), channels=None, notes=notes)


def inside(folder: Path, name: str) -> Path:
    """A file in the folder, by name: a card must not lead elsewhere."""
    path = folder / name if "\0" in name else (folder / name).resolve()
    if "\0" in name or not path.is_relative_to(folder.resolve()):
        raise BadInput(f"weights inside {folder}", name, "A card may only name files beside it.")
    return path
