"""The hippocampus data set as a task: real crops, deformed together with their labels in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from located import amounts
from torch import Generator, Tensor

import radiolucent.demo
from radiolucent import Preprocessing, read
from radiolucent.io import read_labels
from radiolucent.models import Percentile, read_card
from radiolucent.phantom import Deformation, sampled, smooth

PREPROCESSING = Preprocessing("RAS", (1.0, 1.0, 1.0), (48, 64, 48), intensity=Percentile(1, 99))
DEFORMATION = Deformation(rotation=8, scaling=0.08, shear=0.04, translation=2, elastic=1.2, knots=12)
VALIDATION = 30
CELL = 4
"""Voxels per cell of the last block, along each axis."""


def split(folder: Path) -> dict[str, list[str]]:
    """Fixed by name: the test cases are those that the demo's segmentation model has not seen either."""
    names = sorted(p.name for p in (folder / "images").glob("*.nii.gz"))
    about = read_card(Path(radiolucent.demo.__file__).parent / "hippocampus").about
    test = [name for name in names if name.removesuffix(".nii.gz") in about["held_out"]]
    rest = [name for name in names if name not in test]
    chosen = np.random.default_rng(2026).permutation(len(rest))[:VALIDATION]
    validation = [rest[i] for i in sorted(chosen)]
    return {"train": [name for name in rest if name not in validation], "validation": validation, "test": test}


def measured(labels: Tensor) -> Tensor:
    """Voxels of 1 mm3 in each cell of the network: anterior, posterior, both."""
    anterior, posterior = amounts(labels, [1, 2], CELL)
    return torch.stack([anterior, posterior, anterior + posterior])


class Crops:
    name = "Hippocampal volumes from T1 crops"
    outputs = ["anterior hippocampus", "posterior hippocampus", "hippocampus"]  # noqa: RUF012
    located = 35
    epochs = 65
    learning_rate = 2e-3
    arguments: dict[str, Any] = {  # noqa: RUF012
        "outputs": 3,
        "size": list(PREPROCESSING.size or ()),
        "channels": [16, 32, 16],
        "pool": [2, 2, 1],
        "convolutions": [1, 2, 2],
        "hidden": [16, 16],
        "norm": True,
    }
    preprocessing = PREPROCESSING.as_dict()

    def __init__(self, folder: Path) -> None:
        self.names = split(folder)
        self.cases = {part: [self._read(folder, name) for name in names] for part, names in self.names.items()}

    def _read(self, folder: Path, name: str) -> tuple[Tensor, Tensor]:
        image = read(folder / "images" / name)
        labels = read_labels(folder / "labels" / name).on(PREPROCESSING.grid(image.grid), nearest=True)
        self.grid = labels.grid
        return torch.from_numpy(PREPROCESSING(image).data), torch.from_numpy(labels.data)

    @property
    def about(self) -> dict[str, Any]:
        return {
            "data": "Medical Segmentation Decathlon Task04 Hippocampus: T1 MRI crops, 1 mm, Vanderbilt University Medical Center",
            "licence": "CC BY-SA 4.0, for the weights too, as they derive from the data",
            "split": ", ".join(f"{len(names)} {part}" for part, names in self.names.items()) + " (crops.py)",
            "held_out": [name.removesuffix(".nii.gz") for name in self.names["test"]],
            "limits": "A demonstration, not for clinical use. One hippocampus per crop. The crops of this data set are larger "
            "where the hippocampus is (r = 0.43 with the number of voxels), which a network may use.",
        }

    def truths(self) -> Tensor:
        return torch.stack([measured(labels) for _, labels in self.cases["train"]])

    def draw(self, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(10_000 * (epoch + 1) + number)
        image, labels = self.cases["train"][number]
        if torch.rand((), generator=generator) < 0.5:
            image, labels = image.flip(1), labels.flip(1)
        places = DEFORMATION(self.grid, generator)
        image, labels = sampled(image, places), sampled(labels, places, nearest=True)
        gamma, level = (0.2 * torch.randn((), generator=generator)).exp(), 0.04 * torch.rand((), generator=generator)
        bias = (0.1 * smooth(torch.randn((1, 3, 3, 3), generator=generator), image.shape[1:])).exp()
        noise = level * torch.randn(image.shape, generator=generator)
        return image.clamp(0, 1) ** gamma * bias + noise * (image > 0), measured(labels)

    def fixed(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = zip(*self.cases[part], strict=True)
        return torch.stack(images), torch.stack([measured(x).sum((1, 2, 3)) for x in labels])

    def __len__(self) -> int:
        return len(self.names["train"])
