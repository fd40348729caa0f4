"""The rules of layer-wise relevance propagation: which layer shares its relevance how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from radiolucent.errors import BadInput
from radiolucent.hooks import Call, Rule
from radiolucent.methods.passing import GATES, Passing, no_rule
from radiolucent.methods.shares import Arrive, Damp, Share
from radiolucent.tiling import Tiled

FIRST = ("same", "flat", "w2", "box")
STABILISER = 1e-6
"""Keeps z~ from 0 in every rule but epsilon, which has its own."""

_CONVOLUTIONS = tuple(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))
_NORMS = ("instance_norm", "group_norm", "layer_norm")
# f(0) = 0, so that relevance can pass unchanged.
_ACTIVATIONS = (
    *("relu6", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "tanh", "softsign"),
    *("hardshrink", "softshrink"),
)
_CLAMPS = ("hardtanh", "clamp", "clip", "clamp_min", "clamp_max")


@dataclass(frozen=True, eq=False)
class _Linear:
    """One linear layer z = x W + b, or the same with the batch norm behind it merged: W and b stand for the merged ones.

    `z` is a part of the graph, and so is `positive`, the sum of max(0, x w), where a rule asks for it. `scale` is
    what the merging multiplied W by.
    """

    call: Call
    z: Tensor
    bias: Tensor
    positive: Tensor | None
    scale: Tensor | None = None


class Propagation:
    """The rules for one explanation: what LRP hands to `rewriting`."""

    def __init__(self, convolutions: str, epsilon: float, gamma: float, first: str) -> None:
        self._convolutions = convolutions
        self._epsilon = epsilon
        self._gamma = gamma
        self._first = first
        self._first_used = first == "same"
        self._layers: Any = WeakTensorKeyDictionary()
        """A linear layer's output -> the layer, and the version of the output, for a batch norm behind it."""
        self._on = False
        self._passing = Passing()
        self._image: Tensor | None = None
        self._given: Tensor | None = None

    def between(self, model: nn.Module) -> nn.Module:
        """The model, at whose input R comes out instead of G; at each window's where it predicts in windows."""
        return model.around(self.between) if isinstance(model, Tiled) else _Between(model, self)

    def run(self, model: nn.Module, image: Tensor) -> Any:
        """The model's output. The rules hold here only, not for what a target does with the output."""
        self._image, self._given = image, self._passing.seen(Arrive.apply(image, image.detach()))
        self._on = True
        try:
            output = model(self._given)
        finally:
            self._on = False
        self._passing.check_output(output)
        return output

    def check_first(self) -> None:
        if not self._first_used:
            raise BadInput(
                f"a convolution or dense layer that reads the image itself, for first={self._first!r}",
                "none: the model changes the image before",
                'Use first="same", or make that change in the preprocessing.',
            )

    def by_name(self) -> dict[str, Rule]:
        """A rule for each function whose gradient is not its rule already."""
        rules: dict[str, Callable[[Call], Tensor]] = {"batch_norm": self._batch_norm}
        rules |= dict.fromkeys((*_CONVOLUTIONS, "linear"), self._linear)
        rules |= dict.fromkeys(_NORMS, self._norm)
        rules |= dict.fromkeys(_ACTIVATIONS, _activation)
        rules |= dict.fromkeys(_CLAMPS, _clamp)
        rules |= dict.fromkeys(GATES, self._passing.gate)
        return {name: partial(self._where_it_matters, rule) for name, rule in rules.items()}

    def otherwise(self, call: Call) -> Any:
        """Any other call."""
        return self._seen(self._passing.as_written, call) if self._on else call.as_written()

    def _where_it_matters(self, rule: Callable[[Call], Tensor], call: Call) -> Tensor | None:
        """The rule for what depends on the image; the rest runs as written."""
        if not self._on:
            return None
        if not call.arguments["input"].requires_grad:
            return self._seen(self._passing.as_written, call)
        if not torch.is_grad_enabled():
            raise no_rule(call, "without a gradient (torch.no_grad, a checkpoint or an autograd function in the model)")
        return self._seen(rule, call)

    def _seen(self, rule: Callable[[Call], Any], call: Call) -> Any:
        self._passing.check_origin(call.tensors(), f"a tensor for {call.name}")
        return self._passing.seen(rule(call))

    def _linear(self, call: Call) -> Tensor:
        weight, bias = call.arguments["weight"], call.arguments.get("bias")
        if weight.requires_grad:
            raise no_rule(call)
        z = call.run()
        bias = z.new_zeros(()) if bias is None else bias if call.name == "linear" else _channels(bias, z.ndim)
        positive = _positive(call) if self._rule(call) in ("plus", "gamma") else None
        return self._share(_Linear(call, z, bias, positive))

    def _batch_norm(self, call: Call) -> Tensor:
        x, given = call.arguments["input"], call.arguments
        if given.get("training", False) or given.get("running_mean") is None:
            raise no_rule(call, "with the statistics of the batch")
        scale, shift = (_channels(v, x.ndim) for v in _affine(given))
        layer, version = self._layers.get(x, (None, 0))
        if layer is None or version != x._version or (layer.call.name == "linear" and x.ndim != 2):
            return self._epsilon_rule(torch.addcmul(shift, x, scale))
        positive = layer.positive
        if positive is not None:
            # A negative weight makes the negative parts of x W, whose sum is z - b - positive, the positive ones.
            flipped = positive - (layer.z - layer.bias) if (scale < 0).any() else positive
            positive = torch.where(scale < 0, flipped, positive) * scale.abs()
        z = torch.addcmul(shift, layer.z, scale)
        return self._share(_Linear(layer.call, z, layer.bias * scale + shift, positive, scale))

    def _norm(self, call: Call) -> Tensor:
        """(x - mean) / deviation, the deviation taken as a constant: the mean is as linear as the rest."""
        x, given = call.arguments["input"], call.arguments
        if call.name == "instance_norm" and not given.get("use_input_stats", True):
            scale, shift = (_channels(v, x.ndim) for v in _affine(given))
            return self._epsilon_rule(torch.addcmul(shift, x, scale))
        shape = {
            "instance_norm": (*x.shape[:2], -1),
            "group_norm": (len(x), given.get("num_groups", 1), -1),
            "layer_norm": (*x.shape[: x.ndim - len(given.get("normalized_shape", ()))], -1),
        }[call.name]
        centred = x.reshape(shape)
        centred = centred - centred.mean(-1, keepdim=True)
        variance = centred.detach().square().mean(-1, keepdim=True)
        z = (centred * (variance + given.get("eps", 1e-5)).rsqrt()).reshape(x.shape)
        for name in ("weight", "bias"):
            if given.get(name) is not None:
                value = given[name] if call.name == "layer_norm" else _channels(given[name], x.ndim)
                z = z * value if name == "weight" else z + value
        return self._epsilon_rule(z)

    # ---- the rules: what z~ is made of

    def _rule(self, call: Call) -> str:
        if self._first != "same" and call.arguments["input"] is self._given:
            return self._first
        return "epsilon" if call.name == "linear" else self._convolutions

    def _share(self, layer: _Linear) -> Tensor:
        rule, z = self._rule(layer.call), layer.z
        if rule == "epsilon":
            out = self._epsilon_rule(z)
        elif rule in FIRST:
            self._first_used = True
            out = Share.apply(self._at_image(rule, layer), z.detach(), STABILISER)
        else:
            assert layer.positive is not None
            made_of = layer.positive + layer.bias.clamp(min=0)
            if rule == "gamma":
                made_of = z + self._gamma * torch.where(z > 0, made_of, z - made_of)
            out = Share.apply(made_of, z.detach(), STABILISER)
        self._layers[out] = layer, out._version
        return out

    def _epsilon_rule(self, z: Tensor) -> Tensor:
        return Damp.apply(z, self._epsilon)

    def _at_image(self, rule: str, layer: _Linear) -> Tensor:
        """z~ of a rule for the image, made of what is not the image: relevance goes to it past the network's input."""
        image, weight = self._image, layer.call.arguments["weight"]
        assert image is not None

        def product(value: Tensor, weight: Tensor) -> Tensor:
            return layer.call.run(input=Arrive.apply(image, value), weight=weight, bias=None)

        x, scale = image.detach(), 1 if layer.scale is None else layer.scale
        if rule == "flat":
            return product(torch.ones_like(x), torch.ones_like(weight))
        if rule == "w2":
            return product(torch.ones_like(x), weight.square()) * scale**2

        def box(low: Tensor, high: Tensor) -> Tensor:
            return product(x, weight) - product(low, weight.clamp(min=0)) - product(high, weight.clamp(max=0))

        axes = tuple(range(1, x.ndim))
        low, high = (v.expand_as(x) for v in (x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)))
        if isinstance(scale, Tensor) and (scale < 0).any():
            return torch.where(scale > 0, box(low, high), box(high, low)) * scale
        return box(low, high) * scale


class _Between(nn.Module):
    def __init__(self, model: nn.Module, rules: Propagation) -> None:
        super().__init__()
        self.model, self.rules = model, rules

    def forward(self, x: Tensor) -> Any:
        return self.rules.run(self.model, x)


def _positive(call: Call) -> Tensor:
    """The sum over the inputs of max(0, x w)."""
    x, weight = call.arguments["input"], call.arguments["weight"]
    if x.amin() >= 0:
        return call.run(weight=weight.clamp(min=0), bias=None)
    above = call.run(input=x.clamp(min=0), weight=weight.clamp(min=0), bias=None)
    return above + call.run(input=x.clamp(max=0), weight=weight.clamp(max=0), bias=None)


def _activation(call: Call) -> Tensor:
    """R passes unchanged: G_in = G_out * f(x) / x."""
    x = call.arguments["input"]
    with torch.no_grad():
        value = call.run()
    return Share.apply(x, value, 0.0)


def _clamp(call: Call) -> Tensor:
    given = call.arguments
    low, high = (given.get(f"{end}_val", given.get(end)) for end in ("min", "max"))
    if any(isinstance(end, Tensor) for end in (low, high)):
        raise no_rule(call, "between tensors")
    if not (low is None or low <= 0) or not (high is None or high >= 0):
        raise no_rule(call, f"from {low} to {high}, which is not 0 at 0")
    return _activation(call)


def _affine(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A norm with fixed statistics as scale and shift per channel."""
    mean, scale = given["running_mean"], (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    scale = scale if given.get("weight") is None else scale * given["weight"]
    shift = -mean * scale
    return scale, shift if given.get("bias") is None else shift + given["bias"]


def _channels(values: Tensor, axes: int) -> Tensor:
    """One value per channel, beside a tensor (b, c, *cells) of that many axes."""
    return values.reshape(-1, *[1] * (axes - 2))
