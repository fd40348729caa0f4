"""Gradients, and the one pass that all first-order methods share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput, warn
from radiolucent.hooks import (
    INPUT,
    Form,
    Layer,
    Taps,
    all_layers,
    check_follows,
    check_items_apart,
    evaluating,
    form_of,
    last_layer,
    layers,
    look,
    reaching,
    some,
    tap,
    tensors_in,
)
from radiolucent.protocols import FirstOrder, Target


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
    with evaluating(model), tap(model, names) as taps:
        scores = targets(model(taps.input(x)))
        places, forms, unfit = _places(model, taps, names, x)
        if places:
            check_scores(scores, len(x))
            check_differentiable(scores)
        rows: list[list[Tensor]] = [[] for _ in methods]
        vanished = False
        for t in range(len(scores) if places else 0):
            found, too_small = _maps(scores[t], places, forms, methods, retain_graph=t + 1 < len(scores))
            vanished = vanished or too_small
            for name in places.keys() - {m.layer for m, row in zip(methods, found, strict=True) if row is not None}:
                unfit[name] = _no_path(name)
            for kept, row in zip(rows, found, strict=True):
                kept.extend([] if row is None else [row])
    if vanished:
        warn("gradients vanish in float16: made again in float32, on a copy of the model")
        return shared_pass(copy.deepcopy(model).float(), x.float() if x.is_floating_point() else x, targets, methods)
    return [unfit[m.layer] if m.layer in unfit else torch.stack(kept) for m, kept in zip(methods, rows, strict=True)]


def _places(
    model: nn.Module, taps: Taps, names: Sequence[str], x: Tensor
) -> tuple[dict[str, Tensor], dict[str, Form], dict[str, BadInput]]:
    """What was caught at the layers that can serve, how it holds its cells, and why the others cannot."""
    places, forms, unfit = {}, {}, {}
    taps.over()
    for name in names:
        try:
            places[name], forms[name] = taps[name], spatial_form(model, name, taps[name], x)
        except BadInput as error:
            unfit[name] = error
    return {name: places[name] for name in forms}, forms, unfit


def _maps(
    score: Tensor, places: Mapping[str, Tensor], forms: Mapping[str, Form], methods: Sequence[FirstOrder], retain_graph: bool
) -> tuple[list[Tensor | None], bool]:
    """Each method's map for one target, None where no path leads from its layer to the score; did float16 not suffice?

    Batch items do not mix in eval mode, so each has its own gradient. It is used in float32 at least.
    """
    half = torch.float16 in {score.dtype, *(place.dtype for place in places.values())}
    maps: list[Tensor | None] = [None] * len(methods)
    # Gradients of a volume's voxels are below the range of float16: they travel enlarged, unless that is too much.
    for scale in (1024.0, 1.0) if half else (1.0,):
        finite, vanished = True, False

        def take(gradient: Tensor, name: str, scale: float = scale) -> None:
            nonlocal finite, vanished
            vanished = vanished or (half and not gradient.any())
            gradient = _wide(gradient) / scale if half else _wide(gradient)
            finite = finite and (not half or bool(torch.isfinite(gradient).all()))
            for i, method in enumerate(methods):
                if method.layer == name:
                    restore = forms[name].restore
                    maps[i] = method.combine(restore(_wide(places[name].detach())), restore(gradient))

        with ExitStack() as stack:
            for name, place in places.items():
                stack.callback(place.register_hook(partial(take, name=name)).remove)
            starts = [place for place in places.values() if place.is_leaf] or list(places.values())
            torch.autograd.grad(
                score, starts, torch.full_like(score, scale), retain_graph=retain_graph or scale != 1, allow_unused=True
            )
        if finite:
            break
    return maps, vanished


def _no_path(name: str) -> BadInput:
    return BadInput(
        f"a layer that the target depends on, not {name!r}",
        "no path from it to the score",
        "Choose a layer on the way to this output.",
    )


def plain(x: Tensor) -> Tensor:
    """x as a tensor of torch itself, out of any graph (MONAI's MetaTensor and nn.Parameter are subclasses)."""
    return x.detach().as_subclass(Tensor)


def check_floating(x: Tensor) -> None:
    """Refuse an image of whole numbers, at which there is no gradient."""
    if not x.is_floating_point():
        raise BadInput(
            "an image of floating-point numbers", f"{x.dtype}", "Convert it with .float(), or choose a perturbation method."
        )


def _wide(values: Tensor) -> Tensor:
    """At least float32: the products and means of small half-precision gradients vanish."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


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


def spatial_form(model: nn.Module, name: str, output: Tensor, x: Tensor) -> Form:
    """How a layer's output holds its cells; an error where it has none."""
    what = f"layer {name!r}" if name else "the input"
    form = form_of(model, name, output, x.shape)
    if form is not None:
        return form
    if output.ndim == x.ndim and len(output) != len(x):
        raise BadInput(
            f"{len(x)} batch items at {what}, as in the input",
            f"shape {tuple(output.shape)}",
            "Choose a layer that does not fold another axis (slices, patches) into the batch.",
        )
    raise BadInput(
        f"a grid of {max(x.ndim - 2, 1)} axes and several cells at {what}",
        f"shape {tuple(output.shape)}",
        f"These have one: {some([layer.name for layer in layers(model, x) if layer.is_spatial])}.",
    )


def check_scores(scores: Tensor, batch: int) -> None:
    """Refuse what is not one finite score per target and batch item."""
    if scores.ndim != 2 or scores.shape[1] != batch or not len(scores):
        raise BadInput(
            f"scores of shape (targets, {batch}): one per target and batch item",
            f"shape {tuple(scores.shape)}",
            "Does the model keep the batch axis? A squeeze() drops it for a single image.",
        )
    if not torch.isfinite(scores).all():
        raise BadInput("finite scores", f"{scores.detach().tolist()}", "Check the weights and the input's intensities.")


def check_differentiable(scores: Tensor) -> None:
    """Refuse scores that no gradient leads to."""
    if not scores.requires_grad:
        raise BadInput(
            "scores that depend on the layer in a differentiable way",
            "scores without a gradient (argmax, detach, no_grad or reentrant checkpointing in the model, or a layer off the path)",
            "Explain the logits before the argmax, or choose a perturbation method.",
        )
