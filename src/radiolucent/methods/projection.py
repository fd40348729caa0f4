"""Signals at a layer's units projected back to the image: transposed convolutions, unpooling, and a rule at every ReLU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput
from radiolucent.hooks import INPUT, Call, Form, check_follows, check_items_apart, evaluating, relus, rewriting, tap
from radiolucent.methods.backward import check_differentiable, check_scores, spatial_form
from radiolucent.methods.gradient import check_floating, plain
from radiolucent.methods.guided import DeconvReLU, GuidedReLU, activations
from radiolucent.methods.perturbation import in_chunks
from radiolucent.protocols import Target

NUMBERS = 2**26
"""In the largest tensor of one backward pass, for batch=0: 256 MiB in single precision."""

_FORWARD = ("conv1d", "conv2d", "conv3d")
_CONVOLUTIONS = (*_FORWARD, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")


class _PassingReLU(torch.autograd.Function):
    """Forward min(max(0, x), ceiling); backward lets everything through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Convolved(torch.autograd.Function):
    """A convolution whose backward pass is a transposed convolution, by name: PyTorch batches that over signals.

    Its own backward pass would be run signal by signal. Weights get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call, places: Mapping[str, Any]) -> Tensor:
        ctx.weight, ctx.size, ctx.places = call.arguments["weight"], x.shape[2:], places
        return call.run(input=x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (r,), weight, p = gradients, ctx.weight, ctx.places
        back = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[weight.ndim]
        # What the stride left over at the end of each axis, and no cell of the output saw.
        covered = (
            (n - 1) * s - 2 * pad + d * (k - 1) + 1
            for n, s, pad, d, k in zip(r.shape[2:], p["stride"], p["padding"], p["dilation"], weight.shape[2:], strict=True)
        )
        left = tuple(n - c for n, c in zip(ctx.size, covered, strict=True))
        return back(r, weight, None, p["stride"], p["padding"], left, p["groups"], p["dilation"]), None, None


def _convolved(call: Call) -> Tensor:
    """A convolution of a batch by weights that are no part of the graph; any other runs as written."""
    given, axes = call.arguments, len(call.arguments["weight"].shape) - 2
    plain = {"stride": 1, "padding": 0, "dilation": 1}
    places = {name: given.get(name, value) for name, value in plain.items()}
    if isinstance(places["padding"], str) or given["weight"].requires_grad or given["input"].ndim != axes + 2:
        return call.as_written()
    places = {name: (v,) * axes if isinstance(v, int) else tuple(v) * (axes // len(v)) for name, v in places.items()}
    return _Convolved.apply(given["input"], call, places | {"groups": given.get("groups", 1)})


def _normalised(call: Call) -> Tensor | None:
    """Batch norm in eval mode is a scale and a shift, which PyTorch batches over signals too."""
    given = call.arguments
    if given.get("training") or given.get("running_mean") is None:
        return None
    x, shape = given["input"], (1, -1, *[1] * (given["input"].ndim - 2))
    scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    scale = scale if given.get("weight") is None else scale * given["weight"]
    shift = -given["running_mean"] * scale if given.get("bias") is None else given["bias"] - given["running_mean"] * scale
    return x * scale.to(x.dtype).reshape(shape) + shift.to(x.dtype).reshape(shape)


RECTIFICATIONS: Mapping[str, Callable[[Tensor, float], Tensor] | None] = {
    "forward": None,
    "backward": DeconvReLU.apply,
    "both": GuidedReLU.apply,
    "none": _PassingReLU.apply,
}
"""What happens to r at a ReLU of x on the way back: r [x > 0], the plain gradient; r [r > 0]; both; nothing."""


@dataclass(eq=False)
class Projection:
    """One forward pass, from a layer of which any number of signals can be projected back to the image.

    scores: (t, b) of the unperturbed images.
    form: how the layer holds its cells.
    largest: numbers in the largest tensor that a convolution gave.
    """

    scores: Tensor
    form: Form
    _output: Tensor
    _start: Tensor
    largest: int = field(default=1)

    @property
    def features(self) -> Tensor:
        """A, the layer's output (b, k, *cells)."""
        value = self._output.detach()
        return self.form.restore(value.to(torch.promote_types(value.dtype, torch.float32)))

    def gradient(self, t: int) -> Tensor:
        """dS_t/dA, (b, k, *cells)."""
        score = self.scores[t]
        (found,) = torch.autograd.grad(score, [self._output], torch.ones_like(score), retain_graph=True, allow_unused=True)
        return self.form.restore(torch.zeros_like(self._output) if found is None else found)

    def zeros(self) -> Tensor:
        """A response (b, *grid) of zeros."""
        x = self._start
        return x.new_zeros(len(x), *x.shape[2:], dtype=torch.promote_types(x.dtype, torch.float32))

    def back(self, count: int, signal: Callable[[int, Tensor], None], batch: int) -> Iterator[tuple[int, Tensor]]:
        """(i, response (b, *grid)) for i < count, input channels added up; `signal(i, empty)` fills i's signal (b, k, *cells).

        As many at once as `batch` says, or for 0 as memory allows.
        """

        def together(which: range) -> Tensor:
            signals = self._output.new_zeros(len(which), *self._output.shape)
            for i, each in zip(which, signals, strict=True):
                signal(i, self.form.restore(each))
            one = len(which) == 1
            start, wanted = [self._start], signals[0] if one else signals
            (found,) = torch.autograd.grad(
                self._output, start, wanted, retain_graph=True, allow_unused=True, is_grads_batched=not one
            )
            if found is None:
                raise BadInput("a layer that depends on the image", "no path from the image to it", "Choose another layer.")
            found = found[None] if one else found
            return found.to(torch.promote_types(found.dtype, torch.float32)).sum(2)

        for which, found in in_chunks(count, batch or max(1, NUMBERS // self.largest), together):
            yield from zip(which, found, strict=True)


@contextmanager
def projecting(model: nn.Module, layer: str, x: Tensor, targets: Target, rectification: str) -> Iterator[Projection]:
    """Run the model once on x, under the rule that `rectification` names at every ReLU; project inside."""
    x = plain(x)
    check_items_apart(model, len(x))
    check_follows(model)
    check_floating(x)
    if layer == INPUT:
        raise BadInput("a layer of convolutions to project back from", "the image itself", "Name a layer, or leave it to auto.")
    sizes: list[int] = []

    def convolved(call: Call) -> Any:
        output = _convolved(call) if call.name in _FORWARD else call.as_written()
        sizes.append(output.numel())
        return output

    rule = RECTIFICATIONS[rectification]
    rules = dict.fromkeys(_CONVOLUTIONS, convolved) | {"batch_norm": _normalised} | (relus(rule) if rule else {})
    with evaluating(model), rewriting(rules) as rewrite, tap(model, [INPUT, layer]) as taps:
        scores = targets(model(taps.input(x)))
        taps.over()
        output, start = taps[layer], taps[INPUT]
        form = spatial_form(model, layer, output, x)
        check_scores(scores, len(x))
        check_differentiable(scores)
        if not sizes:
            expected = "a network with convolutions, through which units can be projected back"
            raise BadInput(expected, f"none in {type(model).__name__}", "Choose a method on the input, or for attention.")
        if rule and activations(model) and not rewrite.met.keys() - {*_CONVOLUTIONS, "batch_norm"}:
            expected, got = f"ReLUs for rectification={rectification!r}", f"none, but {', '.join(activations(model))}"
            raise BadInput(expected, got, 'Take rectification="forward", which is the plain gradient.')
        yield Projection(scores, form, output, start, max(sizes))
