"""What a piece of work costs: seconds, passes through the guest, memory at the peak."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from radiolucent.hooks.layers import tensors_in
from radiolucent.hooks.sharing import Sharing

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What happened inside `costing`; complete when it ends.

    forwards, backwards: images that went through the guest, and those for which a gradient came back to its output. A
        model in windows is counted by windows. What runs only in part (a replay behind a layer, a gradient that stops
        at one) counts as a whole; a backward pass that begins at a layer (attentive response) is not seen. None where
        the guest's calls cannot be seen (TorchScript).
    peak_mib: where it was asked for, how far memory rose above what was held at the start. On the processor this is the
        whole process's resident memory, what the work of other threads takes included; too little where freed memory that
        an allocator kept is used again, as it may be in a long process; None where the system does not tell (it needs
        Linux). On a GPU it is what PyTorch allocated there, and says nothing about the processor's.
    """

    seconds: float = float("nan")
    forwards: int | None = None
    backwards: int | None = None
    peak_mib: float | None = None

    @property
    def evaluations(self) -> int | None:
        """Images through the guest, forward and backward."""
        return None if self.forwards is None else self.forwards + (self.backwards or 0)


@contextmanager
def costing(models: nn.Module | Sequence[nn.Module], device: torch.device | str = "cpu", *, memory: bool = False) -> Iterator[Cost]:
    """Measure what happens inside; the models' hooks are as before afterwards, also after an error.

    A copy of a model that is made inside is counted with it. With `memory`, the peak is measured too, for which the
    process's own (that of getrusage; on a GPU PyTorch's) begins anew.
    """
    cost, device = Cost(), torch.device(device)
    guests = [_innermost(model) for model in ([models] if isinstance(models, nn.Module) else models)]
    calls = [0, 0]

    def forward(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        images = _batch([args, kwargs])
        calls[0] += images
        ends = [t for t in tensors_in(output) if t.requires_grad]
        if ends:
            register_multi_grad_hook(ends, lambda gradient: backward(images), mode="any")

    def backward(images: int) -> None:
        calls[1] += images

    watched = not any(isinstance(guest, torch.jit.ScriptModule) for guest in guests)
    hooks = [guest.register_forward_hook(forward, with_kwargs=True) for guest in guests] if watched else []
    held = _start(device) if memory else None
    start = time.perf_counter()
    try:
        yield cost
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
        cost.peak_mib = None if held is None else max(0.0, _peak(device) - held)
        for hook in hooks:
            hook.remove()
        if watched:
            cost.forwards, cost.backwards = calls


def _innermost(model: nn.Module) -> nn.Module:
    while isinstance(model, Sharing):
        model = model._guest
    return model


def _batch(given: Any) -> int:
    """How many images a call was given."""
    return next((len(t) for t in tensors_in(given) if isinstance(t, Tensor) and t.ndim), 1)


def _start(device: torch.device) -> float | None:
    """MiB held now; from here on the peak is counted anew."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    gc.collect()  # what went in between would hide a rise
    try:
        # Memory that was freed and kept by the allocator would be used again without a rise.
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return None
    try:
        _RESET.write_text("5")
        return _resident("VmRSS")
    except (OSError, TypeError):
        return None


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _resident("VmHWM")


def _resident(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    if found is None:
        raise OSError(f"no {name} in {_STATUS}")
    return int(found[1]) / 1024
