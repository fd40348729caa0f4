"""Learning first where each structure is: amounts in the cells of the last block, and fully connected layers that sum them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.models import Morphometry

SUMS = 0.05
"""Weight of the sums beside the cells; more of it is noise until the cells are right."""


def amounts(labels: Tensor, values: list[int], factor: int) -> Tensor:
    """(values, *cells): how many voxels of labels (1, *grid) with each value lie in each cell of factor^3."""
    return torch.stack([F.avg_pool3d((labels == value).float(), factor)[0] * factor**3 for value in values])


def cell_map(network: Morphometry) -> nn.Conv3d:
    """Features of the last block -> amount of each structure in the cell, in units of the outputs' spread.

    Without a constant, so that the many cells with nothing in them can add exactly nothing.
    """
    features = [part for part in network.blocks.modules() if isinstance(part, nn.Conv3d)][-1].out_channels
    where = nn.Conv3d(features, len(network.mean), 1, bias=False)
    nn.init.normal_(where.weight, std=0.01)
    return where


def begin_as_sum(network: Morphometry, where: nn.Conv3d) -> None:
    """Set the fully connected layers so that the network gives the sums over all cells of what `where` finds.

    The first hidden units of each layer carry a sum each; those after them keep the weights they began with, and are not yet
    listened to.
    """
    first, *between, last = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    outputs, features = where.weight.shape[:2]
    with torch.no_grad():
        first.weight[:outputs] = where.weight.flatten(1).repeat_interleave(first.in_features // features, 1)
        first.bias[:outputs] = 0
        for layer in between:
            layer.weight[:outputs] = torch.eye(outputs, layer.in_features)
            layer.bias[:outputs] = 0
        last.weight.copy_(torch.eye(outputs, last.in_features))
        last.bias.copy_(-network.mean / network.spread)


def located_loss(network: Morphometry, where: nn.Conv3d, scans: Tensor, cells: Tensor) -> Tensor:
    """Squared errors of the amounts (b, outputs, *cells), relative to their mean square, and a little of those of the sums."""
    unit = network.spread.reshape(-1, 1, 1, 1)
    wrong = where(network.blocks(scans)) - cells / unit
    size = (cells / unit).square().mean((0, 2, 3, 4)) + 1e-9
    return (wrong.square().mean((0, 2, 3, 4)) / size).mean() + SUMS * wrong.sum((2, 3, 4)).square().mean()
