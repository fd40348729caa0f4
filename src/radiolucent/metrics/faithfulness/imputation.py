"""Missing voxels from their neighbours: each becomes the weighted mean of those around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from radiolucent.errors import BadInput

MOST = 2000
"""Iterations: the error falls by a factor with each, which is nearest to 1 for one large hole."""


def impute(x: Tensor, gone: Tensor, tolerance: float = 1e-4) -> Tensor:
    """x (1, c, *grid) with the voxels `gone` (*grid) replaced by the solution y of (Rong et al., ICML 2022, section 4)

        sum_q w(p, q) (y[p] - y[q]) = 0   for each p that is gone,     y = x elsewhere,     w(p, q) ~ 1 / |p - q|^2

    with q over the 8 neighbours in the plane (weights 1/6 and 1/12, as in the paper) or the 26 in space, as many of them
    as there are at a border. By conjugate gradients: the equations are symmetric and positive definite as long as some
    voxel is left. `tolerance` is of the residual, relative to the right-hand side.
    """
    if bool(gone.all()):
        raise BadInput("a voxel that is left, for the others to be filled from", "none", "Take fewer away.")
    wide = x[0][:, None].to(torch.promote_types(x.dtype, torch.float32))  # each channel for itself
    free = gone.to(wide)
    spread = _neighbours(wide)
    there = spread(torch.ones_like(free)[None, None])
    level = (wide * (1 - free)).flatten(1).sum(1) / (1 - free).sum()  # the mean of what is left, to start from
    level = level.reshape(-1, *[1] * (wide.ndim - 1))
    b = free * (spread((wide - level) * (1 - free)))
    y = _solve(lambda v: free * (there * v - spread(v)), b, there, tolerance)
    return torch.where(gone, y + level, wide)[:, 0][None].to(x.dtype)


def _neighbours(x: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> sum_q w(p, q) v[q], 0 outside."""
    axes = x.ndim - 2
    place = torch.stack(torch.meshgrid(*[torch.arange(-1, 2)] * axes, indexing="ij")).square().sum(0).to(x)
    weight = torch.where(place > 0, 1 / place.clamp(min=1), torch.zeros_like(place))
    weight = (weight / weight.sum())[None, None]
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    return lambda v: convolve(v, weight, padding=1)


def _solve(A: Callable[[Tensor], Tensor], b: Tensor, diagonal: Tensor, tolerance: float) -> Tensor:
    """y with A(y) = b, for each row of its own (Hestenes & Stiefel 1952, with the diagonal as preconditioner)."""

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (u.ndim - 1))

    y, r = torch.zeros_like(b), b
    z = r / diagonal
    p, rz = z, dot(r, z)
    enough = tolerance**2 * dot(b, b)
    for _ in range(MOST):
        if bool((dot(r, r) <= enough).all()):
            break
        Ap = A(p)
        step = torch.nan_to_num(rz / dot(p, Ap), 0, 0, 0)  # a channel that is done
        y, r = y + step * p, r - step * Ap
        z = r / diagonal
        rz, before = dot(r, z), rz
        p = z + torch.nan_to_num(rz / before, 0, 0, 0) * p
    return y
