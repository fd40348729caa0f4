"""Keeping what layers give during one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks.guest import out_of_memory
from radiolucent.hooks.layers import ON_THE_INPUT, layers, some, tensors_in
from radiolucent.hooks.sharing import check_whole

INPUT = ""
"""The name under which the model's own input is tapped."""


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
        if self._runs.keys() - {INPUT}:
            check_whole(self._model, x.shape)
        self._x = x.clone() if x.is_inference() else x.detach()
        return self._keep(INPUT, self._x) if INPUT in self._runs else self._x.clone()

    def over(self) -> None:
        """The forward is over: a layer that runs again is a checkpoint's second run."""
        self._over = True

    def _keep(self, name: str, output: Any, *, passed_on: bool = False) -> Any:
        """Keep the output and return what the model goes on with; `passed_on`: it is the layer's own input."""
        self._runs[name] += not self._over
        if not self._over and split_run(name)[1] not in (None, self._runs[name] - 1):
            return output
        if not isinstance(output, Tensor) or not output.is_floating_point():
            self._other[name] = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
            return output
        # What the layer only hands on belongs to others too, whose use of it must not count.
        kept = apart(output) if passed_on else output
        if not kept.requires_grad:
            # The tensor itself and not a copy, since the model may use it under another name too.
            kept.requires_grad_()
            if not self._over:
                self._started.append(kept)
        if not self._over:
            self._kept[name] = kept, _version(kept)
        # A later in-place operation must not reach what is kept.
        return apart(kept)

    def _release(self) -> None:
        for tensor in self._started:
            tensor.requires_grad_(False)

    def __getitem__(self, name: str) -> Tensor:
        check_run(name, self._runs[name])
        if name not in self._kept:
            raise self._silent(name)
        kept, version = self._kept[name]
        if _version(kept) != version:
            raise _overwritten(f"the output of layer {split_run(name)[0]!r}")
        return kept

    def _silent(self, name: str) -> BadInput:
        if name in self._other:
            expected, do = f"a tensor of real numbers as the output of layer {name!r}", "Choose a layer inside it, or another."
            return BadInput(expected, self._other[name], do)
        ran = [] if self._x is None else [layer.name for layer in layers(self._model, self._x)]
        unflat = "Exported models hide their layers: use torch.export.unflatten(program), or the original model."
        return BadInput(
            f"layer {name!r} to run in the forward pass",
            f"no call of it; {f'these ran: {some(ran)}' if ran else 'no layer reports its calls'}",
            f"Choose one that runs on this input. {unflat}",
        )


def apart(tensor: Tensor) -> Tensor:
    """A differentiable copy that takes no memory until one of the two is written to (PyTorch's copy on write)."""
    if tensor.is_quantized:  # of which the process would die
        return tensor.clone()
    try:
        return torch._lazy_clone(tensor)
    except (AttributeError, RuntimeError):  # memory that PyTorch does not own, or another PyTorch
        return tensor.clone()


def _version(tensor: Tensor) -> int:
    """How often it was written to in place."""
    return 0 if tensor.is_inference() else tensor._version


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


def _in_words(error: RuntimeError | MemoryError) -> BadInput | None:
    """What torch says about a model that autograd cannot follow, in three parts."""
    text = str(error)
    if out_of_memory(error):
        expected, do = "memory for the model's forward and backward pass", "Choose a deeper layer, a smaller image or fewer items."
        return BadInput(expected, text.split("\n")[0][:200] or type(error).__name__, do)
    if "leaf Variable that requires grad" in text:
        return _overwritten("the layer's output")
    cause = next((cause for sign, cause in _CANNOT_FOLLOW.items() if sign in text), None)
    if cause is None:
        return None
    got = f"{cause} ({text.splitlines()[0][:200]})"
    return BadInput(
        "a model that autograd can follow", got, "Switch that off for the explanation, or choose a perturbation method."
    )


def module_of(model: nn.Module, name: str) -> nn.Module:
    """The module that a layer's name means; an error that says what is close to it, where there is none."""
    modules = {n: m for n, m in model.named_modules(remove_duplicate=False) if n}
    layer = split_run(name)[0]
    if layer not in modules:
        close = get_close_matches(layer, modules, n=5, cutoff=0.3) or list(modules)[-5:]
        hint = f"Close to it: {', '.join(close)}. List all with radiolucent.layers." if close else "The model has no layers."
        raise BadInput("the name of a layer", repr(name), hint)
    if isinstance(modules[layer], torch.jit.ScriptModule):
        raise BadInput(
            f"a layer {layer!r} that can be watched", "a part of a TorchScript model", f"{ON_THE_INPUT} Or use the original model."
        )
    return modules[layer]


def split_run(name: str) -> tuple[str, int | None]:
    """A layer's name and, where it says one, the run."""
    layer, mark, run = name.partition("#")
    if mark and not run.isdecimal():
        raise BadInput("a layer's name, or name#0, name#1, ... for one of its runs", repr(name), "Correct what follows the #.")
    return layer, int(run) if mark else None


def check_run(name: str, runs: int) -> None:
    """Refuse a name that does not say which of several runs it means, or a run that there is not."""
    layer, run = split_run(name)
    if runs > 1 and run is None:
        names = ", ".join(f"{layer}#{i}" for i in range(runs))
        raise BadInput(f"a layer that runs once for {layer!r}", f"{runs} runs in one forward", f"Name the run: {names}.")
    if runs and run is not None and run >= runs:
        raise BadInput(f"a run from {layer}#0 to {layer}#{runs - 1}", name, "Runs are counted from 0.")


@contextmanager
def tap(model: nn.Module, names: Sequence[str], held: Sequence[str] = ()) -> Iterator[Taps]:
    """Keep the outputs of several layers during one forward, ready for gradients with respect to them.

    The graph starts at the shallowest of them: what lies before costs a plain forward, and a backward
    pass stops there. Call backward inside, since a checkpointed model runs its layers again then.
    `name#1` is the second run of a layer that is used more than once. Of the layers in `held` the model goes on with a
    constant: no gradient leads through them.
    """
    taps = Taps(model, [*names, *held])
    with ExitStack() as stack:
        stack.callback(taps._release)
        for name in (*names, *held):
            if name == INPUT:
                continue
            module = module_of(model, name)
            given: dict[int, int] = {}

            def before(module: nn.Module, args: Any, kwargs: Any, given: dict[int, int] = given) -> None:
                given.clear()
                given.update({id(t): _version(t) for t in tensors_in([args, kwargs])})

            def keep(module: nn.Module, args: Any, output: Any, name: str = name, given: dict[int, int] = given) -> Any:
                passed_on = isinstance(output, Tensor) and given.get(id(output)) == _version(output)
                kept = taps._keep(name, output, passed_on=passed_on)
                return kept.detach() if name in held else kept

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(keep).remove)
        try:
            yield taps
        except (RuntimeError, MemoryError) as error:
            words = _in_words(error)
            if words is None:
                raise
            raise words from error
