"""Reference inputs: what "nothing to see" looks like. Shared by methods and metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from radiolucent.errors import BadInput


def zero(x: Tensor) -> Tensor:
    """0 everywhere: black after scaling to [0, 1], the mean after z-scoring."""
    return torch.zeros_like(x)


def minimum(x: Tensor) -> Tensor:
    """Each channel's smallest value: air in most scans, whatever the scaling."""
    return x.flatten(2).amin(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x).clone()


def mean(x: Tensor) -> Tensor:
    """Each channel's mean."""
    return x.flatten(2).mean(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x).clone()


def blur(x: Tensor) -> Tensor:
    """x through a Gaussian of sigma = 1/8 of each axis, edges repeated: fine structure gone, layout kept."""
    for axis in range(2, x.ndim):
        sigma = max(x.shape[axis] / 8, 1e-3)
        place = torch.arange(x.shape[axis], device=x.device)
        reach = torch.arange(-round(3 * sigma), round(3 * sigma) + 1, device=x.device)
        weight = torch.exp(-0.5 * (reach.to(torch.promote_types(x.dtype, torch.float32)) / sigma) ** 2)
        smooth = torch.zeros(x.shape[axis], x.shape[axis], device=x.device, dtype=weight.dtype)
        source = (place[:, None] + reach).clamp(0, x.shape[axis] - 1)
        smooth.scatter_add_(1, source, (weight / weight.sum()).expand_as(source))
        x = (x.movedim(axis, -1) @ smooth.to(x.dtype).T).movedim(-1, axis)
    return x


def noise(x: Tensor) -> Tensor:
    """Uniform noise over each channel's range, the same on every call (seed 0) and for every batch item."""
    low = x.flatten(2).amin(2).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    high = x.flatten(2).amax(2).reshape(low.shape)
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand((1, *x.shape[1:]), generator=generator).to(x)
    return low + (high - low) * draw


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {f.__name__: f for f in (zero, minimum, mean, blur, noise)}


def baseline(name: str, x: Tensor) -> Tensor:
    """The reference for x (b, c, *grid) by name, same shape."""
    if name not in BASELINES:
        raise BadInput(f"a baseline among {', '.join(BASELINES)}", repr(name), "Choose one of them.")
    if not x.is_floating_point():  # a mean, a blur and noise need fractions on their way
        return BASELINES[name](x.float()).round().to(x.dtype)
    return BASELINES[name](x)


def hide(x: Tensor, where: Tensor, reference: Tensor) -> Tensor:
    """x with `reference` in the places that `where` marks: 1 hides all, 0 nothing, between blends.

    Whole numbers stay whole.
    """
    if not x.is_floating_point():
        return hide(x.float(), where, reference.float()).round().to(x.dtype)
    return torch.lerp(x, reference, where.to(x.dtype))
