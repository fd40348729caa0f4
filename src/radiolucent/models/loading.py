"""Loading a model without running code that came with it."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.models.card import Card, find_card, read_card


def load(model: str | Path, weights: str | Path | None = None, *, trust: bool = False) -> tuple[nn.Module, Card]:
    """A model and its card.

    Args:
        model: a folder with a card and weights, a card file, or "module:factory" for a function or class
            of yours that gives an nn.Module when called without arguments.
        weights: safetensors or a state dict; None takes the card's, or the factory's own.
        trust: allow a card to name a factory outside MONAI, that is, to run code.

    Raises:
        BadInput: missing or unexpected keys (all are listed), a pickle that carries code, unknown names.
    """
    text = str(model)
    path = Path(text)
    if path.exists():
        card_path = find_card(path) if path.is_dir() else path
        card = read_card(card_path)
        network = _build(card, trust)
        load_weights(network, Path(weights) if weights else _inside(card_path.parent, card.weights))
    elif ":" in text:
        network = _module(_factory(text)(), text)
        card = Card(name=text, task="classification", network=text, weights=str(weights or ""))
        if weights:
            load_weights(network, Path(weights))
    else:
        raise BadInput("a model folder, a card file or module:factory", text, "Check the path.")
    return network.eval(), card


def _build(card: Card, trust: bool) -> nn.Module:
    source, _, name = card.network.partition(":")
    if source == "monai":
        try:
            import monai.networks.nets as nets
        except ImportError:
            raise BadInput("MONAI, which this model is built from", "not installed", 'pip install "radiolucent[monai]"') from None
        factory = getattr(nets, name, None)
        if factory is None:
            raise BadInput("a network of monai.networks.nets", name, "Correct the card's network.")
    elif trust:
        factory = _factory(card.network)
    else:
        raise BadInput(
            "a card whose network is monai:NAME", card.network, "It would run code that the card names. If you trust it: --trust-model."
        )
    try:
        return _module(factory(**card.arguments), card.network)
    except (TypeError, ValueError) as error:
        raise BadInput(f"arguments that {card.network} takes", str(error), "Correct the card's arguments.") from None


def _factory(text: str) -> Any:
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` has it, an installed command does not
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise BadInput("a module that can be imported", f"{module!r}: {error}", "Run from its folder, or install it.") from None
    except AttributeError:
        raise BadInput(f"a function or class {name!r} in {module}", "none", "Check the name after the colon.") from None


def _module(made: Any, name: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise BadInput(f"an nn.Module from {name}", type(made).__name__, "The factory must return the network.")
    return made


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadInput(f"weights inside {folder}", name, "A card may only name files beside it.")
    return path


def load_weights(network: nn.Module, path: Path) -> None:
    """Strictly: every key of the network, and no other, with the right shape."""
    state = read_state(path)
    own = network.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [f"{k}: {tuple(own[k].shape)} != {tuple(state[k].shape)}" for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unexpected or shapes:
        raise BadInput(
            f"weights for this {type(network).__name__} in {path.name}",
            f"missing keys {missing[:5]} ({len(missing)}), unexpected {unexpected[:5]} ({len(unexpected)}), other shapes {shapes[:3]} ({len(shapes)})",
            "Are the architecture's arguments those of the training?",
        )
    network.load_state_dict(state, strict=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from torch.save read with weights_only=True."""
    if not path.is_file():
        raise BadInput(f"weights at {path}", "no file there", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).strip().split("\n")[0]
        raise BadInput(
            f"weights only in {path.name}",
            f"a pickle that would run code ({first[:160]})",
            "It was blocked. Save the state dict alone: torch.save(model.state_dict(), ...), or safetensors.",
        ) from None
    except Exception as error:
        raise BadInput(f"safetensors or a state dict in {path.name}", f"{error}", "Is the file whole?") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BadInput(f"a state dict (name -> tensor) in {path.name}", type(state).__name__, "Save model.state_dict().")
    return state
