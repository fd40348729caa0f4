"""Augmentation: flips, and one random affine change of the grid per image, 2D and 3D."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from radiolucent.errors import BadInput


@dataclass(frozen=True)
class Augmentation:
    """[augmentation] What an image may look like in training. All that is left out does not happen.

        out(v) = image(c + o + R K S (v - c)),   c the centre of the grid, o a random shift

    with R a rotation by uniform angles in every plane of axes, K the shear, S the zoom: each in voxels, so that a grid
    whose axes differ is not distorted. What lies outside the image is 0. All of it is one linear interpolation.

    Args:
        flip: axes of the grid, from 0, each flipped in every other image (no interpolation).
        rotation: largest angle, degrees.
        translation: largest shift along each axis, as a share of its length.
        shear: largest shift per length, for each ordered pair of axes.
        scale: zoom along each axis from 1 / (1 + scale) to 1 + scale, evenly in the logarithm: it stretches, too.
        crop: share of the length that a random window may lose, which is then drawn at the full size.
        views: that many fixed variants of each image instead of new ones in every epoch, so that features of a frozen
            encoder can be computed once for each; 0: endless.
    """

    flip: tuple[int, ...] = ()
    rotation: float = 0.0
    translation: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    crop: float = 0.0
    views: int = 0

    def __post_init__(self) -> None:
        sizes = (self.rotation, self.translation, self.shear, self.scale, self.crop)
        right = all(0 <= s < math.inf for s in sizes) and max(self.crop, self.translation) < 1 and self.rotation <= 180
        right &= self.views >= 0 and set(self.flip) <= {0, 1, 2} and len(set(self.flip)) == len(self.flip)
        if not right:
            expected = (
                "flips of axes 0 to 2, each once, a rotation up to 180, shares below 1 and views not below 0 in [augmentation]"
            )
            raise BadInput(expected, repr(self), "Correct the recipe.")

    def __bool__(self) -> bool:
        return bool(self.flip) or self._moves

    @property
    def _moves(self) -> bool:
        return any((self.rotation, self.translation, self.shear, self.scale, self.crop))

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """(c, *grid) to another one; the same seed gives the same."""
        axes = image.ndim - 1
        if any(axis >= axes for axis in self.flip):
            raise BadInput(f"flips of axes 0 to {axes - 1}", f"{list(self.flip)} in [augmentation]", "Correct the recipe.")
        draw = torch.Generator().manual_seed(seed)
        flipped = [1 + axis for axis in self.flip if torch.rand((), generator=draw) < 0.5]
        image = image.flip(flipped) if flipped else image
        if not self._moves:
            return image
        matrix, shift = self._affine(axes, tuple(image.shape[1:]), draw)
        return warp(image, matrix, shift)

    def _affine(self, axes: int, shape: tuple[int, ...], draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """The matrix and the shift in voxels, output -> input."""

        def uniform(*size: int) -> Tensor:
            return 2 * torch.rand(*size, generator=draw, dtype=torch.float64) - 1

        matrix = torch.eye(axes, dtype=torch.float64)
        for a, b in combinations(range(axes), 2):
            angle = math.radians(self.rotation) * float(uniform(1))
            turn = torch.eye(axes, dtype=torch.float64)
            turn[a, a] = turn[b, b] = math.cos(angle)
            turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        matrix = matrix @ (torch.eye(axes, dtype=torch.float64) + self.shear * uniform(axes, axes).fill_diagonal_(0))
        left = 1 - self.crop * float(torch.rand((), generator=draw))  # the share of the length that the window keeps
        matrix = matrix @ torch.diag(left * torch.exp(-math.log1p(self.scale) * uniform(axes)))
        room = torch.tensor(shape, dtype=torch.float64)
        return matrix, room * (self.translation * uniform(axes) + (1 - left) / 2 * uniform(axes))


def warp(image: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """out(v) = image(c + shift + matrix (v - c)) in voxels of (c, *grid), linear, 0 outside of the field of view."""
    half = torch.tensor(image.shape[1:], dtype=torch.float64) / 2
    # affine_grid counts in half lengths from the centre, and its last axis first.
    theta = torch.cat([matrix * half / half[:, None], (shift / half)[:, None]], 1)
    theta = torch.cat([theta[:, :-1].flip(0, 1), theta[:, -1:].flip(0)], 1)
    grid = F.affine_grid(theta[None].to(image.dtype), [1, *image.shape], align_corners=False)
    inside = (grid.abs() <= 1 + 1e-5).all(-1)
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0] * inside
