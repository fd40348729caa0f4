"""Scores of many changed copies of an image by a model that predicts in windows, each window once for each content."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from radiolucent.protocols import Additive, Target
from radiolucent.tiling import Piece, Tiled


class Remembered:
    """Scores (k, t, b) of copies (k, b, c, *grid), from each window's share in S = sum_w S_w(x[w]).

    What a window contributed is remembered by a digest of its content: t x b numbers for each content that it had. A
    window in which no target has weight is never predicted. `predicted` counts the windows that were.
    """

    def __init__(self, tiled: Tiled, targets: Additive) -> None:
        self.predicted = 0
        self._tiled, self._targets = tiled, targets
        self._shares: dict[tuple[int, bytes], Tensor] = {}

    def __call__(self, copies: Tensor) -> Tensor:
        # In double precision: what is left of the sum of all windows where one changes is small.
        scores = torch.zeros(len(copies), len(self._targets.names()), copies.shape[1], dtype=torch.float64, device=copies.device)
        for number, piece in enumerate(self._tiled.pieces(copies[0])):
            target, rows = self._targets.within(piece.where, piece.weights)
            if not rows:
                continue
            keys = [(number, _digest(piece.of(copy))) for copy in copies]
            self._predict(piece, target, {key: copy for key, copy in zip(keys, copies, strict=True) if key not in self._shares})
            for total, key in zip(scores, keys, strict=True):
                total += self._shares[key]
        return scores.to(torch.promote_types(copies.dtype, torch.float32)) if copies.is_floating_point() else scores.float()

    def _predict(self, piece: Piece, target: Target, new: dict[tuple[int, bytes], Tensor]) -> None:
        """Remember what the window contributes to the score of each of some copies."""
        part = self._tiled.on_window(next(iter(new.values()))) if new else None
        for key, copy in new.items():
            assert part is not None
            self._shares[key] = target(part(part.padded(piece.of(copy)))).to(torch.float64)
            self.predicted += 1


def _digest(window: Tensor) -> bytes:
    values = window.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(values.data, digest_size=16).digest()
