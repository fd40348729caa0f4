"""Encoding many slices a few at a time, with what the backward pass needs made again there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[[Tensor], Tensor], slices: Tensor, chunk: int, again: nn.Module | None) -> Tensor:
    """encode(slices), `chunk` of them at once (0: all); with `again`, the module that encodes, activations are not kept.

    They are then made again in the backward pass, in which batch norm's statistics stay as they are.
    """
    parts = slices.split(chunk) if chunk else (slices,)
    if again is None or not torch.is_grad_enabled():
        return torch.cat([encode(part) for part in parts])
    contexts = lambda: (nullcontext(), _statistics_kept(again))  # noqa: E731
    return torch.cat([checkpoint(encode, part, use_reentrant=False, context_fn=contexts) for part in parts])


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """While inside, running means and variances of batch norm do not move: they moved in the first pass."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    before = [(m, m.momentum, m.num_batches_tracked) for m in norms]
    try:
        for m in norms:
            m.momentum = 0.0
            if m.num_batches_tracked is not None:
                m.num_batches_tracked = m.num_batches_tracked.clone()
        yield
    finally:
        for m, momentum, count in before:
            m.momentum, m.num_batches_tracked = momentum, count
