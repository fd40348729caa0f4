"""What no case can mend is refused before any: devices, targets, names, and joined regions that no image can have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.io.tables import Name, read_names
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.regions import Regions
from radiolucent.study.recipe import Recipe
from radiolucent.volume import Volume


def check_names(recipe: Recipe, card: Card) -> None:
    """Targets and regions that a recipe names, as far as the card or a table of names knows them all."""
    targets = recipe.explain.targets
    if len({card.index(name) for name in targets}) < len(targets):
        raise BadInput("each target once in [explain]", ", ".join(targets), "Two of them are the same class: remove one.")
    regions = recipe.regions
    known = read_names(regions.names) if regions.names else {}
    if not known and regions.parcellation == "predicted":
        known = {value: Name(name) for value, name in card.label_names().items()}
    if known:
        nowhere = Volume(np.zeros((1, 1, 1, 1), np.int32))
        Regions(Parcellation(nowhere, known), joined=regions.joined, near_mm=regions.near_mm)


def on_device(network: nn.Module, device: str) -> nn.Module:
    """The network on the device that a recipe names."""
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch without CUDA
        got = f"{device!r}: {str(error).splitlines()[0][:200]}"
        raise BadInput("a device that PyTorch has here, in [model]", got, 'For example "cpu".') from None


def check_output(output: Tensor, targets: Sequence[str], card: Card) -> None:
    """What a model that segments gives has a value at every voxel, and the targets; a single output is that of two classes."""
    nothing = int(output.isnan().sum())
    if nothing:  # which would count as background
        raise BadInput("numbers as the model's output", f"{nothing} NaN of {output.numel()}", "Check the scan and the weights.")
    last = max(2, output.shape[1]) - 1
    unknown = [name for name in targets if card.index(name) > last]
    if unknown:
        raise BadInput(f"targets from 0 to {last}", ", ".join(map(repr, unknown)), "Correct [explain] targets.")
