"""A 2D network for 3D scans: it sees one slice at a time, and its answers are stacked again."""

from __future__ import annotations

from torch import Tensor, nn


class Slicewise(nn.Module):
    """f(x)[:, :, d] = network(x[:, :, d]): x (b, c, d, h, w) gives (b, k, d, h, w); a 2D image (b, c, h, w) as it is.

    Layers see the slices as items of a batch, and each CAM is made of all slices of a scan together: their
    weights are means over the volume, as the score is a sum over it.
    """

    folds_slices = True
    """By this the hooks know that the layers inside hold the first axis of the grid in their batch axis."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.network(x)
        slices = self.network(x.transpose(1, 2).flatten(0, 1))
        return slices.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)
