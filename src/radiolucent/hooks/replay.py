"""Running again only the part of a network behind one layer, with something else in that layer's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from radiolucent.errors import BadInput
from radiolucent.hooks.layers import tensors_in
from radiolucent.hooks.sharing import check_whole
from radiolucent.hooks.taps import apart, check_run, module_of, split_run


class Replay:
    """A network whose part before one layer is done. Call it with what the layer shall give instead.

    Every module that had finished before the layer gives what it gave then, skip connections included,
    and is not run; what stands between modules, in the code of those that the layer is part of, runs again.

    Attributes:
        value: what the layer gave, (b, c, *cells); not to be written to.
        output: what the model gave.
        largest: numbers in the largest tensor that a module gave from the layer on.
    """

    value: Tensor
    output: Any

    def __init__(self, recording: Recording, name: str) -> None:
        self.largest = 0
        self._recording, self._name, self._batch = recording, name, len(recording.x)
        self._layer = module_of(recording.model, name)
        self._runs, self.found, self._takes_several = 0, False, False
        self._kept: dict[nn.Module, list[Any]] = {}  # what each module gave, run by run
        self._copies: tuple[int, dict[nn.Module, list[Any]]] = (0, {})  # k, and all of that k times over
        self._given: dict[nn.Module, list[Any]] = {}  # what the last replay was given of it
        self._left: dict[nn.Module, Iterator[Any]] | None = None  # what the replay under way did not yet ask for

    def __call__(self, value: Tensor) -> Any:
        """The model's output with `value` (k*b, c, *cells) in the layer's place: k variants of the batch of b.

        Where autograd is on, it follows from `value` on. `value` is not written to.
        """
        k, rest = divmod(len(value), self._batch)
        if rest or not k or value.shape[1:] != self.value.shape[1:]:
            expected = f"a shape (k * {self._batch}, ...) like the layer's own {tuple(self.value.shape)}"
            raise BadInput(expected, f"{tuple(value.shape)}", "Give whole copies of the batch.")
        if k > 1 and not self._takes_several:
            with torch.no_grad():
                self._check(2)
            self._takes_several = True
        return self._replayed(value, k)

    def _replayed(self, value: Tensor, k: int) -> Any:
        if self._copies[0] != k:  # once for many replays of as many variants
            self._copies = k, {m: [_repeated(kept, k, self._batch) for kept in runs] for m, runs in self._kept.items()}
        self._given = {m: [_handed(kept) for kept in runs] for m, runs in self._copies[1].items()}
        (x,) = self._given[self._recording.model]
        self._given.setdefault(self._layer, []).append(apart(value))
        self._left = {module: iter(runs) for module, runs in self._given.items()}
        self._recording.replay = self
        try:
            return self._recording.model(x)
        finally:
            self._left = None

    def prepare(self, output: Any) -> None:
        """Keep what the part behind the layer looks at, and see that it gives the model's `output` again."""
        self.output = output
        with torch.no_grad():
            check_run(self._name, self._runs)
            if not self.found:
                raise BadInput(f"layer {self._name!r} to run in the forward pass", "no call of it", "Choose a layer that runs.")
            if not isinstance(self.value, Tensor) or self.value.is_quantized:
                got = "a quantised one" if isinstance(self.value, Tensor) else type(self.value).__name__
                raise BadInput(f"a tensor as the output of layer {self._name!r}", got, "Choose a layer inside it, or another.")
            self._kept[self._recording.model] = [self._recording.x]  # the input is kept like what the modules gave
            with _Watching() as watching:
                again = self._replayed(self.value, 1)
            self._keep_only(watching.seen | {id(t) for t in tensors_in(again)})
            self._check(1)
            self._given = {}

    def _keep_only(self, used: set[int]) -> None:
        """Of what nothing looked at in the replay before, only the shape. TorchScript does not show what it looks at."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in self._recording.model.modules()):
            return

        def needed(kept: Any, given: Any) -> Any:
            return kept if id(given) in used or not isinstance(kept, Tensor) else _outline(kept)

        for module, runs in self._kept.items():
            self._kept[module] = [pytree.tree_map(needed, *pair) for pair in zip(runs, self._given[module], strict=False)]
        self._copies = (0, {})

    def _check(self, k: int) -> None:
        """Refuse a model that does not give k times its own output for k times the layer's own."""
        again = self._replayed(_repeated(self.value, k, self._batch), k)
        if not _alike(again, _repeated(self.output, k, self._batch)):
            several = " for several copies of the batch at once" if k > 1 else ""
            raise BadInput(
                f"the model's own output when its part behind layer {self._name!r} runs again{several}",
                "another one",
                "Is it random, does it remember earlier calls, or do the items of a batch mix? A gradient method runs it once.",
            )

    def meet(self, module: nn.Module, output: Any, finished: Iterable[tuple[nn.Module, Any]]) -> None:
        """While the model is recorded: a module has given its output, when those had `finished` that will not run again."""
        run = self._runs
        self._runs += module is self._layer
        if not self.found and module is self._layer and split_run(self._name)[1] in (None, run):
            self.found, self.value = True, _each(apart, output)
            for done, kept in finished:
                self._kept.setdefault(done, []).append(kept)
        if self.found:
            self.largest = max([self.largest, *(t.numel() for t in tensors_in(output))])

    def run(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What stands in the place of each module's forward in a replay."""
        if self._left is not None:
            for output in self._left.get(module, ()):
                return output
        elif module is self._layer or module in self._kept:
            raise BadInput(
                "layers that run once in a pass",
                f"a run of {type(module).__name__} after it (torch.utils.checkpoint?)",
                "Switch checkpointing off for the explanation.",
            )
        return forward(*args, **kwargs)


class Recording:
    """One run of a network, after which its parts behind several layers can run by themselves."""

    def __init__(self, model: nn.Module, names: Sequence[str], x: Tensor) -> None:
        self.model, self.x = model, x
        self.replay: Replay | None = None  # the last one that ran
        self._replays = {name: Replay(self, name) for name in names}
        self._on = True
        self._open: list[list[tuple[nn.Module, Any]]] = [[]]  # for each call under way, what has finished inside it

    def make(self) -> None:
        """Run the model once."""
        with torch.no_grad():
            self.output = _each(apart, self.model(self.x.clone()))
        self._on, self._open = False, []

    def behind(self, name: str) -> Replay:
        """The network behind one of the layers. To be asked for once, since what is kept for it goes with it."""
        replay = self._replays.pop(name)
        replay.prepare(self.output)
        return replay

    def run(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What stands in the place of each module's forward."""
        if not self._on:
            assert self.replay is not None
            return self.replay.run(module, forward, *args, **kwargs)
        self._open.append([])
        output = forward(*args, **kwargs)
        self._open.pop()  # what ran inside a module that has finished is not asked for again
        for replay in self._replays.values():
            replay.meet(module, output, (call for calls in self._open for call in calls))
        if not all(replay.found for replay in self._replays.values()):  # what runs behind the last layer is nobody's to keep
            self._open[-1].append((module, _each(apart, output)))
        return output


_SHAPE_ONLY = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point),
}


class _Watching(TorchFunctionMode):
    """Notes which tensors any function takes, but for a look at their shape or type."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _SHAPE_ONLY:
            self.seen |= {id(t) for t in tensors_in([args, kwargs])}
        return func(*args, **(kwargs or {}))


@contextmanager
def recording(model: nn.Module, layers: Sequence[str], x: Tensor) -> Iterator[Recording]:
    """Run the model once on x (inside `evaluating`), then as often as wanted only its parts behind some of its `layers`.

    `name#1` is the second run of a layer that is used more than once.
    """
    check_whole(model, x.shape)
    made = Recording(model, layers, x)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Parametrizations make weights, not features; TorchScript's forward cannot be replaced, and runs again.
            if module is model or "parametrizations" in name.split(".") or isinstance(module, torch.jit.ScriptModule):
                continue
            stack.callback(_put_back, module, vars(module).get("forward"))
            vars(module)["forward"] = update_wrapper(partial(made.run, module, module.forward), module.forward)
        made.make()
        yield made


@contextmanager
def replaying(model: nn.Module, layer: str, x: Tensor) -> Iterator[Replay]:
    """`recording` of one layer."""
    with recording(model, [layer], x) as made:
        yield made.behind(layer)


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward


def _each(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    return pytree.tree_map_only(Tensor, change, output)


def _outline(t: Tensor) -> Tensor:
    """A tensor's shape and type without its content or memory."""
    return t.new_zeros(()).expand(t.shape)


def _is_outline(t: Any) -> bool:
    return isinstance(t, Tensor) and t.numel() > 1 and not any(t.stride())


def _repeated(output: Any, k: int, b: int) -> Any:
    """What a module gave for b items, k times over."""

    def repeat(t: Tensor) -> Tensor:
        if k == 1 or not t.ndim or len(t) != b:
            return t
        return t[:1].expand(k * b, *t.shape[1:]) if _is_outline(t) else t.repeat(k, *[1] * (t.ndim - 1))

    return _each(repeat, output)


def _handed(kept: Any) -> Any:
    """What was kept, so that it may be written to; nobody writes to an outline."""
    return kept if _is_outline(kept) else _each(apart, kept)


def _alike(found: Any, truth: Any) -> bool:
    """Whether two outputs are the same but for rounding, where they are real numbers."""
    pairs = list(zip(tensors_in(found), tensors_in(truth), strict=False))
    for a, b in pairs:
        if a.shape != b.shape:
            return False
        if b.is_floating_point() and b.numel():
            tolerance = max(1e-3, 10 * torch.finfo(b.dtype).eps) * float(b.nan_to_num().abs().max())
            if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                return False
    return True
