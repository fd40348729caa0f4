"""Models saved with their program: TorchScript, torch.export, and whole pickled models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radiolucent.errors import BadInput
from radiolucent.models.card import Card
from radiolucent.models.loading.files import ASK, EXPORT, SCRIPT, program_in, sha256, trusted, unpickled


def load(path: Path, trust: bool) -> tuple[nn.Module, Card]:
    """The model with an empty card: put one beside it (network = "archive") to say more."""
    network, notes = read(path, trust)
    return network, Card(name=path.name, task="classification", network="archive", weights=str(path), channels=None, notes=notes)


def read(path: Path, trust: bool) -> tuple[nn.Module, tuple[str, ...]]:
    """The model, and what there is to say about it."""
    program = program_in(path) or _whole_model(path)
    if program is None:
        raise BadInput(
            "a model folder, a card (.json, .toml) or module:factory",
            f"the file {path.name}",
            "Weights do not say which network they are for: put a card beside them (docs: model cards).",
        )
    if not trust:
        do = f"Loading runs code that came with it. {ASK} Else save the state dict and write a card."
        raise BadInput(f"a model without a program in {path.name}", f"{program} (SHA-256 {sha256(path)})", do)
    ran = trusted(path, program)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own about formats that it means to replace
            network, more = {SCRIPT: _script, EXPORT: _export}.get(program, _pickle)(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}" if str(error).strip() else repr(error)
        do = "Is the file whole, and made by a PyTorch that is not newer than this one?"
        raise BadInput(f"{program} that can be loaded in {path.name}", reason, do) from error
    return network, (ran, *more)


def _script(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    hidden = "TorchScript hides its layers: methods on the input and perturbation methods work, layer-wise methods do not"
    return torch.jit.load(path, map_location="cpu"), (hidden,)


def _export(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """Unflattened: hooks fire on its modules, and never on those of `program.module()`."""
    program = torch.export.load(path)
    given = set(program.graph_signature.user_inputs)
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder" and node.name in given]
    notes = [f"exported for inputs of shape {', '.join(map(_words, shapes))}"]
    if any(_trains(node) for node in program.graph.nodes):
        notes.append("exported in train mode, and stays so: its dropout or batch norm makes maps vary; export model.eval()")
    return torch.export.unflatten(program), tuple(notes)


def _words(shape: tuple[Any, ...]) -> str:
    return " x ".join(str(n) if isinstance(n, int) else "any" for n in shape)


def _trains(node: Any) -> bool:
    """A dropout that is on, or a batch norm that takes the batch's statistics."""
    place = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}.get(str(node.target))
    return place is not None and len(node.args) > place and node.args[place] is True


def _whole_model(path: Path) -> str | None:
    """In words, if torch.save was given a whole model and not a state dict."""
    try:
        unpickled(path, trust=False)
    except BadInput as error:
        return f"a pickle of a model or of other code ({error.got})"
    except Exception:
        return None
    return None


def _pickle(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    network = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(network, nn.Module):
        raise TypeError(f"it holds a {type(network).__name__}, not a model: put a card beside the weights")
    return network, ()
