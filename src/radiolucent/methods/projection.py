"""Signals at a layer's units projected back to the image: transposed convolutions, unpooling, and a rule at every ReLU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import INPUT, Call, Form, check_follows, check_items_apart, evaluating, relus, rewriting, tap
from radiolucent.methods.backward import check_differentiable, spatial_form
from radiolucent.methods.gradient import check_floating, plain
from radiolucent.methods.guided import DeconvReLU, GuidedReLU, activations
from radiolucent.protocols import Target
from radiolucent.scoring import check_scores, in_chunks

NUMBERS = 2**26
"""In the largest tensor of one backward pass, for batch=0: 256 MiB in single precision."""

NUMBERS_ON_CPU = {"image": 2**20, "volume": 2**22}
"""The same on a processor, whose cache is to hold some of it."""

FEWEST_IMAGES = 8
"""On a processor fewer in one pass are slower than each alone: oneDNN takes small convolutions of several in a slower way."""

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")


class _PassingReLU(torch.autograd.Function):
    """Forward min(max(0, x), ceiling); backward lets everything through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


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

    def _at_once(self) -> int:
        """How many signals share a backward pass. See benchmarks/attentive.py."""
        x = self._start
        if x.device.type != "cpu":
            return max(1, NUMBERS // self.largest)
        if x.ndim == 5:  # of one volume alone PyTorch makes convolutions without oneDNN, up to ten times slower
            return max(2, NUMBERS_ON_CPU["volume"] // self.largest)
        many = NUMBERS_ON_CPU["image"] // self.largest
        return many if many >= FEWEST_IMAGES else 1

    def back(self, count: int, signal: Callable[[int, Tensor], None], batch: int) -> Iterator[tuple[int, Tensor]]:
        """(i, response (b, *grid)) for i < count, input channels added up; `signal(i, empty)` fills i's signal (b, k, *cells).

        As many at once as `batch` says, or for 0 as memory allows.
        """

        def projected(wanted: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(self._output, [self._start], wanted, retain_graph=True, allow_unused=True)
            if found is None:
                raise BadInput("a layer that depends on the image", "no path from the image to it", "Choose another layer.")
            return found

        def together(which: range) -> Tensor:
            signals = self._output.new_zeros(len(which), *self._output.shape)
            for i, each in zip(which, signals, strict=True):
                signal(i, self.form.restore(each))
            # Not is_grads_batched: that takes most operations one unit at a time.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # an operation that cannot be batched
                found = projected(signals[0])[None] if len(which) == 1 else torch.vmap(projected, randomness="same")(signals)
            return found.to(torch.promote_types(found.dtype, torch.float32)).sum(2)

        for which, found in in_chunks(count, batch or self._at_once(), together):
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
        output = call.as_written()
        sizes.append(output.numel())
        return output

    rule = RECTIFICATIONS[rectification]
    rules = dict.fromkeys(_CONVOLUTIONS, convolved) | (relus(rule) if rule else {})
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
        if rule and activations(model) and not rewrite.met.keys() - set(_CONVOLUTIONS):
            expected, got = f"ReLUs for rectification={rectification!r}", f"none, but {', '.join(activations(model))}"
            raise BadInput(expected, got, 'Take rectification="forward", which is the plain gradient.')
        yield Projection(scores, form, output, start, max(sizes))
