"""A 2D network's trained weights into the encoder of a model, whatever has become of its layers there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.models.loading.weights import Checkpoint, fit, read_checkpoint
from radiolucent.models.slices.converted import lifted
from radiolucent.models.slices.encoders import for_channels


def load_encoder(model: nn.Module, weights: str | Path) -> tuple[str, ...]:
    """Put a 2D network's weights into `model.encoder`, and return notes.

    The file is safetensors or a state dict of the whole 2D network (such as torchvision's resnet18): its last linear
    layer is left out where the encoder has none, the first convolution is adapted to the encoder's channels, and
    kernels are repeated along the third axis where they are 3D. All else must match key by key.
    """
    path = Path(weights)
    checkpoint = read_checkpoint(path)
    encoder: Any = model.encoder
    own = encoder.state_dict()
    taken = {key: _fitted(value, own.get(key)) for key, value in checkpoint.state.items()}
    extra = [key for key in taken if key not in own]
    heads = {key.rpartition(".")[0] for key in extra}
    if len(heads) == 1 and _is_dropped(encoder, next(iter(heads))):
        taken = {key: value for key, value in taken.items() if key in own}
    elif extra and set(own) <= set(taken):
        raise BadInput(f"weights of this encoder in {path.name}", f"also {', '.join(sorted(extra))}", "Is it another network?")
    return checkpoint.notes + fit(encoder, Checkpoint(taken, checkpoint.rest), path.name)


def _is_dropped(encoder: nn.Module, name: str) -> bool:
    """Whether the layer of that name is the identity that stands for a last linear layer."""
    try:
        return isinstance(encoder.get_submodule(name), nn.Identity)
    except AttributeError:
        return False


def _fitted(given: Tensor, own: Tensor | None) -> Tensor:
    """Weights (o, c, k, k) for other channels or a third axis, where the encoder's own have them."""
    if own is None or given.ndim != 4 or given.shape == own.shape or given.shape[0] != own.shape[0]:
        return given
    if given.shape[1] != own.shape[1]:
        given = for_channels(given, own.shape[1])
    return lifted(given, own.shape[2]) if own.ndim == 5 else given
