"""Which layers run, and what they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks.guest import evaluating

ON_THE_INPUT = "Choose a method that works on the input (Gradient, SmoothGrad, IntegratedGradients, or one that perturbs it)."


@dataclass(frozen=True)
class Layer:
    """One row of `layers`: a module that ran, with the shape (channels, *cells) of its output.

    `is_spatial`: the output has the batch and the axes of the input, and more than one cell.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    runs: int
    is_spatial: bool
    is_output: bool

    @property
    def names(self) -> list[str]:
        """The layer's name, or name#0, name#1, ... where it runs several times."""
        return [self.name] if self.runs == 1 else [f"{self.name}#{run}" for run in range(self.runs)]


@contextmanager
def _recording(model: nn.Module) -> Iterator[dict[str, tuple[str, tuple[int, ...], int, Any]]]:
    """Name -> (kind, shape, runs, weak reference to the output) in the order of finishing."""
    seen: dict[str, tuple[str, tuple[int, ...], int, Any]] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Parametrizations make weights, not features; TorchScript takes no hooks.
            if not name or "parametrizations" in name.split(".") or isinstance(module, torch.jit.ScriptModule):
                continue

            def record(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    runs = seen.pop(name)[2] + 1 if name in seen else 1
                    seen[name] = (type(module).__name__, tuple(output.shape), runs, ref(output))

            stack.callback(module.register_forward_hook(record).remove)
        yield seen


def look(model: nn.Module, x: Tensor) -> tuple[Any, list[Layer]]:
    """One plain forward: the model's output, and the layers that ran with their output shapes."""
    with evaluating(model), torch.no_grad(), _recording(model) as seen:
        output = model(x.clone())  # some models overwrite their input
    parts = list(tensors_in(output))
    found = []
    for name, (kind, shape, runs, kept) in seen.items():
        is_spatial = len(shape) == x.ndim and shape[0] == len(x) and any(n > 1 for n in shape[2:])
        found.append(Layer(name, kind, shape[1:], runs, is_spatial, any(kept() is part for part in parts)))
    return output, found


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in whatever a module takes or gives."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tensors_in(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from tensors_in(part)


def layers(model: nn.Module, x: Tensor) -> list[Layer]:
    """The layers that run on x, in order, with the shapes (channels, *cells) of their outputs."""
    return look(model, x)[1]


def last_layer(found: Sequence[Layer]) -> str:
    """What layer="auto" means: the last layer with a spatial grid that is not the model's output itself."""
    spatial = [layer for layer in found if layer.is_spatial and not layer.is_output]
    if not spatial:
        raise _no_grid(found)
    return spatial[-1].names[-1]


def all_layers(found: Sequence[Layer]) -> list[str]:
    """What layer="full" means: every layer with a spatial grid, and every run of one that runs several times."""
    spatial = [name for layer in found if layer.is_spatial for name in layer.names]
    if not spatial:
        raise _no_grid(found)
    return spatial


def _no_grid(found: Sequence[Layer]) -> BadInput:
    return BadInput(
        "a layer whose output has spatial axes",
        f"only others: {some([layer.name for layer in found])}" if found else "a model whose layers do not report their calls",
        ON_THE_INPUT,
    )


def some(names: Sequence[str]) -> str:
    """The first and the last few."""
    return ", ".join(names if len(names) <= 12 else (*names[:4], "...", *names[-8:]))
