"""Integrated Gradients: the score's change from a reference to the image, shared out over the voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.methods.gradient import Gradient, check_floating, plain
from radiolucent.methods.perturbation import in_passes, mean
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least


@dataclass(frozen=True)
class IntegratedGradients:
    """Path integral of the gradient from a reference x' to x (Sundararajan et al., ICML 2017, eq. 1).

        R = (x - x') * integral_0^1 dS/dx (x' + a (x - x')) da,     sum R = S(x) - S(x')

    by Gauss-Legendre quadrature with `steps` points, `batch` of them in a pass (0: as many as fit well);
    `baseline` names x' (zero, minimum, mean, blur, noise). Signed, on the input's grid, complete up to the
    quadrature. A voxel that equals the reference gets 0: with "zero" black tissue is never relevant.
    """

    steps: int = 50
    baseline: str = "zero"
    batch: int = 0

    unit = "score"

    def __post_init__(self) -> None:
        at_least(self, steps=1, batch=0)
        among(self, baseline=baselines.BASELINES)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        check_floating(x)
        return self.along(model, x, baselines.baseline(self.baseline, x), targets)

    def along(self, model: nn.Module, x: Tensor, reference: Tensor, targets: Target) -> Tensor:
        """R on the path from a given reference to x."""
        n = self.steps
        places, weights = np.polynomial.legendre.leggauss(n)
        path = (torch.lerp(reference, x, float(a)) for a in (1 + places) / 2)
        gradients = in_passes(Gradient(), model, path, targets, self.batch, n)
        return (x - reference) * mean(g * float(n * weight / 2) for g, weight in zip(gradients, weights, strict=True))
