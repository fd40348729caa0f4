"""Eigen-CAMs: what the features of one layer have most in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent.hooks import evaluating, tap
from radiolucent.methods.backward import spatial_form
from radiolucent.methods.gradient import first_order, layer_of, plain
from radiolucent.protocols import Target
from radiolucent.scoring import check_scores


@dataclass(frozen=True)
class EigenCAM:
    """First principal component of a layer's features (Muhammad & Yeasin, IJCNN 2020).

        R[p] = sum_c v[c] (A[c, p] - mean_q A[c, q]),   v = first eigenvector of the channels' covariance

    The features are centred, so that v is what varies most over the image and not its mean. An eigenvector
    has no sign of its own: here sum_c v[c] >= 0, so that R is high where the features are strong. Signed:
    below zero is less than the layer's mean. The result lies on the layer's grid. Target-blind: the same map
    for every target, from a plain forward pass without gradients; it shows what the layer responds to, not
    what speaks for an answer.
    """

    layer: str = "auto"

    unit = "features along their first component"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        layer = layer_of(self.layer, model, x, targets)
        with evaluating(model), torch.no_grad(), tap(model, [layer]) as taps:
            scores = targets(model(taps.input(x)))
            taps.over()
            check_scores(scores, len(x))
            output = taps[layer]
        activation = spatial_form(model, layer, output, x).restore(output)
        return first_component(activation).repeat(len(scores), *[1] * activation.ndim)


@dataclass(frozen=True)
class EigenGradCAM:
    """First principal component of features times gradients: Eigen-CAM that knows the target (grad-cam's own).

        R[p] = sum_c v[c] (E[c, p] - mean_q E[c, q]),   E = A * dS/dA,   v = first eigenvector of E's covariance

    with sum_c v[c] >= 0: R is high where HiResCAM, the sum of E over the channels, is high. Signed, below
    zero is less than the layer's mean, which need not speak against the target. The result lies on the layer's grid.
    """

    layer: str = "auto"

    unit = "score (features x gradient) along its first component"

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return first_component(activation * gradient)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return first_order(model, x, targets, [self])[0]


def first_component(values: Tensor) -> Tensor:
    """(b, c, *cells) -> (b, 1, *cells): the centred values along their first eigenvector v, with sum v >= 0.

    In float64, from the smaller of the two Gram matrices (channels or cells).
    """
    X = values.double().flatten(2)
    X = X - X.mean(2, keepdim=True)
    if X.shape[1] <= X.shape[2]:
        v = torch.linalg.eigh(X @ X.mT).eigenvectors[..., -1]
    else:
        u = torch.linalg.eigh(X.mT @ X).eigenvectors[..., -1]
        v = torch.nn.functional.normalize((X @ u.unsqueeze(-1)).squeeze(-1), dim=1)
    v = torch.where(v.sum(1, keepdim=True) < 0, -v, v)
    return torch.einsum("bc,bcp->bp", v, X).reshape(len(X), 1, *values.shape[2:]).to(values.dtype)
