"""Looking into a model that belongs to somebody else: the only file that hooks it or changes its mode.

Everything here is a context manager, and leaves the model as it was found, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from radiolucent.errors import BadInput

INPUT = ""
"""The name under which the model's own input is tapped."""


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Eval mode, no parameter gradients, autograd on, own random numbers; all as before afterwards.

    Flags are set one by one and not by `model.eval()`, which some models answer with more than a flag
    (LoRA merges its weights) and exported ones refuse. Buffers that a forward pass changes are put back.
    """
    _check_guest(model)
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    named = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None and not b.is_meta]
    buffers = [(m, name, b, b.clone()) for m, name, b in named]
    places = {t.device for t in (*(p for p, _ in wanted), *model.buffers()) if t.device.type == "cuda"}
    with (
        torch.random.fork_rng(list(places)),
        torch.inference_mode(False),
        torch.enable_grad(),
        _eager(model),
    ):
        # torch.manual_seed would also reach devices that are not put back.
        torch.default_generator.manual_seed(seed)
        for place in places:
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        try:
            for module, _ in modes:
                module.training = False
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)
            _put_back(buffers)


def _put_back(buffers: Sequence[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for module, name, buffer, content in buffers:
            if dict(module._buffers.items()).get(name) is not buffer:
                module._buffers[name] = buffer
            if not torch.equal(buffer, content):
                buffer.copy_(content)


def _check_guest(model: nn.Module) -> None:
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise BadInput("a model with weights", "lazy layers that have none yet", "Load the weights, or run the model once, first.")
    if any(p.is_inference() for p in model.parameters()):
        raise BadInput(
            "a model that autograd can follow", "weights made under torch.inference_mode()", "Build or load the model outside it."
        )
    parallel = [m for m in model.modules() if isinstance(m, nn.DataParallel) and len(m.device_ids) > 1]
    if parallel:
        raise BadInput(
            "a model on one device",
            f"DataParallel over {len(parallel[0].device_ids)}, whose copies run at the same time",
            "Explain the model inside it: model.module.",
        )


def _eager(model: nn.Module) -> AbstractContextManager[Any]:
    """Compiled parts run as written while inside: compiled code calls no hooks."""
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


class Taps:
    """What `tap` caught: layer name -> output, each once."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = model
        self._kept: dict[str, tuple[Tensor, int]] = {}
        self._runs = dict.fromkeys(names, 0)
        self._other: dict[str, str] = {}
        self._started: list[Tensor] = []
        self._x: Tensor | None = None
        self._over = False

    def input(self, x: Tensor) -> Tensor:
        """Give the model what this returns: a copy of x, at which the graph starts if the input is tapped."""
        self._x = x.clone() if x.is_inference() else x.detach()
        return self._keep(INPUT, self._x) if INPUT in self._runs else self._x.clone()

    def outputs(self) -> dict[str, Tensor]:
        """All that was caught. The forward is over: a layer that runs again is a checkpoint's second run."""
        self._over = True
        return {name: self[name] for name in self._runs}

    def _keep(self, name: str, output: Any, *, passed_on: bool = False) -> Any:
        """Keep the output and return what the model goes on with; `passed_on`: it is the layer's own input."""
        self._runs[name] += not self._over
        if not self._over and _split(name)[1] not in (None, self._runs[name] - 1):
            return output
        if not isinstance(output, Tensor) or not output.is_floating_point():
            self._other[name] = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
            return output
        # What the layer only hands on belongs to others too, whose use of it must not count.
        kept = output.clone() if passed_on else output
        if not kept.requires_grad:
            # The tensor itself and not a copy, since the model may use it under another name too.
            kept.requires_grad_()
            if not self._over:
                self._started.append(kept)
        if not self._over:
            self._kept[name] = kept, _version(kept)
        # A later in-place operation must not reach what is kept.
        return kept.clone()

    def _release(self) -> None:
        for tensor in self._started:
            tensor.requires_grad_(False)

    def __getitem__(self, name: str) -> Tensor:
        (layer, run), runs = _split(name), self._runs[name]
        if runs > 1 and run is None:
            names = ", ".join(f"{layer}#{i}" for i in range(runs))
            raise BadInput(f"a layer that runs once for {layer!r}", f"{runs} runs in one forward", f"Name the run: {names}.")
        if runs and run is not None and run >= runs:
            raise BadInput(f"a run from {layer}#0 to {layer}#{runs - 1}", name, "Runs are counted from 0.")
        if name not in self._kept:
            raise self._silent(name)
        kept, version = self._kept[name]
        if _version(kept) != version:
            raise _overwritten(f"the output of layer {layer!r}")
        return kept

    def _silent(self, name: str) -> BadInput:
        if name in self._other:
            expected, do = f"a tensor of real numbers as the output of layer {name!r}", "Choose a layer inside it, or another."
            return BadInput(expected, self._other[name], do)
        ran = [] if self._x is None else [layer.name for layer in layers(self._model, self._x)]
        return BadInput(
            f"layer {name!r} to run in the forward pass",
            f"no call of it; {f'these ran: {_some(ran)}' if ran else 'no layer reports its calls'}",
            "Choose one that runs on this input. Exported models hide their layers: use the original model.",
        )


def _version(tensor: Tensor) -> int:
    """How often it was written to in place."""
    return 0 if tensor.is_inference() else tensor._version


def _some(names: Sequence[str]) -> str:
    """The first and the last few."""
    return ", ".join(names if len(names) <= 12 else (*names[:4], "...", *names[-8:]))


def _overwritten(what: str) -> BadInput:
    return BadInput(
        f"{what} to stay as it is",
        "the model overwrites it in place through another name",
        "Choose the layer before or after it.",
    )


_CANNOT_FOLLOW = {
    "use_reentrant=True": "torch.utils.checkpoint, reentrant, which hides its gradients: build the model with use_reentrant=False",
    "torch.utils.checkpoint": "torch.utils.checkpoint, whose second run does not see this method's change of the model",
    "modified by an inplace operation": "a tensor that is needed is overwritten in place",
    "nference tensor": "a part of it that was made under torch.inference_mode()",
    "derivative": "an operation without a derivative",
}


def _in_words(error: RuntimeError) -> BadInput | None:
    """What torch says about a model that autograd cannot follow, in three parts."""
    text = str(error)
    if "leaf Variable that requires grad" in text:
        return _overwritten("the layer's output")
    cause = next((cause for sign, cause in _CANNOT_FOLLOW.items() if sign in text), None)
    if cause is None:
        return None
    got = f"{cause} ({text.splitlines()[0][:200]})"
    return BadInput(
        "a model that autograd can follow", got, "Switch that off for the explanation, or choose a perturbation method."
    )


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = {n: m for n, m in model.named_modules(remove_duplicate=False) if n}
    layer = _split(name)[0]
    if layer not in modules:
        close = get_close_matches(layer, modules, n=5, cutoff=0.3) or list(modules)[-5:]
        hint = f"Close to it: {', '.join(close)}. List all with radiolucent.layers." if close else "The model has no layers."
        raise BadInput("the name of a layer", repr(name), hint)
    if isinstance(modules[layer], torch.jit.ScriptModule):
        raise BadInput(f"a layer {layer!r} that can be watched", "a part of a TorchScript model", "Use the original model.")
    return modules[layer]


def _split(name: str) -> tuple[str, int | None]:
    """A layer's name and, where it says one, the run."""
    layer, mark, run = name.partition("#")
    if mark and not run.isdecimal():
        raise BadInput("a layer's name, or name#0, name#1, ... for one of its runs", repr(name), "Correct what follows the #.")
    return layer, int(run) if mark else None


@contextmanager
def tap(model: nn.Module, names: Sequence[str]) -> Iterator[Taps]:
    """Keep the outputs of several layers during one forward, ready for gradients with respect to them.

    The graph starts at the shallowest of them: what lies before costs a plain forward, and a backward
    pass stops there. Call backward inside, since a checkpointed model runs its layers again then.
    `name#1` is the second run of a layer that is used more than once.
    """
    taps = Taps(model, names)
    with ExitStack() as stack:
        stack.callback(taps._release)
        for name in names:
            if name == INPUT:
                continue
            module = _module(model, name)
            given: dict[int, int] = {}

            def before(module: nn.Module, args: Any, kwargs: Any, given: dict[int, int] = given) -> None:
                given.clear()
                given.update({id(t): _version(t) for t in _tensors([args, kwargs])})

            def keep(module: nn.Module, args: Any, output: Any, name: str = name, given: dict[int, int] = given) -> Any:
                passed_on = isinstance(output, Tensor) and given.get(id(output)) == _version(output)
                return taps._keep(name, output, passed_on=passed_on)

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(keep).remove)
        try:
            yield taps
        except RuntimeError as error:
            words = _in_words(error)
            if words is None:
                raise
            raise words from error


@contextmanager
def editing(model: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace each named layer's output by edit(output) while inside; `name#1` is its second run only."""
    runs = dict.fromkeys(edits, 0)
    done = dict.fromkeys(edits, False)
    with ExitStack() as stack:
        for name in edits:

            def change(module: nn.Module, args: Any, output: Any, name: str = name) -> Any:
                layer, run = _split(name)
                runs[name] += 1
                if run not in (None, runs[name] - 1):
                    return output
                if not isinstance(output, Tensor):
                    raise BadInput(f"a tensor as the output of layer {layer!r}", type(output).__name__, "Choose a layer inside it.")
                done[name] = True
                return edits[name](output)

            stack.callback(_module(model, name).register_forward_hook(change).remove)
        yield
    silent = [name for name, ran in done.items() if not ran]
    if silent:
        raise BadInput(f"layer {silent[0]!r} to run in the forward pass", "no call of it", "Choose a layer that runs.")


_aten = torch.ops.aten  # what exported graphs are made of
_RELUS_6 = {F.relu6, _aten.relu6.default}
_HARDTANHS = {F.hardtanh, F.hardtanh_, _aten.hardtanh.default, _aten.hardtanh_.default}
_RELUS_IN_PLACE = {torch.relu_, Tensor.relu_, _aten.relu_.default, F.hardtanh_, _aten.hardtanh_.default}
_RELUS = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, _aten.relu.default, _aten.relu_.default}


class rewriting(TorchFunctionMode):  # noqa: N801  # a context manager, named like the others here
    """While inside, every ReLU and ReLU6 runs as `rule(x, ceiling)`, whatever form it is written in.

    Modules, functions, tensor methods and exported graphs, in place or not; F.hardtanh from 0 too, as
    nn.ReLU6 is one. `rule` is a differentiable function of the input and its upper limit (inf for ReLU);
    `count` says how many were met.
    """

    def __init__(self, rule: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.rule = rule
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        relu = _as_relu(func, args, kwargs)
        if relu is None:
            return func(*args, **kwargs)
        self.count += 1
        x, ceiling, in_place = relu
        result = self.rule(x, ceiling)
        return x.copy_(result) if in_place else result


def _as_relu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, float, bool] | None:
    """(input, upper limit, in place?) if the call is a ReLU in any form."""
    if func not in _RELUS | _RELUS_6 | _HARDTANHS:
        return None
    order = ("input", "min_val", "max_val", "inplace") if func in _HARDTANHS else ("input", "inplace")
    bound = dict(zip(order, args, strict=False)) | dict(kwargs)
    if func in _HARDTANHS and bound.get("min_val", -1.0) != 0:
        return None
    limit = bound.get("max_val", 1.0) if func in _HARDTANHS else 6.0 if func in _RELUS_6 else float("inf")
    in_place = func in _RELUS_IN_PLACE or bound.get("inplace", False)
    return bound["input"] if "input" in bound else bound["self"], float(limit), in_place


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
    parts = list(_tensors(output))
    found = []
    for name, (kind, shape, runs, kept) in seen.items():
        is_spatial = len(shape) == x.ndim and shape[0] == len(x) and any(n > 1 for n in shape[2:])
        found.append(Layer(name, kind, shape[1:], runs, is_spatial, any(kept() is part for part in parts)))
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
            f"only others: {_some([layer.name for layer in found])}" if found else "a model whose layers do not report their calls",
            "Choose a method that works on the input, for example SmoothGrad or IntegratedGradients.",
        )
    last = spatial[-1]
    return last.name if last.runs == 1 else f"{last.name}#{last.runs - 1}"
