"""Guided backpropagation and DeconvNet: the gradient with a changed rule at every ReLU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import relus, rewriting
from radiolucent.methods.gradient import Gradient
from radiolucent.protocols import Target


class GuidedReLU(torch.autograd.Function):
    """Forward min(max(0, x), ceiling); backward lets through what is positive on the way up and down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        result = x.relu() if ceiling == float("inf") else x.clamp(0, ceiling)
        ctx.save_for_backward(result)
        ctx.ceiling = ceiling
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        # The rule of the plain ReLU in torch's own kernel, then the guided one in place.
        passed = torch.ops.aten.threshold_backward(gradients[0], result, 0).clamp_(min=0)
        return passed if ctx.ceiling == float("inf") else passed * (result < ctx.ceiling), None


class DeconvReLU(torch.autograd.Function):
    """Forward min(max(0, x), ceiling); backward the ReLU of the signal on its way down, whatever x was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return x.relu() if ceiling == float("inf") else x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clamp(min=0), None


@dataclass(frozen=True)
class GuidedBackprop:
    """Gradient that keeps only positive signals at every ReLU (Springenberg et al., ICLR workshop 2015).

        r_in = [x > 0] [r_out > 0] r_out   at each ReLU,   R = the result at the input

    Signed, on the input's grid. Crisp, but close to an edge detector: it changes little when the weights are
    randomised (Adebayo et al., NeurIPS 2018), so take it as a picture, not as evidence. Every form of ReLU
    and ReLU6 is caught (module, function, in place, reused, exported), but none that is written as a clamp;
    a network without one is refused.
    """

    unit = "rectified gradient"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return _gradient_with(GuidedReLU.apply, model, x, targets)


@dataclass(frozen=True)
class DeconvNet:
    """Projection of a score back to the image by a network in reverse (Zeiler and Fergus, ECCV 2014, section 2.1).

        r_in = [r_out > 0] r_out   at each ReLU,   R = the result at the input

    Transposed convolutions, and unpooling to where each maximum was, are what a gradient does anyway: only the
    ReLU differs. Signed, on the input's grid. In a network of convolutions and ReLUs the image has no say at all
    in what is shown, and with max pooling only through the places of the maxima: a picture of the weights, not
    evidence (Nie et al., ICML 2018). Which ReLUs are caught, and what is refused, is as in GuidedBackprop.
    """

    unit = "rectified gradient"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return _gradient_with(DeconvReLU.apply, model, x, targets)


def _gradient_with(rule: Callable[[Tensor, float], Tensor], model: nn.Module, x: Tensor, targets: Target) -> Tensor:
    with rewriting(relus(rule)) as rewrite:
        relevance = Gradient()(model, x, targets)
    if not rewrite.met:
        raise BadInput(
            "a network with ReLU, whose backward rule this method changes",
            f"none ran (activations: {', '.join(activations(model)) or 'none'})",
            "The result would be the plain gradient: use Gradient or SmoothGrad.",
        )
    return relevance


def activations(model: nn.Module) -> list[str]:
    """The kinds of activation among the model's modules."""
    return sorted({type(m).__name__ for m in model.modules() if "torch.nn.modules.activation" in type(m).__module__})
