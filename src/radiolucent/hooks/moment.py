"""What a forward pass ran under, for running a part of it again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack


class Moment:
    """The function modes, the autocast settings and the state of the random numbers at the moment when it is made.

    None of them is there by itself in a backward pass: `torch.autograd.grad` is seen by the function modes, which
    step aside for what they see.
    """

    def __init__(self, x: Tensor) -> None:
        self._modes = _get_current_function_mode_stack()
        kinds = dict.fromkeys((x.device.type, "cpu"))
        self._autocast = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]
        self._random = torch.get_rng_state()
        self._device = x.device if x.device.type == "cuda" else None
        self._device_random = None if self._device is None else torch.cuda.get_rng_state(self._device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """All as at that moment while inside, and as before afterwards."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([] if self._device is None else [self._device]))
            torch.set_rng_state(self._random)
            if self._device is not None and self._device_random is not None:
                torch.cuda.set_rng_state(self._device_random, self._device)
            for kind, dtype, enabled in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            active = _get_current_function_mode_stack()
            for mode in self._modes:
                if not any(mode is other for other in active):
                    stack.enter_context(mode)
            yield
