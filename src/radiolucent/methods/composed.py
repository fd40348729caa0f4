"""Methods made of methods: averages over noise, and products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from radiolucent.geometry import upsample
from radiolucent.methods.cam import GradCAM
from radiolucent.methods.gradient import Gradient, check_floating
from radiolucent.methods.guided import GuidedBackprop
from radiolucent.methods.perturbation import in_passes, mean
from radiolucent.protocols import Method, Target
from radiolucent.settings import ANY_SEED, at_least


@dataclass(frozen=True)
class SmoothGrad:
    """Any method, averaged over noisy copies of the image (Smilkov et al., 2017; Agg2Exp eq. 4).

        R = 1/n sum_i R_of(x + e_i),   e_i ~ N(0, (noise * (max x - min x))^2)

    n = `samples`, `batch` of them in a pass (0: as many as fit well), `of` = the method that is averaged. Sign and
    grid are those of `of`. The noise is drawn from `seed`, the same for each batch item. Smooth pictures are not by
    themselves more faithful.
    """

    of: Method = field(default_factory=Gradient)
    samples: int = 25
    noise: float = 0.1
    seed: int = 0
    batch: int = 0

    def __post_init__(self) -> None:
        at_least(self, samples=1, noise=0, seed=ANY_SEED, batch=0)

    @property
    def unit(self) -> str:
        return self.of.unit

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return mean(in_passes(self.of, model, self.noisy(x), targets, self.batch, self.samples))

    def noisy(self, x: Tensor) -> Iterator[Tensor]:
        """The copies x + e_i, one after the other."""
        check_floating(x)
        generator = torch.Generator().manual_seed(self.seed)
        spread = x.flatten(1).amax(1) - x.flatten(1).amin(1)
        sigma = self.noise * spread.reshape(-1, *[1] * (x.ndim - 1))
        for _ in range(self.samples):
            yield x + torch.randn((1, *x.shape[1:]), generator=generator).to(x) * sigma


@dataclass(frozen=True)
class Times:
    """Product of two methods on the input's grid, the coarser one interpolated.

        R[c, p] = R_first[c, p] * R_second[c, p]

    Fine detail of one, kept where the other is large.
    """

    first: Method
    second: Method

    @property
    def unit(self) -> str:
        return f"{self.first.unit} x {self.second.unit}"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        first, second = (upsample(m(model, x, targets), tuple(x.shape[2:])) for m in (self.first, self.second))
        return first * second


@dataclass(frozen=True)
class GuidedGradCAM:
    """Guided backpropagation, kept where Grad-CAM is large (Selvaraju et al., ICCV 2017, section 3.2).

        R[c, p] = R_guided[c, p] * R_gradcam[p]

    Signed, on the input's grid. It inherits guided backpropagation's likeness to an edge detector.
    """

    layer: str = "auto"

    unit = "rectified gradient x Grad-CAM"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return Times(GuidedBackprop(), GradCAM(self.layer))(model, x, targets)
