"""Class activation maps: feature maps of one layer, weighted by what speaks for the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent.methods.gradient import first_order
from radiolucent.protocols import Target


@dataclass(frozen=True)
class GradCAM:
    """Coarse relevance at one layer (Selvaraju et al., ICCV 2017, eq. 1-2).

        R[p] = max(0, sum_c a[c] A[c, p]),   a[c] = mean_p dS/dA[c, p]

    `layer` is a dotted module name, or "auto" for the last layer with a grid. The result lies on that
    layer's grid. Being >= 0 it cannot show evidence against the target; averaging the gradient can
    highlight places that the score does not depend on (HiResCAM does not). With a Region target this is
    Seg-Grad-CAM (Vinogradova et al., AAAI 2020).
    """

    layer: str = "auto"

    unit = "score (features x gradient)"
    weighs_channels = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        weights = gradient.flatten(2).mean(-1)
        return torch.einsum("bc,bc...->b...", weights, activation).relu().unsqueeze(1)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class GradCAMPlusPlus:
    """Grad-CAM with a weight per cell, for several instances of a class (Chattopadhay et al., WACV 2018).

        R[p]    = max(0, sum_c w[c] A[c, p]),   w[c] = sum_p k[c, p] max(0, g[c, p]),   g = dS/dA
        k[c, p] = g[c, p]^2 / (2 g[c, p]^2 + sum_q A[c, q] g[c, p]^3)                       (eq. 19)

    where the denominator is 0, k = 0. As in the paper the class score is exp(S); its factor exp(S) > 0
    is left out. Computed in float64 without an epsilon, since the powers of 3D gradients are tiny. A sum
    of activations below zero can make k negative or very large.
    """

    layer: str = "auto"

    unit = "score (features x gradient)"
    weighs_channels = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        A, g = activation.double(), gradient.double()
        sum_A = A.flatten(2).sum(-1).reshape(*A.shape[:2], *[1] * (A.ndim - 2))
        denominator = 2 * g**2 + sum_A * g**3
        k = torch.where(denominator == 0, 0.0, g**2 / denominator)
        weights = (k * g.relu()).flatten(2).sum(-1)
        return torch.einsum("bc,bc...->b...", weights, A).relu().unsqueeze(1).to(activation.dtype)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class HiResCAM:
    """Where the layer's features change the score, cell by cell (Draelos & Carin, 2020, eq. 4).

        R[p] = sum_c dS/dA[c, p] * A[c, p]

    Signed: below zero speaks against the target. Faithful for a network that ends in this layer, a
    global average or flattening, and one linear layer; deeper heads make it a first-order picture.
    """

    layer: str = "auto"

    unit = "score (features x gradient)"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return (activation * gradient).sum(1, keepdim=True)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class LayerCAM:
    """Cell-wise weights from positive gradients, useful at shallow layers too (Jiang et al., TIP 2021, eq. 5-7).

        R[p] = max(0, sum_c max(0, dS/dA[c, p]) * A[c, p])

    Non-negative: evidence against the target is dropped.
    """

    layer: str = "auto"

    unit = "score (features x gradient)"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.relu() * activation).sum(1, keepdim=True).relu()

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class RespondCAM:
    """Grad-CAM with weights by which the map sums to the score, made for 3D networks (Zhao et al., MICCAI 2018).

        R[p] = sum_c a[c] A[c, p],   a[c] = sum_p A[c, p] dS/dA[c, p] / sum_p A[c, p]

    without a ReLU; where the denominator is 0, a = 0. The paper adds a small constant to it, which is left
    out here: computed in float64. Signed. sum_p R = S - b for a network that is linear behind the layer with bias
    b, and sum_p R = S for ReLU layers without bias. After a layer without ReLU the sum of a feature map may be
    near 0, which makes its weight very large.
    """

    layer: str = "auto"

    unit = "score"
    weighs_channels = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        A, g = activation.double().flatten(2), gradient.double().flatten(2)
        sum_A = A.sum(-1)
        weights = torch.where(sum_A == 0, 0.0, (A * g).sum(-1) / sum_A)
        return torch.einsum("bc,bc...->b...", weights, activation.double()).unsqueeze(1).to(activation.dtype)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


@dataclass(frozen=True)
class SaliencyTubes:
    """The last features weighted by the output's weights in the last dense layer (Stergiou et al., ICIP 2019).

        R[p] = sum_c w[c] A[c, p],   w[c] = sum_p dS/dA[c, p]

    A network that ends in this layer, a global mean and one linear layer has w = that layer's row for S, so R is
    the class activation map of Zhou et al. (CVPR 2016) over all axes, and mean_p R = S - bias. For any other
    network w is what a constant added to the feature map would change in S, to first order: the row of the
    linear layer that acts like the rest of the network at this image. Signed, without a threshold on w.
    """

    layer: str = "auto"

    unit = "score (features x weight)"
    weighs_channels = True

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        weights = gradient.flatten(2).sum(-1)
        return torch.einsum("bc,bc...->b...", weights, activation).unsqueeze(1)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]
