"""The network of a training: made by name, what is frozen, and its outputs in the data's units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.models.loading import load_weights
from radiolucent.models.loading.factories import build
from radiolucent.models.slices import SliceModel, VolumeModel, load_encoder
from radiolucent.training.recipe import Network

State = dict[str, Tensor]


def make(asked: Network, seed: int) -> nn.Module:
    """The network with its first weights: drawn with the seed, then those of files."""
    torch.manual_seed(seed)
    try:
        network = build(asked.network, asked.arguments, asked.trust, "the recipe")
    except BadInput as error:
        if "trust" not in error.do:
            raise
        raise BadInput(error.expected, error.got, "If you know that code: trust = true in [model].") from None
    if asked.weights:
        load_weights(network, asked.weights)
    if asked.encoder_weights and isinstance(network, SliceModel | VolumeModel):
        load_encoder(network, asked.encoder_weights)  # a 2D network's, in the form that this one needs
    elif asked.encoder_weights:
        load_weights(part(network, asked.encoder), asked.encoder_weights)
    return network


def part(network: nn.Module, name: str) -> nn.Module:
    """A module by its dotted name."""
    try:
        return network.get_submodule(name)
    except AttributeError:
        have = ", ".join(n for n, _ in network.named_children())
        do = "Name the part in [model]: encoder = ..., or head = [...] for what is trained; or set frozen_epochs = 0."
        raise BadInput(f"a part {name!r} of {type(network).__name__}", f"the parts {have}", do) from None


def encoder_names(network: nn.Module, asked: Network) -> set[str]:
    """Names of the parameters that are the encoder's: under `encoder`, or not under any `head`."""
    if asked.head:
        inside = {id(p) for name in asked.head for p in part(network, name).parameters()}
        return {name for name, p in network.named_parameters() if id(p) not in inside}
    inside = {id(p) for p in part(network, asked.encoder).parameters()}
    return {name for name, p in network.named_parameters() if id(p) in inside}


def set_mode(network: nn.Module, asked: Network, frozen: bool) -> None:
    """Train mode, and gradients for all; with `frozen` the encoder is in eval mode without gradients."""
    network.requires_grad_(True).train()  # in this order: a network may keep what is frozen in eval mode
    if not frozen:
        return
    if asked.head:
        network.eval().requires_grad_(False)
        for name in asked.head:
            part(network, name).train().requires_grad_(True)
    else:
        part(network, asked.encoder).eval().requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        do = "Name less as the encoder, or set frozen_epochs = 0."
        raise BadInput("something that is trained while the encoder is frozen", f"all of {type(network).__name__} frozen", do)


def caches(network: nn.Module) -> bool:
    """Whether features can be computed once and used again: features(x) and from_features(features)."""
    return callable(getattr(network, "features", None)) and callable(getattr(network, "from_features", None))


class Feeding(nn.Module):
    """A network that takes images, or features computed before: what several processes share must be one forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: Any, from_features: bool) -> Tensor:
        return self.network.from_features(given) if from_features else self.network(given)  # type: ignore[operator]


def check_outputs(network: nn.Module, image: Tensor, classes: Sequence[str]) -> None:
    """One image through the network in eval mode: a row with one output per class."""
    network.eval()
    try:
        with torch.no_grad():
            output = network(image[None])
    except BadInput:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        do = "Do the number of axes, channels and size fit [model.arguments]?"
        raise BadInput(f"a network that takes images {tuple(image.shape)}", got, do) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != (1, len(classes)):
        got = str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
        do = "Correct the number of outputs in [model.arguments]."
        raise BadInput(f"an output (1, {len(classes)}): {', '.join(classes[:20])}", got, do)


def rescaled(network: nn.Module, mean: Tensor, spread: Tensor, image: Tensor) -> State:
    """Weights with which the network says mean + spread * what it says now: both go into its last linear layer.

    Raises:
        BadInput: its outputs are not those of a last linear (or 1x1 convolution) layer; checked on an image.
    """
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    wide = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)) and len(layer.weight) == len(mean) and layer.bias is not None
    ]
    with weights_of(network), torch.no_grad():
        wanted = mean + spread * network(image[None])
        for name, layer in reversed(wide):
            spreads = spread.reshape(-1, *[1] * (layer.weight.ndim - 1))
            change = {f"{name}.weight": layer.weight * spreads, f"{name}.bias": mean + spread * layer.bias}
            network.load_state_dict(state | change)
            if torch.allclose(network(image[None]), wanted, rtol=1e-4, atol=1e-4 * float(spread.max())):
                return {k: v.detach().clone() for k, v in (state | change).items()}
            network.load_state_dict(state)
    do = "Give the network a method standardise(truths), as radiolucent:Morphometry has, or a linear last layer."
    raise BadInput("a network that ends in a linear layer, for regression", type(network).__name__, do)


@contextmanager
def weights_of(network: nn.Module) -> Iterator[None]:
    """Eval mode; give the network its weights and modes back."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    with in_eval(network):
        try:
            yield
        finally:
            network.load_state_dict(state)


@contextmanager
def in_eval(network: nn.Module) -> Iterator[None]:
    """All in eval mode, as an encoder is while it is frozen; the modes come back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def to_cpu(state: Mapping[str, Tensor]) -> State:
    """A copy on the CPU in which no two tensors share memory, as safetensors wants it."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def leaves(value: Any) -> list[Tensor]:
    """The tensors in tuples, lists and dicts, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (Mapping, tuple, list)):
        return [leaf for item in (value.values() if isinstance(value, Mapping) else value) for leaf in leaves(item)]
    raise BadInput("features as tensors, or tuples, lists or dicts of them", type(value).__name__, "Mend features(x).")


def like(template: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of `leaves`: the template with other tensors."""
    if isinstance(template, Tensor):
        return next(tensors)
    if isinstance(template, Mapping):
        return {key: like(item, tensors) for key, item in template.items()}
    if hasattr(template, "_fields"):  # a named tuple
        return type(template)(*(like(item, tensors) for item in template))
    return type(template)(like(item, tensors) for item in template)


def card_arguments(asked: Network) -> dict[str, Any]:
    """The part of a card that names the network."""
    return {"network": asked.network, "arguments": dict(asked.arguments), "layer": asked.layer}


def weights_path(asked: Network) -> Path | None:
    """The file that the first weights come from, for the card."""
    return asked.weights or asked.encoder_weights
