"""How far a map moves when the image changes a little: by noise, by a shift, by a turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from scipy.ndimage import rotate
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, average, changes, exact, judged
from radiolucent.settings import ANY_SEED, at_least, yes_or_no


@dataclass(frozen=True)
class AverageSensitivity:
    """Mean relative change of the map under noise (Agg2Exp; Bhatt et al., IJCAI 2020, after Yeh et al., NeurIPS 2019).

        AS = mean_e |R(x + e) - R(x)| / |R(x)|,   e[p] ~ U(-radius, radius)

    Frobenius norms over all channels and cells, `samples` draws from `seed`, Student's interval for the mean. `radius` is
    a share of the image's range, or in units of intensity where not `of_range`, as in the papers: the same for images
    scaled to [0, 1]. Agg2Exp has 3 samples, too few for a useful interval. Targets stay as they were fixed on x.

    Lower is better. A map that does not look at the image is best, and a smooth one on a coarse grid has it easy: compare
    with the controls. What chance in the method itself does is `repeatability`. Quantus once divided by the norm of the
    image instead of the map's (its issue 288, mended in 2023): its older numbers cannot be compared.
    """

    samples: int = 10
    radius: float = 0.1
    of_range: bool = True
    seed: int = 0

    name = "average-sensitivity"
    category = "robustness"
    higher_is_better = False

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, maps: Remade) -> list[Finding]:
        return judged(maps, _under_noise(maps, self), average, _unlike)


@dataclass(frozen=True)
class MaxSensitivity:
    """The largest relative change of the map under noise (Yeh et al., NeurIPS 2019).

        MS = max_e |R(x + e) - R(x)| / |R(x)|,   |e[p]| <= radius

    over `samples` uniform draws from `seed`: a lower bound that grows with their number, so that its interval is open
    above. The paper's definition has no denominator; its authors' code has the map's norm, as captum has, and so do we,
    since methods differ in scale. Quantus once had the norm of the image there (its issue 288, mended in 2023).

    Lower is better. Settings, and what it cannot see, as in `average-sensitivity`, with which it shares its maps.
    """

    samples: int = 10
    radius: float = 0.1
    of_range: bool = True
    seed: int = 0

    name = "max-sensitivity"
    category = "robustness"
    higher_is_better = False

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, maps: Remade) -> list[Finding]:
        return judged(maps, _under_noise(maps, self), _largest, _unlike)


@dataclass(frozen=True)
class ShiftContinuity:
    """Does the map go with the image when that is shifted (after Montavon et al., Digital Signal Processing 2018)?

        SC = mean_T |R(T x) - T R(x)| / |T R(x)|,   T = a shift by +-voxels along one axis

    Both maps on the image's grid, without a margin of `voxels` at each side, where T brings in what was not there (the
    image's edge is repeated). The targets are fixed anew on each shifted image, so that a predicted mask moves too.

    Lower is better, 0 for a network of convolutions with stride 1. Strides and pooling make the *network* depend on where
    the grid falls; coarse maps move in steps of a cell, not of a voxel. No chance, so no interval.
    """

    voxels: int = 1

    name = "shift-continuity"
    category = "robustness"
    higher_is_better = False

    def __post_init__(self) -> None:
        at_least(self, voxels=1)

    def __call__(self, maps: Remade) -> list[Finding]:
        if min(maps.x.shape[2:]) <= 2 * self.voxels:
            reason = f"the image has {min(maps.x.shape[2:])} voxels along an axis: too few for a shift by {self.voxels}"
            return [Finding(reason=reason)] * len(maps.relevance)
        steps = [(axis, sign * self.voxels) for axis in range(2, maps.x.ndim) for sign in (1, -1)]
        moves: list[Callable[[Tensor], Tensor]] = [partial(shifted, axis=axis, voxels=n) for axis, n in steps]
        return _moved(maps, moves, _interior(maps.x.shape[2:], self.voxels))


@dataclass(frozen=True)
class RotationContinuity:
    """Does the map turn with the image (after Montavon et al., Digital Signal Processing 2018)?

        RC = mean_T |R(T x) - T R(x)| / |T R(x)|,   T = a turn by +-degrees in the plane of two axes

    in each plane, by linear interpolation, in voxels (where these are no cubes, a turn in another plane than theirs is
    also a shear). Compared in the ball that stays inside the image. The targets are fixed anew on each image.

    Lower is better. Interpolation smooths T R(x) but not R(T x): maps that are rough from voxel to voxel score badly for
    that alone. Few networks turn with their image: half of what is found is theirs. No chance, so no interval.
    """

    degrees: float = 5.0

    name = "rotation-continuity"
    category = "robustness"
    higher_is_better = False

    def __post_init__(self) -> None:
        at_least(self, degrees=0)
        if not 0 < self.degrees <= 180:
            raise BadInput("a turn by more than 0 and at most 180 degrees", repr(self.degrees), "5.0 is the default.")

    def __call__(self, maps: Remade) -> list[Finding]:
        planes = list(combinations(range(2, maps.x.ndim), 2))
        turns = [(plane, sign * self.degrees) for plane in planes for sign in (1, -1)]
        moves: list[Callable[[Tensor], Tensor]] = [partial(turned, plane=plane, degrees=d) for plane, d in turns]
        return _moved(maps, moves, _ball(maps.x.shape[2:]))


def noisy(x: Tensor, samples: int, radius: float, of_range: bool, seed: int) -> Iterator[Tensor]:
    """The copies x + e, e uniform within +-radius, or that times the range of x."""
    if not x.is_floating_point():
        raise BadInput("an image of floating-point numbers, to add noise to", f"{x.dtype}", "Leave out the sensitivities.")
    generator = torch.Generator().manual_seed(seed)
    reach = radius * (float(x.max() - x.min()) if of_range else 1.0)
    for _ in range(samples):
        yield x + reach * (2 * torch.rand(x.shape, generator=generator).to(x) - 1)


def shifted(values: Tensor, axis: int, voxels: int) -> Tensor:
    """Moved by whole voxels along an axis; what comes in repeats the edge."""
    n = values.shape[axis]
    source = (torch.arange(n, device=values.device) - voxels).clamp(0, n - 1)
    return values.index_select(axis, source)


def turned(values: Tensor, plane: tuple[int, int], degrees: float) -> Tensor:
    """Turned around the middle in the plane of two axes; what comes in repeats the edge."""
    out = rotate(values.detach().cpu().numpy(), degrees, axes=plane, reshape=False, order=1, mode="nearest")
    return torch.from_numpy(np.ascontiguousarray(out)).to(values)


def _under_noise(maps: Remade, metric: AverageSensitivity | MaxSensitivity) -> Tensor:
    """The relative change of each noisy copy's maps (samples, t)."""
    draws = metric.samples, metric.radius, metric.of_range, metric.seed
    return maps.once(
        ("noise", *draws), lambda: torch.stack([changes(maps.relevance, maps.again(x)) for x in noisy(maps.x, *draws)])
    )


def _moved(maps: Remade, moves: Sequence[Callable[[Tensor], Tensor]], inside: Tensor) -> list[Finding]:
    """The mean change over the moves, inside a mask of the image's grid."""
    grid = tuple(maps.x.shape[2:])
    inside, own = inside.to(maps.relevance.device), upsample(maps.relevance, grid)
    rows = []
    for move in moves:
        again = upsample(maps.again(move(maps.x), moved=True), grid)
        rows.append(changes(move(own[:, 0])[..., inside], again[:, 0][..., inside]))
    return judged(maps, torch.stack(rows), lambda values: exact(float(values.mean())), _unlike)


def _interior(grid: Sequence[int], margin: int) -> Tensor:
    inside = torch.zeros(tuple(grid), dtype=torch.bool)
    inside[tuple(slice(margin, n - margin) for n in grid)] = True
    return inside


def _ball(grid: Sequence[int]) -> Tensor:
    """The voxels that any turn around the middle leaves inside the image, without the outermost."""
    away = [(torch.arange(n) - (n - 1) / 2) ** 2 for n in grid]
    squares = sum(a.reshape([-1 if i == j else 1 for j in range(len(grid))]) for i, a in enumerate(away))
    assert isinstance(squares, Tensor)
    return squares <= (min(grid) / 2 - 1) ** 2


def _largest(values: Tensor) -> Finding:
    value = float(values.max())
    return Finding(value, value, math.nan)


def _unlike(own: Tensor) -> str:
    """Why there is no change, or ""."""
    bad = int((~own.isfinite()).sum())
    return f"{bad} of {len(own)} changed images have a map of another grid, NaN or infinite, or none to compare" if bad else ""


def _check(metric: AverageSensitivity | MaxSensitivity) -> None:
    at_least(metric, samples=1, radius=0, seed=ANY_SEED)
    yes_or_no(metric, "of_range")
