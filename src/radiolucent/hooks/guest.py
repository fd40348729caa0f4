"""A model that belongs to somebody else, in eval mode for a while, and then as it was found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from radiolucent.errors import BadInput


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Eval mode, no parameter gradients, autograd on, own random numbers; all as before afterwards.

    Flags are set one by one and not by `model.eval()`, which some models answer with more than a flag
    (LoRA merges its weights) and exported ones refuse. Buffers that a forward pass changes are put back.
    """
    _check_guest(model)
    # A frozen TorchScript module has no flag.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    named = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None and not b.is_meta]
    buffers = [(m, name, b, b.clone()) for m, name, b in named]
    places = {t.device for t in (*(p for p, _ in wanted), *model.buffers()) if t.device.type == "cuda"}
    with own_random(places, seed), torch.inference_mode(False), torch.enable_grad(), _eager(model):
        try:
            for module, _ in modes:
                module.training = False
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            weights = [
                (m, name, p, p._version)
                for m in model.modules()
                if not isinstance(m, torch.jit.ScriptModule)
                for name, p in m._parameters.items()
                if p is not None
            ]
            yield
            _check_weights(weights)
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)
            _put_back(buffers)


@contextmanager
def own_random(places: Collection[torch.device], seed: int) -> Iterator[None]:
    """torch's random numbers from a seed of one's own, on the processor and on these devices, and then as before."""
    with torch.random.fork_rng(list(places)):
        # torch.manual_seed would also reach devices that are not put back.
        torch.default_generator.manual_seed(seed)
        for place in places:
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        yield


def _check_weights(weights: Sequence[tuple[nn.Module, str, nn.Parameter, int]]) -> None:
    """Refuse a model that changes its weights when it is run."""
    for module, name, parameter, version in weights:
        now = module._parameters.get(name)
        if now is not parameter or parameter._version != version:
            module._parameters[name] = parameter
            raise BadInput(
                "a model whose weights stay as they are when it is run",
                f"{type(module).__name__}.{name}, which the forward pass writes to",
                "Switch that off for the explanation.",
            )


def mixes_items(model: nn.Module) -> bool:
    """Whether the items of a batch see each other: batch norm without running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in model.modules())


def check_items_apart(model: nn.Module, batch: int) -> None:
    """Refuse several images at once where the model mixes them."""
    if batch > 1 and mixes_items(model):
        expected, got = "one image at a time for this model", f"{batch}, which its batch norm without running statistics mixes"
        raise BadInput(expected, got, "Explain them one by one.")


def check_follows(model: nn.Module) -> None:
    """Refuse a model with quantised layers where gradients are wanted: PyTorch would give none, or zeros."""
    kinds = sorted({type(m).__name__ for m in model.modules() if ".quantized." in f"{type(m).__module__}."})
    if kinds:
        do = "Explain the model as it was before, or choose a perturbation method (Occlusion, RISE)."
        raise BadInput("a model that autograd can follow", f"quantised layers ({', '.join(kinds)})", do)


def _put_back(buffers: Sequence[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for module, name, buffer, content in buffers:
            if dict(module._buffers.items()).get(name) is not buffer:
                module._buffers[name] = buffer
            if not torch.equal(buffer, content):
                buffer.copy_(content)


def _check_guest(model: nn.Module) -> None:
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise BadInput("a model with weights", "weights on the meta device, which have no values", "Load the weights first.")
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


def out_of_memory(error: BaseException) -> bool:
    """torch's own error on an accelerator; on the processor it is a RuntimeError that only its text tells apart."""
    signs = ("DefaultCPUAllocator", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in signs)
