"""Scans that the models were not trained on, as the network takes them, with the anatomy that the maps are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import brains
import crops
import numpy as np
import torch

from radiolucent import Parcellation, Volume, read
from radiolucent.io import read_labels
from radiolucent.io.tables import Name


@dataclass(frozen=True, eq=False)
class Held:
    """A scan on the model's grid; its anatomy on that grid or a finer one, 0 where there is nothing; the true measurements.

    Scans of one `patient` are not independent of each other.
    """

    name: str
    patient: str
    image: Volume
    anatomy: Parcellation
    truth: list[float]


class Scans(Protocol):
    """Held-out scans, and which labels each output measures: its `own`, and those of its `mirror` on the other side.

    `structures` are the regions of outputs that are not called like theirs, as in `radiolucent.analysis.Settings`.
    What fits into eight minutes on two quiet cores: so many `scans`, `samples` of SmoothGrad, iterations of SMOCAM at each
    layer, the last of which is the one that pictures show.
    """

    own: dict[str, list[int]]
    mirror: dict[str, list[int]]
    structures: Sequence[tuple[str, str]]
    tolerance_mm: float
    scans: int
    smocam: dict[str, int]
    samples: int

    def __call__(self, count: int) -> Iterator[Held]:
        """The first scans of the test set, always the same."""

    def __len__(self) -> int:
        """Scans in the test set."""


class CropScans:
    """The Decathlon's crops; what pads them to the model's size is label 0, what is no hippocampus is label 3."""

    own: ClassVar = dict(zip(crops.Crops.outputs, ([1], [2], [1, 2]), strict=True))
    mirror: ClassVar[dict[str, list[int]]] = {}
    structures = tuple((crops.Crops.outputs[2], part) for part in crops.Crops.outputs[:2])
    tolerance_mm = 4.0
    scans = 8
    smocam: ClassVar = {"blocks.1": 300, "blocks.2": 2000}
    samples = 10

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, crops.split(folder)["test"]

    def __call__(self, count: int) -> Iterator[Held]:
        names = {v: Name(name) for v, name in enumerate([*crops.Crops.outputs[:2], "rest of the crop"], 1)}
        for name in self.names[:count]:
            image = crops.PREPROCESSING(scan := read(self.folder / "images" / name))
            labels = read_labels(self.folder / "labels" / name)
            labels = labels.like(np.where(labels.data == 0, 3, labels.data)).on(image.grid, nearest=True)
            truth = crops.measured(torch.from_numpy(labels.data)).sum((1, 2, 3)).tolist()
            assert scan.grid.voxel_mm3 == 1
            patient = name.removesuffix(".nii.gz")
            yield Held(patient, patient, image, Parcellation(labels, names), truth)

    def __len__(self) -> int:
        return len(self.names)


class BrainScans:
    """Phantoms of the four heads that are held out, in turn; anatomy of 2 mm, scans of 4 mm."""

    structures = ()
    tolerance_mm = 8.0
    scans = 6
    smocam: ClassVar = {"blocks.2": 2000}
    samples = 5

    def __init__(self, folder: Path) -> None:
        self.files = brains.subjects(folder)["test"]
        self.heads = [brains.anatomy(file) for file in self.files]
        first = self.heads[0]
        outputs = brains.measurements(first)
        other = {a: b for pair in first.left_right() for a, b in (pair, pair[::-1])}
        self.own = {name: first.find(name) for name in outputs}
        self.mirror = {name: first.find(other[name]) for name in outputs if name in other}

    def __call__(self, count: int) -> Iterator[Held]:
        for number in range(count):
            which = number % len(self.heads)
            drawn = brains.PHANTOM(self.heads[which], brains.SEED["test"] + number)
            head, truth = self.files[which].name.removesuffix(".nii.gz"), [drawn.volumes[output] for output in self.own]
            yield Held(f"{head}-{number}", head, brains.PREPROCESSING(drawn.scan), drawn.anatomy, truth)

    def __len__(self) -> int:
        return brains.TEST * len(self.files)


HELD_OUT = {"hippocampus": CropScans, "brains": BrainScans}


def finer(volume: Volume, anatomy: Volume) -> Volume:
    """A map on the anatomy's grid, each voxel divided into several of the same value, so that no share changes."""
    data = volume.data
    for axis, (n, m) in enumerate(zip(volume.grid.shape, anatomy.grid.shape, strict=True), 1):
        data = data.repeat(m // n, axis)
    return Volume(data, anatomy.affine)
