"""The changed backward passes of layer-wise relevance propagation.

What travels back is not R itself but G = R / activation: for a sum, a mean, a copy, a max pooling or a ReLU the
plain gradient is then exactly the share by contribution, and nothing is divided by an activation. A layer
z = x W + b whose relevance is to go by contributions q differentiates z~ = sum of q instead of z, and
scales G by z / z~:  R_i = q_i / z~ * R_j  =  x_i * (dz~/dx_i) * (z / z~) * G_j.
At the image, R = x * G.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Share(torch.autograd.Function):
    """Forward the value z; backward G goes into z~ scaled by z / z~, so that R = z G is shared as z~ is made up."""

    @staticmethod
    def forward(ctx: Any, made_of: Tensor, value: Tensor, stabiliser: float) -> Tensor:
        divisor = torch.full_like(made_of, stabiliser).copysign_(made_of).add_(made_of)
        if stabiliser == 0:
            divisor.masked_fill_(divisor == 0, 1)
        ctx.save_for_backward(value / divisor)
        return value.clone()  # the network may overwrite it

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None


class Damp(torch.autograd.Function):
    """The same where z~ = z, but for the stabiliser; the ratio waits for the backward pass, which may never come."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.epsilon = epsilon
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.epsilon == 0:
            return gradients[0], None
        size = ctx.saved_tensors[0].abs()
        return (gradients[0] * size).div_(size.add_(ctx.epsilon)), None


class Arrive(torch.autograd.Function):
    """Forward `value` in place of the image; backward the relevance value * G, which is the image's."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None
