"""Learning first where each structure is: amounts in the cells of the last block, and fully connected layers that sum them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.models import Morphometry

SUMS, AFTER = 0.05, 5
"""Weight of the sums beside the cells, reached after so many epochs: before the cells are about right, the sums, which are
far off, would only switch features off."""


def amounts(labels: Tensor, values: list[int], factor: int) -> Tensor:
    """(values, *cells): how many voxels of labels (1, *grid) with each value lie in each cell of factor^3."""
    return torch.stack([F.avg_pool3d((labels == value).float(), factor)[0] * factor**3 for value in values])


class CellMap(nn.Conv3d):
    """Features of the last block -> amount of each structure in the cell, in units of its own: `unit` (outputs,).

    Without a constant, so that the many cells with nothing in them can add exactly nothing.
    """

    unit: Tensor

    def __init__(self, network: Morphometry, unit: Tensor) -> None:
        features = [part for part in network.blocks.modules() if isinstance(part, nn.Conv3d)][-1].out_channels
        super().__init__(features, len(network.mean), 1, bias=False)
        self.register_buffer("unit", unit)
        nn.init.normal_(self.weight, std=0.01)


def begin_as_sum(network: Morphometry, where: CellMap) -> None:
    """Set the fully connected layers so that the network gives the sums over all cells of what `where` finds.

    The first hidden units of each layer carry a sum each; those after them keep the weights they began with, and are not yet
    listened to.
    """
    first, *between, last = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    outputs, features = where.weight.shape[:2]
    standardised = where.weight.flatten(1) * (where.unit / network.spread)[:, None]
    with torch.no_grad():
        first.weight[:outputs] = standardised.repeat_interleave(first.in_features // features, 1)
        first.bias[:outputs] = 0
        for layer in between:
            layer.weight[:outputs] = torch.eye(outputs, layer.in_features)
            layer.bias[:outputs] = 0
        last.weight.copy_(torch.eye(outputs, last.in_features))
        last.bias.copy_(-network.mean / network.spread)


def located_loss(network: Morphometry, where: CellMap, scans: Tensor, cells: Tensor, epoch: int) -> Tensor:
    """Squared errors of the amounts (b, outputs, *cells) in their units, and a little of those of the sums in their spread."""
    unit = where.unit.reshape(-1, 1, 1, 1)
    wrong = where(network.blocks(scans)) - cells / unit
    sums = wrong.sum((2, 3, 4)) * where.unit / network.spread
    return wrong.square().mean() + SUMS * min(1, epoch / AFTER) * sums.square().mean()
