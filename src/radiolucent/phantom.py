"""Synthetic T1 brains from label maps: scans whose volumes are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from radiolucent import geometry
from radiolucent.errors import BadInput
from radiolucent.geometry import Grid
from radiolucent.parcellation import Parcellation
from radiolucent.volume import Volume

T1 = {
    "white matter": 0.95,
    "cerebellum": 0.60,
    "cortex": 0.62,
    "ventricle": 0.20,
    "csf": 0.18,
    "thalamus": 0.76,
    "caudate": 0.67,
    "putamen": 0.71,
    "pallidum": 0.84,
    "hippocamp": 0.63,
    "amygdala": 0.62,
    "accumbens": 0.66,
    "ventral dc": 0.82,
    "brain stem": 0.86,
}
"""Mean intensity by what a region's name contains, the first that fits; about that of a T1 scan, bright white matter at 1."""


@dataclass(frozen=True)
class Deformation:
    """A random change of shape: affine, and elastic by a coarse field of displacements.

        source(x) = A x + t + u(x),   A = rotation . shear . scaling about the centre

    All are standard deviations of normal draws: `rotation` in degrees (about each axis), `scaling` of the logarithm of
    each axis' factor, `shear` as a slope, `translation` and `elastic` in mm. u is drawn on a lattice of `knots` mm and
    linear in between: folds are rare as long as `elastic` stays below about a sixth of `knots`.
    """

    rotation: float = 8.0
    scaling: float = 0.08
    shear: float = 0.03
    translation: float = 4.0
    elastic: float = 3.0
    knots: float = 24.0

    def __post_init__(self) -> None:
        _above_zero(self, ("rotation", "scaling", "shear", "translation", "elastic"))
        if not 0 < self.knots < float("inf"):
            raise BadInput("a lattice of knots above 0 mm apart", f"{self.knots}", "Correct `knots`.")

    def __call__(self, grid: Grid, generator: Generator) -> Tensor:
        """For each voxel of a 3D grid, the place (in voxels) that its value comes from: (*grid, 3)."""
        spacing = torch.tensor(grid.spacing)
        middle = (torch.tensor(grid.shape) - 1) / 2
        axes = [(torch.arange(n) - m) * s for n, m, s in zip(grid.shape, middle.tolist(), grid.spacing, strict=True)]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        place = x @ self._affine(generator).T + self.translation * torch.randn(3, generator=generator)
        lattice = [max(2, round(n * s / self.knots) + 1) for n, s in zip(grid.shape, grid.spacing, strict=True)]
        drawn = self.elastic * torch.randn((3, *lattice), generator=generator)
        place = place + smooth(drawn, grid.shape).movedim(0, -1)
        return place / spacing + middle

    def _affine(self, generator: Generator) -> Tensor:
        a, b, c = torch.deg2rad(self.rotation * torch.randn(3, generator=generator)).tolist()
        turn = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]]).matrix_exp()
        slant = torch.eye(3) + self.shear * torch.randn((3, 3), generator=generator).triu(1)
        return turn @ slant @ torch.diag((self.scaling * torch.randn(3, generator=generator)).exp())


class Drawn(NamedTuple):
    """A scan, the anatomy in it, and the volume of every region of the table in mm3, 0 where it does not occur."""

    scan: Volume
    anatomy: Parcellation
    volumes: dict[str, float]


@dataclass(frozen=True)
class Phantom:
    """Draws T1-like scans of a label map; `phantom(anatomy, seed)` is the same scan for the same seed.

    In the manner of SynthSeg (Billot et al., Medical Image Analysis 2023), with contrasts near a real T1: mirror (half of the
    scans, with left and right labels swapped), deform, one mean intensity per name, texture, blur, bias field,
    coarsen, noise. Volumes are counted on the deformed labels at the map's own resolution; the anatomy is given on that grid,
    the scan on one coarser by `factor` (voxels are means, so edges hold partial volumes). What leaves the field of view is
    neither in the scan nor counted. Names that T1 lacks (scalp, bone) get an intensity by chance.

    Args:
        size: grid of the deformed labels, RAS, around the middle of what T1 names; None for the map's whole grid.
        factor: voxels of the map per voxel of the scan, along each axis; it divides the size.
        deformation: change of shape.
        mirror: whether a random half is mirrored.
        contrast: standard deviation of each name's mean intensity, as a share of it.
        texture: standard deviation within a label.
        blur: largest standard deviation of the blur in mm; each scan has its own, from 0 on.
        bias: standard deviation of the logarithm of the bias field.
        noise: largest standard deviation of the noise in each of two channels, of which the scan is the magnitude (Rician).
    """

    size: tuple[int, int, int] | None = None
    factor: int = 1
    deformation: Deformation = field(default_factory=Deformation)
    mirror: bool = True
    contrast: float = 0.05
    texture: float = 0.03
    blur: float = 1.2
    bias: float = 0.15
    noise: float = 0.05

    def __post_init__(self) -> None:
        _above_zero(self, ("contrast", "texture", "blur", "bias", "noise"))
        sizes = self.size or (self.factor,) * 3
        if self.factor < 1 or len(sizes) != 3 or any(n < self.factor or n % self.factor for n in sizes):
            raise BadInput("a size of 3 axes that the factor divides", f"{self.size} by {self.factor}", "Correct one of them.")

    def __call__(self, anatomy: Parcellation, seed: int) -> Drawn:
        generator = Generator().manual_seed(seed)
        labels = self._view(anatomy)
        if self.mirror and bool(torch.rand((), generator=generator) < 0.5):
            labels = _mirrored(labels, _other_side(anatomy))
        moved = sampled(torch.from_numpy(labels.data), self.deformation(labels.grid, generator), nearest=True)
        anatomy = Parcellation(labels.like(moved.numpy()), anatomy.names)
        image = self._painted(anatomy, generator)
        grid = anatomy.labels.grid
        image = F.avg_pool3d(image[None], self.factor)[0]
        image = image * (self.bias * smooth(torch.randn((1, 4, 4, 4), generator=generator), image.shape[1:])).exp()
        level = self.noise * torch.rand((), generator=generator)
        real, imaginary = level * torch.randn((2, *image.shape), generator=generator)
        image = torch.hypot(image + real, imaginary)
        coarse = geometry.coarsen(grid, tuple(image.shape[1:]))
        return Drawn(Volume(image.numpy(), coarse.affine), anatomy, volumes(anatomy))

    def _view(self, anatomy: Parcellation) -> Volume:
        """The labels in RAS, as much of them as the size holds."""
        if anatomy.labels.data.ndim != 4:
            raise BadInput("a 3D label map", f"{anatomy.labels.grid}", "Phantoms are volumes.")
        grid = geometry.reorient(anatomy.labels.grid, "RAS")
        labels = anatomy.labels.on(grid, nearest=True)
        if self.size is None:
            whole = tuple(n // self.factor * self.factor for n in grid.shape)
            return labels.on(geometry.centre(grid, whole), nearest=True)
        inside = np.isin(labels.data[0], [v for v in anatomy.names if v and _typical(anatomy.name(v))])
        if not inside.any():
            raise BadInput(f"a region whose name contains one of {', '.join(T1)}", "none", "Name the labels, or leave `size` out.")
        lines = [np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        start = tuple(int(line[0] + line[-1] + 1 - n) // 2 for line, n in zip(lines, self.size, strict=True))
        return labels.on(geometry.window(grid, start, self.size), nearest=True)

    def _painted(self, anatomy: Parcellation, generator: Generator) -> Tensor:
        """An intensity for each voxel (1, *grid), blurred; both sides of a region share their mean."""
        labels = torch.from_numpy(anatomy.labels.data)
        values, codes = labels.unique(return_inverse=True)
        chance = {int(v): float(torch.rand((), generator=generator)) for v in values}
        names = sorted({entry.name for entry in anatomy.names.values()})
        shift = {name: float(torch.randn((), generator=generator)) for name in names}
        means = []
        for v in values.tolist():
            typical = _typical(anatomy.name(v)) or 0.1 + 0.7 * chance[v]
            means.append(typical * (1 + self.contrast * shift[anatomy.name(v)]) if v else 0.0)
        image = torch.tensor(means)[codes]
        image = image + self.texture * torch.randn(image.shape, generator=generator) * (labels != 0)
        return blurred(image, float(self.blur * torch.rand((), generator=generator)), anatomy.labels.grid.spacing).clamp(min=0)


def mirrored(anatomy: Parcellation) -> Parcellation:
    """The same head seen in a mirror, on its own grid: right is left, and the labels of both sides are swapped."""
    return Parcellation(_mirrored(anatomy.labels, _other_side(anatomy)), anatomy.names)


def _other_side(anatomy: Parcellation) -> dict[int, int]:
    """Each label that has one on the other side -> that one."""
    pairs = [(anatomy.find(a)[0], anatomy.find(b)[0]) for a, b in anatomy.left_right()]
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


def _mirrored(labels: Volume, other: dict[int, int]) -> Volume:
    axis = next(i for i, code in enumerate(labels.grid.orientation) if code in "LR")
    data = np.flip(labels.data, axis + 1)
    values = np.unique(data)
    swapped = np.array([other.get(int(v), int(v)) for v in values], data.dtype)
    return labels.like(swapped[np.searchsorted(values, data)])


def volumes(anatomy: Parcellation) -> dict[str, float]:
    """mm3 of every region of the table, by its title: its voxels times the volume of one."""
    values, counts = np.unique(anatomy.labels.data, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    size = anatomy.labels.grid.voxel_mm3
    return {anatomy.titles[v]: found.get(v, 0) * size for v in anatomy.names if v}


def sampled(data: Tensor, places: Tensor, *, nearest: bool = False) -> Tensor:
    """Values of data (c, *grid) at places (*new, 3) in voxels: (c, *new); 0 outside of the grid."""
    shape = torch.tensor(data.shape[1:])
    if nearest:
        index = places.round().long()
        inside = ((index >= 0) & (index < shape)).all(-1)
        i, j, k = index.clamp(min=0).minimum(shape - 1).unbind(-1)
        return data[:, i, j, k] * inside
    unit = 2 * places / (shape - 1).clamp(min=1) - 1  # grid_sample counts from -1 to 1, the last axis first
    return F.grid_sample(data[None], unit.flip(-1)[None].to(data.dtype), align_corners=True)[0]


def smooth(coarse: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A lattice of values (c, ...) over the whole grid, linear in between."""
    return F.interpolate(coarse[None], tuple(shape), mode="trilinear", align_corners=True)[0]


def blurred(image: Tensor, deviation: float, spacing: tuple[float, ...]) -> Tensor:
    """image (c, *grid) under a Gaussian of the given standard deviation in mm, with the edge repeated."""
    for axis, mm in enumerate(spacing):
        sigma = deviation / mm
        reach = int(np.ceil(3 * sigma))
        if reach == 0:
            continue
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
        line = image.movedim(axis + 1, -1)
        flat = F.pad(line.reshape(1, -1, line.shape[-1]), (reach, reach), mode="replicate")
        sums = sum(w * flat[..., i : i + line.shape[-1]] for i, w in enumerate((kernel / kernel.sum()).tolist()))
        image = torch.as_tensor(sums).reshape(line.shape).movedim(-1, axis + 1)
    return image


def _typical(name: str) -> float | None:
    return next((intensity for part, intensity in T1.items() if part in name.lower()), None)


def _above_zero(settings: object, names: tuple[str, ...]) -> None:
    wrong = {name: getattr(settings, name) for name in names if not 0 <= getattr(settings, name) < float("inf")}
    if wrong:
        raise BadInput("settings of 0 or more", f"{wrong}", "Correct them.")
