"""Maps of a batch, and what is written of them."""

from __future__ import annotations

import csv
import io as text
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.io.tables import harmless
from radiolucent.protocols import Method
from radiolucent.report import figures
from radiolucent.report.picture import background, picture
from radiolucent.volume import Volume

TABLE = "maps.csv"
Key = tuple[str, int | None, int | None]


@dataclass(frozen=True, eq=False)
class Maps:
    """What an injected model made of its last batch.

    Args:
        relevance: "method at layer" -> (t, b, c, *cells), signed, un-normalised, on the layer's own grid.
        methods: "method at layer" -> the method.
        targets: a name for each of the t targets.
        items: (t, b), what the target means for each item: "logit 2" where each explains its own class.
        scores: (t, b); NaN where an item has no such target (a label without a voxel).
        grid: the input's shape without batch and channels.
        failures: (what, target, item) -> why there is no map; target and item are None where they do not matter.
        labels: each target's label in a segmentation; else none.
    """

    relevance: Mapping[str, Tensor]
    methods: Mapping[str, Method]
    targets: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    scores: Tensor
    grid: tuple[int, ...]
    failures: Mapping[Key, str] = field(default_factory=dict)
    labels: tuple[int, ...] = ()

    def on_input(self, name: str | None = None) -> Tensor:
        """(t, b, c, *grid): the map of that name (default: the last one), interpolated to the input's grid."""
        key = list(self.relevance)[-1] if self.relevance and name is None else name
        if key is None or key not in self.relevance:
            raise BadInput(f"a map among {', '.join(self.relevance) or 'none'}", repr(name), "See .failures for the others.")
        return upsample(self.relevance[key], self.grid)

    def volumes(self, x: Tensor) -> Iterator[tuple[str, int, int, Volume, Volume]]:
        """(map, target, item, the item of x, its relevance on the same grid), without those that failed.

        x (b, c, *grid) is the input; the affine of a MONAI MetaTensor goes along.
        """
        scans = [volume(x, i) for i in range(len(x))]
        for name, relevance in self.relevance.items():
            for t in range(len(self.targets)):
                for i, scan in enumerate(scans):
                    if ("", t, i) not in self.failures and (name, t, i) not in self.failures:
                        fine = upsample(relevance[t : t + 1, i : i + 1], self.grid)[0, 0]
                        yield name, t, i, scan, scan.like(fine.float().cpu().numpy())

    def save(self, folder: str | Path, names: Sequence[str], x: Tensor) -> list[Path]:
        """Each map as `folder/MAP/NAME_TARGET.nii.gz` on the input's grid, and a row for it in `folder/maps.csv`.

        In 2D a picture (PNG) over the image lies beside it. `names` are those of the batch items of the input x;
        unless that is a MONAI MetaTensor with an affine, the files say that they have none.
        """
        folder, written, rows = Path(folder), [], []
        if len(names) != len(x) or len({safe(n) for n in names}) < len(names):
            raise BadInput(f"{len(x)} different names, one per batch item", ", ".join(names), "Rename them.")
        for name, t, i, scan, relevance in self.volumes(x):
            place = folder / safe(name)
            place.mkdir(parents=True, exist_ok=True)
            path = io.write(_free(place / f"{safe(names[i])}_{safe(self.items[t][i])}"), relevance)
            if len(self.grid) == 2:
                io.put(path.with_name(path.name.removesuffix(".nii.gz") + ".png"), drawn(scan, relevance, self.methods[name].unit))
            written.append(path)
            label = self.labels[t] if self.labels else ""
            rows.append([names[i], name, self.items[t][i], label, float(self.scores[t, i]), str(path.relative_to(folder))])
        _add(folder / TABLE, rows)
        return written


def _free(path: Path) -> Path:
    """The name with .nii.gz, or, where that is taken (a case in a second epoch), with -2, -3, ... before it."""
    number = 1
    while (found := path.with_name(f"{path.name}{f'-{number}' if number > 1 else ''}.nii.gz")).exists():
        number += 1
    return found


def volume(x: Tensor, i: int) -> Volume:
    """A batch item with the affine of its MetaTensor, if it is one that places it in the world."""
    data = x[i].detach().as_subclass(Tensor).float().cpu().numpy()
    affine = np.asarray(getattr(x, "affine", None), dtype=float) if hasattr(x, "affine") else np.empty(0)
    affine = affine[i] if affine.ndim == 3 else affine
    return Volume(data, affine) if affine.shape == (4, 4) else Volume(data, np.eye(4), has_world=False)


def drawn(scan: Volume, relevance: Volume, unit: str) -> bytes:
    """A PNG: the image, and the map over it."""
    return figures.png(figures.slices(background(scan), picture(relevance), unit))


def safe(name: str) -> str:
    """A name that is a file's name everywhere."""
    return re.sub(r"[^\w.+#-]+", "_", name).strip("._") or "_"


def _add(table: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Append rows in one write, so that a run that is stopped leaves whole lines."""
    buffer = text.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if not table.exists():
        writer.writerow(["name", "map", "target", "label", "score", "file"])
    writer.writerows([harmless(value) for value in row] for row in rows)
    handle = os.open(table, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, buffer.getvalue().encode())
        os.fsync(handle)
    finally:
        os.close(handle)
