"""Loading a model without running code that came with it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.io.kinds import kind_of
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
    module, _, factory = text.partition(":")
    if os.path.exists(path):
        if path.is_file() and path.suffix not in (".json", ".toml"):
            raise BadInput(
                "a model folder, a card (.json, .toml) or module:factory",
                f"the file {path.name}",
                "Weights do not say which network they are for: put a card beside them (docs: model cards).",
            )
        card_path = find_card(path) if path.is_dir() else path
        card = read_card(card_path)
        network = _build(card, trust)
        load_weights(network, Path(weights) if weights else _inside(card_path.parent, card.weights))
    elif module and factory:
        network = _made(_factory(text), {}, text, f"a network from {text}", "Mend it, or name another.")
        card = Card(name=text, task="classification", network=text, weights=str(weights or ""), channels=None)
        if weights:
            load_weights(network, Path(weights))
    else:
        raise BadInput("a model folder, a card file or module:factory", text, "Check the path.")
    return network.eval(), card


def _build(card: Card, trust: bool) -> nn.Module:
    source, _, name = card.network.partition(":")
    if source == "monai":
        factory = _monai(name)
    elif trust:
        factory = _factory(card.network)
    else:
        raise BadInput(
            "a card whose network is monai:NAME",
            card.network,
            "It would run code that the card names. If you trust it: --trust-model.",
        )
    arguments = dict(card.arguments)
    fetching = [f"{k} = {v!r}" for k, v in arguments.items() if v and re.search("pretrained|^checkpoint$|url$|_path$", k)]
    if fetching and not trust:
        raise BadInput("arguments that fetch nothing", ", ".join(fetching), "The weights are the card's file: leave them out.")
    if source == "monai" and "pretrained" in inspect.signature(factory).parameters:
        arguments.setdefault("pretrained", False)  # some of MONAI's networks download weights unless told not to
    return _made(factory, arguments, card.network, f"arguments that {card.network} takes", "Correct the card's arguments.")


def _monai(name: str) -> Any:
    try:
        import monai.networks.nets as nets
    except ImportError:
        raise BadInput("MONAI, which this model is built from", "not installed", 'pip install "radiolucent[monai]"') from None
    factory = getattr(nets, name, None)
    network = inspect.isclass(factory) and issubclass(factory, nn.Module)
    builder = (
        inspect.isfunction(factory) and factory.__module__.startswith("monai.networks.nets.") and not name.startswith(("_", "get_"))
    )
    if not (network or builder):
        raise BadInput("a network of monai.networks.nets", name, "Correct the card's network.")
    return factory


def _factory(text: str) -> Any:
    name, _, factory = text.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` has it, an installed command does not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise BadInput("a module that can be imported", f"{name!r}: {error}", "Run from its folder, or install it.") from error
    if not hasattr(module, factory):
        raise BadInput(f"a function or class {factory!r} in {name}", "none", "Check the name after the colon.")
    return getattr(module, factory)


def _made(factory: Any, arguments: dict[str, Any], name: str, expected: str, do: str) -> nn.Module:
    try:
        network = factory(**arguments)
    except Exception as error:
        raise BadInput(expected, f"{type(error).__name__}: {error}", do) from error
    if not isinstance(network, nn.Module):
        raise BadInput(f"an nn.Module from {name}", type(network).__name__, "The factory must return the network.")
    return network


def _inside(folder: Path, name: str) -> Path:
    path = folder / name if "\0" in name else (folder / name).resolve()
    if "\0" in name or not path.is_relative_to(folder.resolve()):
        raise BadInput(f"weights inside {folder}", name, "A card may only name files beside it.")
    return path


def load_weights(network: nn.Module, path: Path) -> None:
    """Strictly: every key of the network, and no other, with the right shape."""
    state = read_state(path)
    own = network.state_dict()
    for prefix in ("module.", "_orig_mod."):  # DataParallel's and torch.compile's
        if state and all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    for group in _shared(own):  # safetensors keeps a tensor that has two names once
        given = [key for key in group if key in state]
        state |= {key: state[given[0]] for key in group if given and key not in state}
    differences = {
        "missing keys": sorted(set(own) - set(state)),
        "unexpected keys": sorted(set(state) - set(own)),
        "other shapes": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if k in state and own[k].shape != state[k].shape
        ],
    }
    if any(differences.values()):
        raise BadInput(
            f"weights for this {type(network).__name__} in {path.name}",
            "; ".join(f"{what} {', '.join(keys)}" for what, keys in differences.items() if keys),
            "Are the architecture's arguments those of the training?",
        )
    network.load_state_dict(state, strict=True)


def _shared(state: dict[str, Tensor]) -> list[list[str]]:
    """Keys that name one and the same parameter."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for key, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from torch.save read with weights_only=True."""
    if not path.is_file():
        raise BadInput(f"weights at {path}", "no file there", "Check the path.")
    _refuse_programs(path)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about how a foreign pickle was made
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise BadInput(
                f"weights only in {path.name}",
                f"a pickle that would run code ({code[1]})",
                "It was blocked. Save the state dict alone: torch.save(model.state_dict(), ...), or safetensors.",
            ) from None
        with path.open("rb") as file:
            start = file.read(512)
        got = f"{kind_of(start)}: {str(error).split('. ')[0][:200]}" if start else "an empty file"
        raise BadInput(f"safetensors or a state dict in {path.name}", got, "Is the file whole?") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise BadInput(f"a state dict (name -> tensor) in {path.name}", type(state).__name__, "Save model.state_dict().")
    return state


def _refuse_programs(path: Path) -> None:
    """TorchScript and torch.export archives hold a program, which could do anything on loading."""
    names = []
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    script, export = any("/code/" in name for name in names), any(name.endswith("/archive_format") for name in names)
    if script or export:
        kind = "a TorchScript archive" if script else "an archive of torch.export"
        raise BadInput(f"safetensors or a state dict in {path.name}", kind, "It would run code: save model.state_dict() instead.")
