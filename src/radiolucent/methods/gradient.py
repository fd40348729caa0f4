"""Gradients, and the one pass that all first-order methods share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput, warn
from radiolucent.hooks import (
    INPUT,
    Layer,
    all_layers,
    check_follows,
    check_items_apart,
    last_layer,
    look,
    reaching,
    tensors_in,
)
from radiolucent.methods.backward import one_pass
from radiolucent.methods.windows import in_windows
from radiolucent.protocols import FirstOrder, Target, adds_up
from radiolucent.tiling import Tiled


@dataclass(frozen=True)
class Gradient:
    """Sensitivity of the score to each voxel (Simonyan et al., ICLR workshop 2014; Agg2Exp eq. 3).

        R = dS/dx

    Signed, on the input's grid. It says where a small change matters, not where the evidence is: a
    saturated score has a small gradient, and voxel noise shows.
    """

    layer = INPUT
    unit = "score per unit of intensity"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class InputXGradient:
    """First-order share of each voxel in the score (Shrikumar et al., 2016).

        R = x * dS/dx

    Signed, on the input's grid. Exact for a linear model without bias; a voxel of value 0 gets 0 however
    much it matters, so the scaling of the image decides about dark tissue.
    """

    layer = INPUT
    unit = "score"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return activation * gradient

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


def first_order(model: nn.Module, x: Tensor, targets: Target, methods: Sequence[FirstOrder]) -> list[Tensor]:
    """Relevance of several first-order methods from one forward and one backward pass per target.

    The graph starts at the shallowest layer that is asked for and holds no parameter gradients. Each
    layer's gradient becomes its map as soon as the backward pass has it, and is then let go.
    """
    maps = shared_pass(model, x, targets, methods)
    for relevance in maps:
        if isinstance(relevance, BadInput):
            raise relevance
    return [relevance for relevance in maps if isinstance(relevance, Tensor)]


def shared_pass(model: nn.Module, x: Tensor, targets: Target, methods: Sequence[FirstOrder]) -> list[Tensor | BadInput]:
    """`first_order`, where a layer that cannot serve gives its reason in the place of its map."""
    if not methods:
        return []
    x = plain(x)
    check_items_apart(model, len(x))
    check_follows(model)
    if "auto" in {m.layer for m in methods}:
        auto = layer_of("auto", model, x, targets)
        methods = [at_layer(m, auto) for m in methods]
    names = list(dict.fromkeys(m.layer for m in methods))
    if INPUT in names:
        check_floating(x)
    sums = adds_up(targets, x.shape[2:]) or names != [INPUT]  # else the whole is explained, in the backward pass of windows
    if isinstance(model, Tiled) and not model.is_whole(x.shape) and sums:
        maps, vanished = in_windows(model, x, targets, methods)
    else:
        maps, vanished = _at_once(model, x, targets, methods)
    if vanished:
        warn("gradients vanish in float16: made again in float32, on a copy of the model")
        return shared_pass(copy.deepcopy(model).float(), x.float() if x.is_floating_point() else x, targets, methods)
    return maps


def _at_once(model: nn.Module, x: Tensor, targets: Target, methods: Sequence[FirstOrder]) -> tuple[list[Tensor | BadInput], bool]:
    """The maps; did float16 not suffice?"""
    rows: list[dict[int, Tensor]] = [{} for _ in methods]

    def combine(t: int, name: str, value: Tensor, gradient: Tensor) -> None:
        for row, method in zip(rows, methods, strict=True):
            if method.layer == name:
                row[t] = method.combine(value, gradient)

    passed = one_pass(model, x, targets, list(dict.fromkeys(m.layer for m in methods)), combine)
    unfit = passed.unfit
    maps = [unfit[m.layer] if m.layer in unfit else torch.stack(list(row.values())) for m, row in zip(methods, rows, strict=True)]
    return maps, passed.vanished


def plain(x: Tensor) -> Tensor:
    """x as a tensor of torch itself, out of any graph (MONAI's MetaTensor and nn.Parameter are subclasses)."""
    return x.detach().as_subclass(Tensor)


def check_floating(x: Tensor) -> None:
    """Refuse an image of whole numbers, at which there is no gradient."""
    if not x.is_floating_point():
        raise BadInput(
            "an image of floating-point numbers", f"{x.dtype}", "Convert it with .float(), or choose a perturbation method."
        )


def layer_of(layer: str, model: nn.Module, x: Tensor, targets: Callable[[Any], Any]) -> str:
    """The layer itself; for "auto" the last with a grid, which takes a forward pass to find."""
    return auto_layer(model, x, targets, *look(model, x)) if layer == "auto" else layer


def auto_layer(model: nn.Module, x: Tensor, chosen: Callable[[Any], Any], output: Any, found: Sequence[Layer]) -> str:
    """What layer="auto" means: the last with a grid, of an output of several parts the last that `chosen(output)` depends on."""
    several = len(list(tensors_in(output))) > 1
    return last_layer(reaching(model, x, chosen, found) if several else found)


def at_layer(method: Any, layer: str, of: str = "auto") -> Any:
    """The method with each layer=`of` inside it replaced by `layer`."""
    changes: dict[str, Any] = {}
    for name in getattr(method, "__dataclass_fields__", {}):
        value = getattr(method, name)
        if name == "layer" and value == of:
            changes[name] = layer
        elif hasattr(value, "__dataclass_fields__"):
            changes[name] = at_layer(value, layer, of)
    return replace(method, **changes) if changes else method


def named_layers(method: Any) -> list[str]:
    """The layers that a method and those inside it name; not "auto", "full" or the input."""
    names: list[str] = []
    for name in getattr(method, "__dataclass_fields__", {}):
        value = getattr(method, name)
        if name in ("layer", "tokens"):
            names += [value] if value not in ("auto", "full", INPUT) else []
        else:
            names += named_layers(value)
    return names


def at_layers(methods: Sequence[Any], found: Sequence[Layer], auto: Callable[[], str]) -> list[Any]:
    """The methods at the layers that ran: "auto" becomes the one that `auto()` names, "full" a method for each with a grid."""
    if any(at_layer(method, "") != method for method in methods):
        name = auto()
        methods = [at_layer(method, name) for method in methods]
    return [at for method in methods for at in _at_each(method, found)]


def _at_each(method: Any, found: Sequence[Layer]) -> list[Any]:
    if at_layer(method, "", "full") == method:
        return [method]
    return [at_layer(method, name, "full") for name in all_layers(found)]
