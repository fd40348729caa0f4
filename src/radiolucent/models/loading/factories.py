"""Networks by name: a class of MONAI, or a function of the user's own."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from radiolucent.errors import BadInput
from radiolucent.models.loading.files import ASK

NETWORKS = {
    "AnatomyNet": "radiolucent.models.anatomy",
    "Morphometry": "radiolucent.models.morphometry",
    "SliceModel": "radiolucent.models.slices",
    "VolumeModel": "radiolucent.models.slices",
}
"""The package's own networks, which a card names as "radiolucent:NAME", and where each is (some are made of MONAI's)."""


def build(network: str, arguments: Mapping[str, Any], trust: bool, where: str = "the card") -> nn.Module:
    """The network that a card (or a bundle, says `where`) names, with its arguments."""
    source, _, name = network.partition(":")
    if source == "monai":
        factory = from_monai(name, where)
    elif source == "radiolucent":
        factory = from_package(name, where)
    elif trust:
        factory = named(network)
    else:
        do = f"It would run code that {where} names. {ASK}"
        raise BadInput("a card whose network is monai:NAME or radiolucent:NAME", network, do)
    given = dict(arguments)
    if not trust and source != "radiolucent":
        nothing_fetched(given, where)
    if source == "monai" and "pretrained" in inspect.signature(factory).parameters:
        given.setdefault("pretrained", False)  # some of MONAI's networks download weights unless told not to
    return made(factory, given, network, f"arguments that {network} takes", f"Correct {where}'s arguments.")


def nothing_fetched(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that make a network read or download weights of its own."""
    fetching = [f"{k} = {v!r}" for k, v in arguments.items() if v and re.search("pretrained|^checkpoint$|url$|_path$|^weights$", k)]
    if fetching:
        raise BadInput("arguments that fetch nothing", ", ".join(fetching), f"The weights are {where}'s file: leave them out.")


def from_package(name: str, where: str = "the card") -> Any:
    """A network of this package: its code is ours, so no trust is asked for."""
    if name not in NETWORKS:
        raise BadInput(f"a network of radiolucent: {', '.join(NETWORKS)}", name, f"Correct {where}'s network.")
    return getattr(importlib.import_module(NETWORKS[name]), name)


def from_monai(name: str, where: str = "the card") -> Any:
    """A network class, or a function that makes one, of monai.networks.nets, and nothing else."""
    try:
        import monai.networks.nets as nets
    except ImportError:
        raise BadInput("MONAI, which this model is built from", "not installed", 'pip install "radiolucent[monai]"') from None
    factory = getattr(nets, name, None)
    network = inspect.isclass(factory) and issubclass(factory, nn.Module)
    builder = (
        inspect.isfunction(factory) and factory.__module__.startswith("monai.networks.nets.") and not name.startswith(("_", "get_"))
    )
    if not (network or builder):
        raise BadInput("a network of monai.networks.nets", name, f"Correct {where}'s network.")
    return factory


def named(text: str) -> Any:
    """What "module:name" stands for; importing the module runs it."""
    name, _, factory = text.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` has it, an installed command does not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise BadInput("a module that can be imported", f"{name!r}: {error}", "Run from its folder, or install it.") from error
    if not hasattr(module, factory):
        raise BadInput(f"a function or class {factory!r} in {name}", "none", "Check the name after the colon.")
    return getattr(module, factory)


def made(factory: Any, arguments: Mapping[str, Any], name: str, expected: str, do: str) -> nn.Module:
    """The network that a factory gives."""
    try:
        network = factory(**arguments)
    except Exception as error:
        raise BadInput(expected, f"{type(error).__name__}: {error}", do) from error
    if not isinstance(network, nn.Module):
        raise BadInput(f"an nn.Module from {name}", type(network).__name__, "The factory must return the network.")
    return network
