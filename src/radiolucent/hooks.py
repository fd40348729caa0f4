"""Looking into a model that belongs to somebody else: the only file that hooks it or changes its mode.

Everything here is a context manager, and leaves the model as it was found, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from radiolucent.errors import BadInput

INPUT = ""
"""The name under which the model's own input is tapped."""


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Eval mode, no parameter gradients, autograd on, own random numbers; all as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    devices = list({p.device for p, _ in wanted if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        try:
            model.eval()
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)


class Taps:
    """What `tap` caught: layer name -> output, each once."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        self._calls: dict[str, list[Tensor]] = {name: [] for name in names}
        self._versions: dict[int, int] = {}
        self._other: dict[str, str] = {}

    def input(self, x: Tensor) -> Tensor:
        """Start the graph at the model's input: give the model what this returns."""
        return self._keep(INPUT, x.detach())

    def _keep(self, name: str, output: Any) -> Any:
        if not isinstance(output, Tensor):
            self._other[name] = type(output).__name__
            return output
        kept = output if output.requires_grad else output.detach().requires_grad_()
        self._calls[name].append(kept)
        self._versions[id(kept)] = kept._version
        # A later in-place operation must not reach what is kept.
        return kept.clone()

    def __getitem__(self, name: str) -> Tensor:
        calls = self._calls[name]
        layer, _, position = name.partition("#")
        if not calls:
            raise self._silent(name)
        if len(calls) > 1 and not position:
            raise BadInput(
                f"a layer that runs once for {layer!r}",
                f"{len(calls)} runs in one forward",
                f"Name the run: {', '.join(f'{layer}#{i}' for i in range(len(calls)))}.",
            )
        if position and not (position.isdigit() and int(position) < len(calls)):
            raise BadInput(f"a run from {layer}#0 to {layer}#{len(calls) - 1}", name, "Runs are counted from 0.")
        kept = calls[int(position or 0)]
        if kept._version != self._versions[id(kept)]:
            raise BadInput(
                f"the output of layer {layer!r} to stay as it is",
                "the model overwrites it in place through another name",
                "Choose the layer before or after it.",
            )
        return kept

    def _silent(self, name: str) -> BadInput:
        if name in self._other:
            return BadInput(
                f"a tensor as the output of layer {name!r}", self._other[name], "Choose a layer inside it that gives one."
            )
        return BadInput(
            f"layer {name!r} to run in the forward pass",
            "no call of it",
            "Compiled, scripted and exported models hide their layers, and some layers serve other inputs only. "
            "See which layers run with radiolucent.layers(model, x).",
        )


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    plain = name.partition("#")[0]
    if plain not in modules or not plain:
        from difflib import get_close_matches

        close = get_close_matches(plain, modules, n=5, cutoff=0.3) or [n for n in modules if n][-5:]
        raise BadInput("the name of a layer", repr(name), f"Close to it: {', '.join(close)}. List all with radiolucent.layers.")
    return modules[plain]


@contextmanager
def tap(model: nn.Module, names: Sequence[str]) -> Iterator[Taps]:
    """Keep the outputs of several layers during one forward, ready for gradients with respect to them.

    The graph starts at the shallowest of them: what lies before costs a plain forward, and a backward
    pass stops there. `name#1` is the second run of a layer that is used more than once.
    """
    taps = Taps(model, names)
    with ExitStack() as stack:
        for name in names:
            if name == INPUT:
                continue
            module = _module(model, name)

            def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> Any:
                return taps._keep(name, output)

            stack.callback(module.register_forward_hook(keep).remove)
        yield taps


@contextmanager
def editing(model: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace each named layer's output by edit(output) while inside."""
    with ExitStack() as stack:
        for name, edit in edits.items():

            def change(module: nn.Module, args: Any, output: Tensor, edit: Callable[[Tensor], Tensor] = edit) -> Tensor:
                return edit(output)

            stack.callback(_module(model, name).register_forward_hook(change).remove)
        yield


_RELUS = {F.relu: False, torch.relu: False, Tensor.relu: False, torch.relu_: True, Tensor.relu_: True}
_RELU6 = F.relu6


class rewriting(TorchFunctionMode):  # noqa: N801  # a context manager, named like the others here
    """While inside, every ReLU and ReLU6 runs as `rule(x, ceiling)`, whatever form it is written in.

    Modules, functions and tensor methods, in place or not. `rule` is a differentiable function of the
    input and its upper limit (inf for ReLU); `count` says how many were met.
    """

    def __init__(self, rule: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.rule = rule
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS and func is not _RELU6:
            return func(*args, **kwargs)
        self.count += 1
        bound = dict(zip(("input", "inplace"), args, strict=False)) | kwargs
        x = bound.get("input", bound.get("self"))
        result = self.rule(x, 6.0 if func is _RELU6 else float("inf"))
        in_place = _RELUS.get(func, False) or bound.get("inplace", False)
        return x.copy_(result) if in_place else result


@dataclass(frozen=True)
class Layer:
    """One row of `layers`: a module that ran, with the shape (channels, *cells) of its output."""

    name: str
    kind: str
    shape: tuple[int, ...]
    runs: int
    is_output: bool

    @property
    def is_spatial(self) -> bool:
        """Whether its output has a grid of more than one cell."""
        return len(self.shape) >= 3 and any(n > 1 for n in self.shape[1:])


@contextmanager
def _recording(model: nn.Module) -> Iterator[dict[str, tuple[str, tuple[int, ...], int, Any]]]:
    """Name -> (kind, shape, runs, weak reference to the output) in the order of finishing."""
    seen: dict[str, tuple[str, tuple[int, ...], int, Any]] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def record(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and name:
                    runs = seen.pop(name)[2] + 1 if name in seen else 1
                    seen[name] = (type(module).__name__, tuple(output.shape), runs, ref(output))

            stack.callback(module.register_forward_hook(record).remove)
        yield seen


def look(model: nn.Module, x: Tensor) -> tuple[Any, list[Layer]]:
    """One plain forward: the model's output, and the layers that ran with their output shapes."""
    with evaluating(model), torch.no_grad(), _recording(model) as seen:
        output = model(x)
    parts = list(_tensors(output))
    found = [
        Layer(name, kind, shape[1:], runs, any(kept() is part for part in parts))
        for name, (kind, shape, runs, kept) in seen.items()
    ]
    return output, found


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)


def layers(model: nn.Module, x: Tensor) -> list[Layer]:
    """The layers that run on x, in order, with the shapes (channels, *cells) of their outputs."""
    return look(model, x)[1]


def last_layer(found: Sequence[Layer]) -> str:
    """What layer="auto" means: the last layer with a spatial grid that is not the model's output itself."""
    spatial = [layer for layer in found if layer.is_spatial and not layer.is_output]
    if not spatial:
        raise BadInput(
            "a layer whose output has spatial axes",
            f"{len(found)} layers without: {', '.join(layer.name for layer in found[-5:])}",
            "Choose a method that works on the input, for example SmoothGrad or IntegratedGradients.",
        )
    last = spatial[-1]
    return last.name if last.runs == 1 else f"{last.name}#{last.runs - 1}"
