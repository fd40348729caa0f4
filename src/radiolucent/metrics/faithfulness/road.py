"""ROAD: deletion that fills what it takes away from its surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radiolucent.metrics.faithfulness.changed import Cubes, Gone, Order, Unchanged, Witness
from radiolucent.metrics.faithfulness.curves import Ordered
from radiolucent.metrics.faithfulness.findings import Asking, Claim, area
from radiolucent.metrics.faithfulness.imputation import impute
from radiolucent.metrics.finding import Undefined
from radiolucent.settings import at_least


@dataclass(frozen=True)
class Imputed:
    """The image with the first `count` units of an order filled from around them, and normal noise on it."""

    over: str
    cubes: Cubes
    order: Order
    count: int
    noise: float
    seed: int

    def of(self, witness: Witness) -> Tensor:
        x = witness.x
        gone = witness.units(self.over, self.cubes).where(self.order.ranked[: self.count]).to(x.device)
        generator = np.random.default_rng((self.seed, self.count))
        drawn = torch.from_numpy(generator.standard_normal(tuple(x.shape), np.float32)).to(x)
        sigma = x.flatten(2).std(2, unbiased=False).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        return impute(x, gone) + gone * drawn * sigma * self.noise


@dataclass(frozen=True)
class ROAD(Ordered):
    """Mean score with the most relevant units filled from their neighbours (Rong et al., ICML 2022, "noisy linear imputation").

        ROAD = 1/(b-a) int_a^b S(x with its q most relevant units imputed) dq,    a = 1/(n+1), b = n/(n+1), n = `points`

    q is a share of the units; at none and all of them there is nothing to impute, or nothing to impute from.

    Lower is better (the paper's order "most relevant first"). Each voxel that goes becomes the weighted mean of its
    neighbours (see impute; in a volume of 26), plus normal noise of `noise` standard deviations of its channel, so that
    neither the hole's edge nor its outline tells the network what was there. The paper takes the accuracy over many
    images; here it is one image's score, in units as in Deletion (with `relative`, from the score of `baseline`). Large
    smooth things, as an organ's brightness, survive the filling: ROAD does not see that they matter.

    Low and high as in Deletion; the noise is drawn once. Quantus 0.6.0 agrees in what it imputes, but takes the class that
    is predicted, and none but images in the plane.
    """

    over: str = "voxels"
    points: int = 9
    baseline: str = "mean"
    noise: float = 0.01

    name = "road"
    higher_is_better = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, points=2, noise=0)

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        order = self.order(claim, witness)
        counts = [k for k in self.counts(len(order), np.linspace(0, 1, self.points + 2)[1:-1].tolist()) if 0 < k < len(order)]
        if len(counts) < 2:
            raise Undefined(f"{len(order)} {self.over}: too few for a curve")
        one = self.over, self.cubes, order
        S = yield [Unchanged(), Gone(self.baseline), *(Imputed(*one, k, self.noise, self.seed) for k in counts)]
        return area([k / len(order) for k in counts], self.scaled(S[2:], S[0], S[1]).tolist())
