"""Infidelity: how far is the score's change from what the map foretells?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radiolucent.metrics.faithfulness.changed import Changed, Drawn, Unchanged, Witness
from radiolucent.metrics.faithfulness.correlation import RandomSubsets
from radiolucent.metrics.faithfulness.findings import Asking, Claim, drops, looks
from radiolucent.metrics.faithfulness.units import Units
from radiolucent.metrics.finding import LEVEL, Finding, Undefined
from radiolucent.settings import at_least
from radiolucent.statistics import bootstrap


@dataclass(frozen=True)
class Noisy:
    """The image minus normal noise I of `spread` standard deviations of each channel."""

    spread: float
    seed: int
    number: int

    def change(self, x: Tensor) -> Tensor:
        """I (1, c, *grid)."""
        generator = np.random.default_rng((self.seed, self.number))
        sigma = x.flatten(2).std(2, unbiased=False).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        drawn = torch.from_numpy(generator.standard_normal(tuple(x.shape), np.float32)).to(x)
        return drawn * sigma * self.spread

    def of(self, witness: Witness) -> Tensor:
        return witness.x - self.change(witness.x)


@dataclass(frozen=True)
class Infidelity(RandomSubsets):
    """Expected squared error of the change that the map foretells (Yeh et al., NeurIPS 2019, definition 2.1).

        INFD = E_I ( b I . R - (S(x) - S(x - I)) )^2,    b = E[I.R drop] / E[(I.R)^2],  or 1 where not `scaled`

    I hides a random subset, I = x - baseline there (the same subsets as faithfulness correlation, and the same
    evaluations), or with `noise` above 0 is normal noise of so many standard deviations of a channel. R is the score per
    unit of intensity. Of maps that are shares of the score already, as Input x Gradient, Integrated Gradients or CAMs,
    I . R is their sum over the subset: a share is R times x - x'. They say nothing about noise.

    Lower is better, 0 for a linear model's gradient. In units of the score, squared: compare maps of one target of one
    image. `scaled` forgives a map its scale, as the paper does (section 2.1) and captum with normalize=True; a sign is
    forgiven with it. A map of noise gets about E[drop^2], the most that a scaled one can have.
    Agrees with captum. Quantus 0.6.0 hides patch after patch and never gives one back, so that its copies are one nested
    sequence and not draws of I: we follow the paper.

    The interval is the bootstrap's over the draws; `error` is of the standard error relative to the value.
    """

    noise: float = 0.0
    scaled: bool = True

    name = "infidelity"
    higher_is_better = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, noise=0)

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        units = witness.units(self.over, self.cubes)
        if self.noise and not claim.slope:
            raise Undefined("the map is no score per unit of intensity: it says nothing about noise")
        drawn: list[Changed] = [*self.drawn(units)]
        if self.noise:
            drawn = [Noisy(self.noise, self.seed, i) for i in range(self.samples)]
        foretold: list[Tensor] = []
        for n in looks(self.samples, self.error):
            foretold += [_foretold(d, claim, witness, units) for d in drawn[len(foretold) : n]]
            S = yield [Unchanged(), *drawn[:n]]
            found = self.expected(torch.stack(foretold).numpy(), drops(S).numpy())
            half = (found.high - found.low) / 2
            if self.error and half / 1.96 <= self.error * found.value:
                break
        return found

    def expected(self, a: np.ndarray, d: np.ndarray) -> Finding:
        """INFD of what was foretold a (n,) and the drops d (n,)."""
        if self.scaled and not a.any():
            raise Undefined("the map foretells no change, whatever is hidden")

        def of(weights: np.ndarray) -> np.ndarray:
            b = (weights @ (a * d) / (weights @ a**2))[:, None] if self.scaled else 1.0
            return (weights * (b * a - d) ** 2).sum(1) / weights.sum(1)

        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold nothing but zeros
            mean = bootstrap(of, len(a), level=LEVEL, seed=self.seed)
        return Finding(mean.mean, mean.low, mean.high)


def _foretold(changed: Changed, claim: Claim, witness: Witness, units: Units) -> Tensor:
    """I . R"""
    if isinstance(changed, Noisy):
        return _dot(changed.change(witness.x)[0], claim.relevance)
    assert isinstance(changed, Drawn)
    members = changed.members(units)
    if not claim.slope:
        return claim.sums(units)[members].sum(dtype=torch.float64)
    where = units.where(members).to(witness.x.device)
    I = (witness.x - witness.reference(changed.baseline))[0] * where
    return _dot(I, claim.relevance)


def _dot(I: Tensor, R: Tensor) -> Tensor:
    return (I.double() * R.to(I.device).double()).sum().cpu()
