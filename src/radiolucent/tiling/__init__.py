"""A large image predicted window by window, differentiable in the memory of one window."""

from radiolucent.tiling.layout import Piece, Where, rolling
from radiolucent.tiling.tiled import OnWindow, Tiled, untiled

__all__ = ["OnWindow", "Piece", "Tiled", "Where", "rolling", "untiled"]
