"""2D networks as extractors of features: by name, without their last linear layer, for any number of channels."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import look
from radiolucent.models.loading.factories import from_monai, made, nothing_fetched

PROBE = (64, 64)
"""Size of the slice that an encoder is tried with, where none is given: the usual networks halve it up to five times."""


def build_encoder(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """A 2D network by name, such as "monai:resnet18", with random weights: nothing is fetched, no other code is run."""
    source, _, network = name.partition(":")
    if source not in SOURCES or not network:
        do = "Give your own as an nn.Module, or a card whose network is module:factory."
        raise BadInput(f"an encoder as SOURCE:NAME with a source among {', '.join(SOURCES)}", repr(name), do)
    given = dict(arguments or {})
    nothing_fetched(given, name)
    factory, defaults = SOURCES[source](network)
    return made(factory, defaults | given, name, f"arguments that {name} takes", "Correct `encoder_arguments`.")


def _monai(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """In 2D, for three channels; a ResNet as torchvision's, whose weights then fit."""
    factory = from_monai(name, "the model")
    takes = inspect.signature(factory).parameters
    known = {"spatial_dims": 2, "in_channels": 3, "pretrained": False}
    defaults: dict[str, Any] = {key: value for key, value in known.items() if key in takes}
    if name == "ResNet" or name.startswith("resnet"):
        defaults |= {"spatial_dims": 2, "n_input_channels": 3, "conv1_t_stride": 2, "bias_downsample": False}
    if "num_classes" in takes and takes["num_classes"].default is inspect.Parameter.empty:
        defaults["num_classes"] = 1000
    if "out_channels" in takes and takes["out_channels"].default is inspect.Parameter.empty:
        defaults["out_channels"] = 1000
    return factory, defaults


def _torchvision(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    models = _imported("torchvision.models", "torchvision")
    if name not in models.list_models(models):
        raise BadInput("a network of torchvision.models", name, "See torchvision.models.list_models().")
    return models.get_model_builder(name), {"weights": None}


def _timm(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    timm = _imported("timm", "timm")
    if name not in timm.list_models():  # a name such as hf-hub:... would be fetched
        raise BadInput("a network of timm", name, "See timm.list_models().")
    return lambda **given: timm.create_model(name, pretrained=False, **given), {"num_classes": 0}


def _lite(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    package = _imported("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    return lambda **given: package.EfficientNet.from_name(name, **given), {}


SOURCES: dict[str, Callable[[str], tuple[Callable[..., Any], dict[str, Any]]]] = {
    "monai": _monai,
    "torchvision": _torchvision,
    "timm": _timm,
    "efficientnet-lite": _lite,
}
"""Where an encoder's name may come from -> what makes it, and the arguments that it has unless others are given."""


def _imported(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside another build of torch
        do = f"pip install {package}. For a ResNet take monai:resnet18, which fits torchvision's weights."
        raise BadInput(f"{package}, which this encoder comes from", f"{type(error).__name__}: {error}", do) from error


def extractor(network: nn.Module, channels: int, stem: str, size: tuple[int, int] | None, keep: bool) -> tuple[nn.Module, int, int]:
    """A copy of the network that gives features, the channels that it takes, and the features' width.

    The network is run on one slice: a linear layer whose output is the network's own is its classifier, and is
    replaced by the identity, unless `keep`. Feature maps (n, width, h, w) as the output are averaged.
    """
    network = copy.deepcopy(network)
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    taken = first.in_channels if first is not None else channels
    if stem == "adapted":
        taken = channels if first is None else adapt(first, channels)
    elif channels not in (1, taken):
        raise BadInput(f"1 or {taken} channels for this encoder", f"{channels}", 'stem="adapted" makes its first layer take them.')
    output, found = _tried(network, taken, size)
    linear = [la.name for la in found if la.is_output and isinstance(network.get_submodule(la.name), nn.Linear)]
    if linear and not keep:
        network.set_submodule(linear[-1], nn.Identity())
        output, _ = _tried(network, taken, size)
    if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        do = "Wrap it in a module that gives them, or take an encoder of another kind."
        raise BadInput("an encoder that maps slices (n, c, h, w) to features (n, width)", got, do)
    return network, taken, output.shape[1]


def _tried(network: nn.Module, channels: int, size: tuple[int, int] | None) -> tuple[Any, Any]:
    """The output for two slices, and the layers that ran."""
    like = next(network.parameters(), torch.empty(0))
    x = torch.rand(2, channels, *(size or PROBE), generator=torch.Generator().manual_seed(0)).to(like)
    try:
        return look(network, x)
    except BadInput:
        raise
    except Exception as error:  # an encoder may raise anything
        got = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        do = "Set `size` to the slices' size (h, w) that it was made for; they are then resized to it."
        raise BadInput(f"an encoder that takes slices {tuple(x.shape)}", got, do) from error


def adapt(conv: nn.Conv2d, channels: int) -> int:
    """Make the first convolution take so many channels, with the weights that it has."""
    if channels != conv.in_channels:
        if conv.groups != 1:
            raise BadInput("a first convolution without groups", f"{conv.groups} groups", "Choose another encoder.")
        conv.weight = nn.Parameter(for_channels(conv.weight.detach(), channels))
        conv.in_channels = channels
    return channels


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights (o, c, ...) for another number of channels.

    For one they are added up, which is the same as the grey slice in all of them; for others they are repeated in
    their order and scaled, so that their sum stays in size.
    """
    before = weight.shape[1]
    if channels in (1, before):
        return weight.sum(1, keepdim=True) if channels == 1 else weight
    return weight[:, [c % before for c in range(channels)]] * (before / channels)
