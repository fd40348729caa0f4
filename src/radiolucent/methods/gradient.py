"""Gradients, and the one pass that all first-order methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import INPUT, evaluating, last_layer, layers, tap
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

    The graph starts at the shallowest layer that is asked for and holds no parameter gradients.
    """
    if "auto" in {m.layer for m in methods}:
        auto = last_layer(layers(model, x))
        methods = [at_layer(m, auto) for m in methods]
    names = list(dict.fromkeys(m.layer for m in methods))
    with evaluating(model):
        with tap(model, names) as taps:
            scores = targets(model(taps.input(x) if INPUT in names else x))
        places = {name: taps[name] for name in names}
        for name, place in places.items():
            _check_spatial(name, place)
        _check_differentiable(scores)
        maps: list[list[Tensor]] = [[] for _ in methods]
        for t in range(len(scores)):
            more = t + 1 < len(scores)
            # Batch items do not mix in eval mode, so the gradient of their sum is each one's own.
            found = torch.autograd.grad(scores[t].sum(), list(places.values()), retain_graph=more, allow_unused=True)
            gradients = dict(zip(names, found, strict=True))
            for method, rows in zip(methods, maps, strict=True):
                gradient = gradients[method.layer]
                if gradient is None:
                    raise BadInput(
                        f"a layer that the target depends on, not {method.layer!r}",
                        "no path from it to the score",
                        "Choose a layer on the way to this output.",
                    )
                rows.append(method.combine(places[method.layer].detach(), gradient))
    return [torch.stack(rows) for rows in maps]


def at_layer(method: Any, layer: str) -> Any:
    """The method with each layer="auto" inside it replaced by `layer`."""
    changes: dict[str, Any] = {}
    for name in getattr(method, "__dataclass_fields__", {}):
        value = getattr(method, name)
        if name == "layer" and value == "auto":
            changes[name] = layer
        elif hasattr(value, "__dataclass_fields__"):
            changes[name] = at_layer(value, layer)
    return replace(method, **changes) if changes else method


def _check_spatial(name: str, output: Tensor) -> None:
    if output.ndim < 3 or all(n == 1 for n in output.shape[2:]):
        raise BadInput(
            f"a layer whose output has a grid of several cells, not {name or 'the input'!r}",
            f"output shape {tuple(output.shape)}",
            "See which layers have one with radiolucent.layers(model, x).",
        )


def _check_differentiable(scores: Tensor) -> None:
    if not scores.requires_grad:
        raise BadInput(
            "scores that depend on the layer in a differentiable way",
            "scores without a gradient (argmax, detach or no_grad in the model, or a layer off the path)",
            "Explain the logits before the argmax, or choose a perturbation method.",
        )
    if not torch.isfinite(scores).all():
        raise BadInput("finite scores", f"{scores.detach().tolist()}", "Check the weights and the input's intensities.")
