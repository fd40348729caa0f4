"""Loading a model, whatever it was saved as, without running code that came with it.

`load` decides who reads; one file per source: cards, archives, bundles, nnunet.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from torch import nn

from radiolucent.errors import BadInput, InputWarning
from radiolucent.io import usable
from radiolucent.models.card import Card, find_card
from radiolucent.models.loading import archives, bundles, cards, nnunet
from radiolucent.models.loading.weights import load_weights, read_checkpoint
from radiolucent.tiling import Tiled


def load(model: str | Path, weights: str | Path | None = None, *, trust: bool = False) -> tuple[nn.Module, Card]:
    """A model and its card.

    Args:
        model: what says which network it is:

            - a folder with a card and weights, or a card file;
            - "module:factory", a function or class of yours that gives an nn.Module without arguments;
            - "nnunet:FOLDER", a trained nnU-Net v2 configuration (FOLDER/fold_1 and
              FOLDER/fold_1/checkpoint_best.pth name one of several);
            - a MONAI bundle: its folder or its zip file;
            - a TorchScript or torch.export archive, or a whole pickled model (only with `trust`).
        weights: other weights than the model's own: safetensors, a state dict, or a Lightning checkpoint.
        trust: allow what runs code: archives, pickles, factories that a card names, expressions in a
            bundle. The file's SHA-256 is noted.

    Raises:
        BadInput: missing or unexpected keys (all are listed), a pickle that carries code, unknown names.

    Where the card names a window, the model is one that predicts in windows (`radiolucent.tiling.Tiled`).
    What loading gave rise to is warned of (InputWarning) and kept in the card's `notes`.
    """
    for path in (str(model).removeprefix("nnunet:").removeprefix("bundle:"), weights):
        usable(path or ".")
    network, card = _load(str(model), Path(weights) if weights else None, trust)
    if card.notes:
        warnings.warn("; ".join(card.notes), InputWarning, stacklevel=2)
    network.eval()
    return (network if card.window is None else Tiled(network, card.window, card.overlap, card.blend)), card


def _load(text: str, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    source, _, rest = text.partition(":")
    path = Path(text)
    if source in ("nnunet", "bundle") and rest:
        return (nnunet if source == "nnunet" else bundles).load(Path(rest), weights, trust)
    if not os.path.exists(path):
        if source and rest:
            return cards.from_factory(text, weights, trust)
        raise BadInput("a model folder, a card file or module:factory", text, "Check the path.")
    if nnunet.root_of(path) and path.suffix not in (".json", ".toml"):
        return nnunet.load(path, weights, trust)
    if bundles.is_bundle(path):
        return bundles.load(path, weights, trust)
    if path.is_dir():
        return cards.load(find_card(path), weights, trust)
    if path.suffix in (".json", ".toml"):
        return cards.load(path, weights, trust)
    return archives.load(path, trust)


__all__ = ["load", "load_weights", "read_checkpoint"]
