"""A guest with random weights: always a copy, so that there is nothing to put back."""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks.guest import evaluating, own_random
from radiolucent.hooks.sharing import InParts, Sharing


def randomised(model: nn.Module, layers: Collection[str] | None = None, seed: int = 0, *, shuffled: bool = False) -> nn.Module:
    """A copy of the model in which the weights of some modules, by name, are random (None: of all that have any).

    A module begins anew by its own `reset_parameters`, running statistics included. Weights that this leaves as they
    were (and those of modules without it) have their values shuffled: the same values, without their order; with
    `shuffled` all do. A network that has learnt nothing cannot be told from its shuffled copies, whatever it was begun
    with: weights drawn by chance are as likely in any other order. What a module gets depends on `seed` and its name
    alone, so that a cascade keeps what it drew.

    A copy, and not the guest with other weights for a while: the guest's are then right whatever happens, also when
    the process is interrupted in the middle, another thread is using the model, or two parameters share their memory
    (which the copy's do too). It costs the weights once more, little beside the activations of a volume. Whoever
    holds on to the guest by another way (a closure) does not see the copy: see whether its scores changed.
    """
    known = {name for name, module in model.named_modules() if _own(module)}
    wanted = known if layers is None else set(layers)
    if unknown := sorted(wanted - known):
        raise BadInput("names of modules with weights", ", ".join(unknown[:5]), f"For example {', '.join(sorted(known)[:5])}.")
    with torch.inference_mode(False), torch.no_grad():
        other = _copied(model)
        for name, module in other.named_modules():
            if name in wanted:
                places = {p.device for p in _own(module).values() if p.device.type == "cuda"}
                with own_random(places, zlib.crc32(f"{seed} {name}".encode())):
                    _begin_anew(module, shuffled)
    return other


def weighted(model: nn.Module, x: Tensor) -> list[str]:
    """The names of the modules with weights of their own, in the order in which they finish in a forward pass on x.

    One that is never called (a transformer's class token is the model's own, attention multiplies with a layer's
    weights without calling it) counts as done with the module around it.
    """
    if isinstance(model, InParts) and not model.is_whole(x.shape):
        return weighted(model._guest, model.first_part(x))
    names = [name for name, _ in model.named_modules()]
    done: dict[str, int] = {}
    count = itertools.count()
    with evaluating(model), torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue

            def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                done[name] = next(count)

            stack.callback(module.register_forward_hook(note).remove)
        model(x.clone())

    def place(name: str) -> tuple[int, int]:
        at = name
        while at and at not in done:
            at = at.rpartition(".")[0]
        return done.get(at, len(names)), names.index(name)

    return sorted((name for name, module in model.named_modules() if _own(module)), key=place)


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters(recurse=False) if p is not None}


def _copied(model: nn.Module) -> nn.Module:
    # What a module made in its last forward pass (weight norm) is part of a graph, which PyTorch refuses to copy.
    made = [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf]
    try:
        other = copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in made})
    except Exception as error:  # a guest may hold anything: locks, files
        reason = f"{type(model).__name__}: {(str(error).strip() or type(error).__name__).splitlines()[0][:200]}"
        raise _uncopied(reason) from error
    shared = {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    if shared or (isinstance(model, Sharing) and type(other) is not type(model)):
        raise _uncopied(f"{type(model).__name__}, whose copy is none")
    return other


def _uncopied(got: str) -> BadInput:
    return BadInput("a model that can be copied, to randomise the copy", got, "Leave out the randomisation tests.")


def _begin_anew(module: nn.Module, shuffled: bool) -> None:
    before = {name: p.clone() for name, p in _own(module).items()}
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset) and not shuffled:
        reset()
    for name, parameter in _own(module).items():
        if torch.equal(parameter, before[name]):
            order = torch.randperm(parameter.numel(), device=parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


def groups(names: Sequence[str], count: int) -> list[list[str]]:
    """The names in `count` runs of nearly equal length, or one each where there are fewer (0: one each)."""
    count = min(count or len(names), len(names))
    edges = [len(names) * i // count for i in range(count + 1)] if count else []
    return [list(names[a:b]) for a, b in itertools.pairwise(edges)]
