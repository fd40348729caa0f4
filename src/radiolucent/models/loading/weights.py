"""Weights: reading them without running code, and fitting them to a network key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.io.kinds import kind_of
from radiolucent.models.loading.files import program_in, unpickled

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Args:
        state: name -> tensor.
        rest: what stood beside it in a checkpoint of a training (epoch, hyper-parameters, ...); None for a
            bare state dict.
        notes: remarks that reading it gave rise to.
    """

    state: State
    rest: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def load_weights(network: nn.Module, path: Path, *, trust: bool = False) -> tuple[str, ...]:
    """Strictly: every key of the network, and no other, with the right shape. Returns notes."""
    checkpoint = read_checkpoint(path, trust=trust)
    return checkpoint.notes + fit(network, checkpoint, path.name)


def fit(network: nn.Module, checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """Put a checkpoint's weights into the network; a checkpoint of a training may have them under a prefix."""
    own = network.state_dict()
    state, notes = _under_prefix(checkpoint, own, name)
    differences = {
        "missing keys": sorted(set(own) - set(state)),
        "unexpected keys": sorted(set(state) - set(own)),
        "other shapes": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if k in state and own[k].shape != state[k].shape
        ],
        "other kinds of numbers": [
            f"{k} {state[k].dtype} instead of {own[k].dtype}"
            for k in own
            if k in state
            and (state[k].is_floating_point(), state[k].is_complex()) != (own[k].is_floating_point(), own[k].is_complex())
        ],
    }
    if any(differences.values()):
        raise BadInput(
            f"weights for this {type(network).__name__} in {name}",
            "; ".join(f"{what} {', '.join(keys)}" for what, keys in differences.items() if keys),
            "Are the architecture's arguments those of the training?",
        )
    network.load_state_dict(state, strict=True)
    return notes


def _under_prefix(checkpoint: Checkpoint, own: State, name: str) -> tuple[State, tuple[str, ...]]:
    """The network's part of the state: all of it, or what stands under one prefix ("module.", "model.", "net.").

    DataParallel, torch.compile and Lightning put one before every key. Keys outside of it (a loss, a metric)
    may be left out, with a note, only where the file says that it is a checkpoint of a training.
    """
    state = checkpoint.state
    whole = _completed(state, own)
    if set(own) <= set(whole):
        return whole, ()
    sample = max(own, key=len, default="")
    prefixes = [key.removesuffix(sample) for key in state if key.endswith(f".{sample}")]
    outside = {p: sorted(k for k in state if not k.startswith(p)) for p in prefixes}
    allowed = [p for p in prefixes if checkpoint.rest is not None or not outside[p]]
    parts = {p: _completed({k.removeprefix(p): v for k, v in state.items() if k.startswith(p)}, own) for p in allowed}
    exact = [p for p, part in parts.items() if set(part) == set(own)]
    if len(exact) > 1:
        raise BadInput(
            f"one set of weights for this network in {name}",
            f"several, under the prefixes {', '.join(exact)}",
            "Save the one that is meant on its own: its keys without the prefix.",
        )
    if not parts:
        return whole, ()
    chosen = exact[0] if exact else max(parts, key=lambda p: len(set(parts[p]) & set(own)))
    left = outside[chosen]
    note = f"{name}: the weights are those under {chosen!r}; left out: {', '.join(left)}"
    return parts[chosen], (note,) if left else ()


def _completed(state: State, own: State) -> State:
    """With a tensor that has two names under both: safetensors keeps it once."""
    added: State = {}
    for group in _shared(own):
        given = [key for key in group if key in state]
        added |= {key: state[given[0]] for key in group if given and key not in state}
    return state | added


def _shared(state: State) -> list[list[str]]:
    """Keys that name one and the same parameter."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for key, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def read_checkpoint(path: Path, *, trust: bool = False) -> Checkpoint:
    """Weights from safetensors, or from torch.save read with weights_only=True."""
    if not path.is_file():
        raise BadInput(f"weights at {path}", "no file there", "Check the path.")
    program = program_in(path)
    if program:
        do = "It would run code: save model.state_dict() instead, or give the file itself as the model."
        raise BadInput(f"safetensors or a state dict in {path.name}", program, do)
    content, notes = _content(path, trust)
    rest: dict[str, Any] | None = None
    for wrapper in ("state_dict", "model_state_dict", "network_weights", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            rest = (rest or {}) | {key: value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
    if trust and isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise BadInput(f"a state dict (name -> tensor) in {path.name}", type(content).__name__, "Save model.state_dict().")
    return Checkpoint(dict(content), rest, notes)


def _content(path: Path, trust: bool) -> tuple[Any, tuple[str, ...]]:
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ()
        return unpickled(path, trust)
    except BadInput:
        raise
    except Exception as error:
        with path.open("rb") as file:
            start = file.read(512)
        got = f"{kind_of(start)}: {str(error).split('. ')[0][:200]}" if start else "an empty file"
        raise BadInput(f"safetensors or a state dict in {path.name}", got, "Is the file whole?") from None
