"""Which layers run, and what they give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from radiolucent.errors import BadInput, warn
from radiolucent.hooks.guest import evaluating
from radiolucent.hooks.sharing import InParts, check_whole
from radiolucent.hooks.tokens import Form, form_of

ON_THE_INPUT = "Choose a method that works on the input (Gradient, SmoothGrad, IntegratedGradients, or one that perturbs it)."


@dataclass(frozen=True)
class Layer:
    """One row of `layers`: a module that ran, with the shape of its output without the batch axis.

    form: how the output holds cells of the image (channels first or last, or tokens), None where it has none.
    is_output: it is the model's output, or a part of it.
    precedes_attention: an attention runs after it, through which its cells can still reach a class token.
    places: for each run, how many runs of layers had finished before.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    form: Form | None
    is_output: bool
    precedes_attention: bool = False
    places: tuple[int, ...] = ()

    @property
    def runs(self) -> int:
        """How often it ran."""
        return len(self.places)

    @property
    def is_spatial(self) -> bool:
        """The output has the batch and the axes of the input, and more than one cell."""
        return self.form is not None

    @property
    def cells(self) -> tuple[int, ...]:
        """The grid of a spatial layer, else ()."""
        return () if self.form is None else self.form.cells

    @property
    def names(self) -> list[str]:
        """The layer's name, or name#0, name#1, ... where it runs several times."""
        return [self.name] if self.runs == 1 else [f"{self.name}#{run}" for run in range(self.runs)]


class _Memory(NamedTuple):
    """Where a tensor's numbers are, without keeping them: a view of all of them is the same tensor in another shape."""

    storage: StorageWeakRef | None
    size: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Memory:
        dense = tensor.layout == torch.strided
        return cls(StorageWeakRef(tensor.untyped_storage()) if dense else None, tensor.numel())


@contextmanager
def recording(model: nn.Module, image: torch.Size) -> Iterator[dict[str, tuple[Layer, _Memory]]]:
    """Name -> (layer, where its output is) in the order of finishing."""
    check_whole(model, image)
    seen: dict[str, tuple[Layer, _Memory]] = {}
    count = itertools.count()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Parametrizations make weights, not features; TorchScript takes no hooks.
            if not name or "parametrizations" in name.split(".") or isinstance(module, torch.jit.ScriptModule):
                continue

            def record(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    earlier = seen.pop(name)[0].places if name in seen else ()
                    places = (*earlier, next(count))
                    shape, form = tuple(output.shape[1:]), _form(model, name, output, image)
                    layer = Layer(name, type(module).__name__, shape, form, False, places=places)
                    seen[name] = layer, _Memory.of(output)

            def attend(module: nn.Module, args: Any) -> None:
                seen.update({name: (replace(layer, precedes_attention=True), kept) for name, (layer, kept) in seen.items()})

            if _is_attention(name, module):
                stack.callback(module.register_forward_pre_hook(attend).remove)
            stack.callback(module.register_forward_hook(record).remove)
        yield seen


def _form(model: nn.Module, name: str, output: Tensor, image: torch.Size) -> Form | None:
    try:
        return form_of(model, name, output, image)
    except BadInput:  # tokens that may be several grids: an error only for who asks for this layer
        return None


def _is_attention(name: str, module: nn.Module) -> bool:
    """By name: what attention modules are called. Only the choice of layer="auto" hangs on it."""
    if type(module).__module__.startswith("torch.nn"):
        return isinstance(module, nn.MultiheadAttention)
    return "attention" in type(module).__name__.lower() or name.rpartition(".")[2].lower().endswith(("attn", "attention"))


def look(model: nn.Module, x: Tensor) -> tuple[Any, list[Layer]]:
    """One plain forward: the model's output, and the layers that ran with their output shapes.

    A model that draws random numbers, to an effect, is announced. Layers of one that runs in parts are those of the
    first part.
    """
    if isinstance(model, InParts) and not model.is_whole(x.shape):
        with evaluating(model), torch.no_grad():
            output = model(x.clone())
        return output, look(model._guest, model.first_part(x))[1]
    with evaluating(model), torch.no_grad(), recording(model, x.shape) as seen:
        before = _random_state(x)
        output = model(x.clone())  # some models overwrite their input
        drew = not all(map(torch.equal, before, _random_state(x)))
    if drew:
        _announce_randomness(model, x, output)
    parts = [_Memory.of(part) for part in tensors_in(output)]
    return output, [replace(layer, is_output=kept.storage is not None and kept in parts) for layer, kept in seen.values()]


def reaching(model: nn.Module, x: Tensor, chosen: Callable[[Any], Any], found: Sequence[Layer]) -> list[Layer]:
    """Those of the layers on which `chosen(output)`, a part of the output or scores of it, depends.

    One forward pass, whose graph is walked and never run backward: it keeps no activations. Where nothing leads
    to a layer (labels, a detached output) all are given.
    """
    made_by: dict[str, Any] = {}
    dropped = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)
    with evaluating(model), ExitStack() as stack:
        for layer in found:

            def note(module: nn.Module, args: Any, output: Any, name: str = layer.name) -> None:
                made_by[name] = output.grad_fn if isinstance(output, Tensor) else None

            stack.callback(model.get_submodule(layer.name).register_forward_hook(note).remove)
        with dropped:
            start = x.detach().clone()
            start = start.requires_grad_() if x.is_floating_point() else start
            ends = [tensor.grad_fn for tensor in tensors_in(chosen(model(start.clone())))]
    seen: set[Any] = set()
    while ends:
        node = ends.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ends.extend(before for before, _ in node.next_functions)
    return [layer for layer in found if made_by.get(layer.name) in seen] or list(found)


def _random_state(x: Tensor) -> list[Tensor]:
    state = [torch.get_rng_state()]
    return [*state, torch.cuda.get_rng_state(x.device)] if x.device.type == "cuda" else state


def _announce_randomness(model: nn.Module, x: Tensor, output: Any) -> None:
    with evaluating(model, seed=1), torch.no_grad():
        other = model(x.clone())
    pairs = [
        (a, b) for a, b in zip(tensors_in(output), tensors_in(other), strict=False) if a.shape == b.shape and a.is_floating_point()
    ]
    largest = max((float(a.abs().max()) for a, _ in pairs), default=0.0)
    difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    if difference:
        warn(
            f"the model is stochastic: two passes differ by up to {difference / max(largest, 1e-30):.2g} of the largest output; "
            "the maps are of one draw (of seed 0)"
        )


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
    """What layer="auto" means: the last layer with a spatial grid that is not the model's output itself.

    Where that has a class token, which may be all that the rest of the network reads, it is the last layer before
    the last attention.
    """
    spatial = [layer for layer in found if layer.is_spatial and not layer.is_output]
    if spatial and spatial[-1].form and spatial[-1].form.extra:
        spatial = [layer for layer in spatial if layer.precedes_attention] or spatial
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


def depths(found: Sequence[Layer]) -> dict[str, int]:
    """Each layer's, and each of its runs', place in the order of finishing."""
    runs = {name: place for layer in found for name, place in zip(layer.names, layer.places, strict=True)}
    return {layer.name: layer.places[-1] for layer in found} | runs


def some(names: Sequence[str]) -> str:
    """The first and the last few."""
    return ", ".join(names if len(names) <= 12 else (*names[:4], "...", *names[-8:]))
