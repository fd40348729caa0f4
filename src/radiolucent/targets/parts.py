"""What a model returns: its parts, its label map, and numbers that choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from radiolucent.errors import BadInput


def as_tensor(output: Any) -> Tensor:
    """The output, if it is one tensor; else an error that says what it is and how to choose."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            return output
        raise BadInput(
            "scores as the model's output",
            f"a tensor of {output.dtype} (labels after an argmax?)",
            "Let the model return its logits, or choose a perturbation method.",
        )
    do = "Name the part to explain: output=KEY or Select(KEY, target); on the command line --part KEY."
    if isinstance(output, dict):
        came = f"a dict with the keys {', '.join(repr(k) for k in output)}"
    elif isinstance(output, (list, tuple)):
        inside = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in output]
        came = f"a {type(output).__name__} of {len(output)}: {inside}"
        do = "Name the part to explain by its position: output=0 or Select(0, target); on the command line --part 0."
    else:
        came = type(output).__name__
    raise BadInput("a tensor as the model's output", came, do)


def segmentation(output: Any, target: str) -> Tensor:
    """The output, if it is (b, classes, *grid)."""
    output = as_tensor(output)
    if output.ndim < 4:
        raise BadInput(
            f"an output of shape (batch, classes, *grid) for {target}",
            f"shape {tuple(output.shape)}",
            "For a classifier use Logits(class, ...), for a regression Outputs(index, ...).",
        )
    return output


def label_map(output: Tensor, regions: Sequence[int] = ()) -> Tensor:
    """A segmentation's labels (b, *grid) from its logits (b, classes, *grid); one channel is label 1 where it is above 0.

    Where channels are regions that overlap, `regions` are the labels that they write where they are above 0, one
    after the other, each over what was there.
    """
    if regions:
        if len(regions) != output.shape[1]:
            expected, got = f"{len(regions)} channels, one for each region", f"{output.shape[1]}"
            raise BadInput(expected, got, "Correct the card's `regions`.")
        labels = torch.zeros_like(output[:, 0], dtype=torch.long)
        for channel, label in enumerate(regions):
            labels[output[:, channel] > 0] = label
        return labels
    return (output > 0)[:, 0].long() if output.shape[1] == 1 else output.argmax(1)


def part_of(output: Any, key: str | int) -> Any:
    """The part of a dict, tuple or list that `key` names."""
    try:
        if isinstance(output, Tensor):  # an index would be a batch item
            raise TypeError
        if isinstance(key, str) and not isinstance(output, dict) and isinstance(getattr(output, key, None), Tensor):
            return getattr(output, key)  # a named tuple or a class of its own
        return output[key]
    except (KeyError, IndexError, TypeError):
        if isinstance(output, dict):
            have = f"the keys {list(output)}"
        elif isinstance(output, (list, tuple)):
            have = f"positions 0 to {len(output) - 1}"
        else:
            have = f"a {type(output).__name__}, which needs no selector"
        raise BadInput(f"a part {key!r} in the model's output", have, "Choose one of those.") from None


def detached(part: Any) -> Any:
    """A leaf of an output, out of the graph and of torch's own kind (MONAI's MetaTensor is a subclass)."""
    return part.detach().as_subclass(Tensor) if isinstance(part, Tensor) else part


def called(index: int, classes: Sequence[str], kind: str) -> str:
    """The class's name, or "logit 3" where it has none."""
    return classes[index] if 0 <= index < len(classes) else f"{kind} {index}"


def check_range(indices: tuple[int, ...], size: int, target: str) -> None:
    """Refuse indices that the output does not have."""
    wrong = [i for i in indices if not 0 <= i < size]
    if wrong:
        raise BadInput(
            f"target indices from 0 to {size - 1} for {target}", f"{wrong}", f"The model has {size} outputs; choose among them."
        )


def whole(numbers: tuple[Any, ...], target: str) -> tuple[int, ...]:
    """The numbers as Python's own integers; anything else is refused."""
    try:
        return tuple(index(n) for n in numbers)
    except TypeError:
        raise BadInput(f"whole numbers in {target}", f"{numbers}", "Classes, outputs and labels are counted from 0.") from None
