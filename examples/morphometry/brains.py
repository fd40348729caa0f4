"""Label maps of whole heads, and the phantoms drawn from them for training and testing the brain morphometry model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from located import amounts
from torch import Tensor

from radiolucent import Preprocessing
from radiolucent.io import read_labels
from radiolucent.io.tables import Name, read_names
from radiolucent.models import Percentile
from radiolucent.parcellation import Parcellation
from radiolucent.phantom import Phantom

PHANTOM = Phantom(size=(80, 96, 96), factor=2)
"""4 mm scans of 40 x 48 x 48 voxels from maps of 2 mm."""
PREPROCESSING = Preprocessing("RAS", (4.0, 4.0, 4.0), (40, 48, 48), intensity=Percentile(1, 99))
CELL = 4
"""Voxels of a scan per cell of the last block, along each axis."""
TEST = 12
"""Scans drawn of each head that is held out."""
SEED = {"validation": 10_000_000, "test": 20_000_000}
"""Far from the numbers of training scans."""
LEFT_OUT = ("CSF",)
"""Reaches far beyond the brain: no measurement."""


def subjects(folder: Path) -> dict[str, list[Path]]:
    """Fixed by the sorted names: the last four heads for testing, the three before them for validation."""
    files = sorted(folder.glob("*.nii.gz"))
    return {"train": files[:-7], "validation": files[-7:-4], "test": files[-4:]}


def anatomy(path: Path) -> Parcellation:
    """A head with the brain's names; everything else in it is called tissue."""
    brain = read_names(path.parent / "regions.tsv")
    labels = read_labels(path)
    others = {int(v): Name(f"tissue {v}") for v in set(labels.data.ravel().tolist()) - set(brain) - {0}}
    return Parcellation(labels, {**brain, **others})


def measurements(head: Parcellation) -> list[str]:
    """The titles of the structures that are measured, in the table's order."""
    return [head.titles[v] for v, name in head.names.items() if v and name.hemisphere and name.name not in LEFT_OUT]


class Brains:
    name = "Brain volumes from synthetic T1 scans"
    located = 85
    epochs = 100
    learning_rate = 2e-3
    per_epoch = 180
    preprocessing = PREPROCESSING.as_dict()

    def __init__(self, folder: Path) -> None:
        self.files = subjects(folder)
        self.heads = {part: [anatomy(file) for file in files] for part, files in self.files.items()}
        self.outputs = measurements(self.heads["train"][0])
        self.arguments: dict[str, Any] = {
            "outputs": len(self.outputs),
            "size": list(PREPROCESSING.size or ()),
            "channels": [16, 32, 48],
            "pool": [2, 2, 1],
            "convolutions": [1, 2, 2],
            "hidden": [32, 32],
            "norm": True,
        }

    @property
    def about(self) -> dict[str, Any]:
        return {
            "data": "Synthetic T1 scans of 4 mm drawn from SynthSeg's training label maps (Apache-2.0)",
            "licence": "Apache-2.0",
            "split": {part: [file.name for file in files] for part, files in self.files.items()},
            "test_scans": f"{TEST} per head, drawn as in training (brains.py); truth and prediction therefore vary as the "
            "phantoms do, more than healthy brains",
            "limits": "A demonstration, not for clinical use. Trained on phantoms alone; the brain must be in the middle.",
        }

    def truths(self) -> Tensor:
        """Of the scans of an epoch before the first."""
        return torch.stack([self._drawn(self.heads["train"], number)[1] for number in range(len(self))])

    def draw(self, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        return self._drawn(self.heads["train"], (epoch + 1) * len(self) + number)

    def fixed(self, part: str) -> tuple[Tensor, Tensor]:
        heads = self.heads[part]
        drawn = [self._drawn(heads, SEED[part] + number) for number in range(TEST * len(heads))]
        scans, truths = zip(*drawn, strict=True)
        return torch.stack(scans), torch.stack(truths).sum((2, 3, 4))

    def _drawn(self, heads: list[Parcellation], number: int) -> tuple[Tensor, Tensor]:
        drawn = PHANTOM(heads[number % len(heads)], number)
        scan = PREPROCESSING(drawn.scan)
        labels = torch.from_numpy(drawn.anatomy.labels.data)
        found = amounts(labels, [drawn.anatomy.find(name)[0] for name in self.outputs], CELL * PHANTOM.factor)
        return torch.from_numpy(scan.data), found * drawn.anatomy.labels.grid.voxel_mm3

    def __len__(self) -> int:
        return self.per_epoch
