"""NumPy arrays: .npy and .npz. They carry no world space."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.io.kinds import check_size, kind_of
from radiolucent.volume import Volume

SUFFIXES = (".npy", ".npz")


def read(path: Path, frame: int | str | None, *, labels: bool = False) -> Volume:
    """(rows, columns) as 2D, (i, j, k) as 3D, (channels, i, j, k) as 3D with channels; float32, or float64 for `labels`."""
    try:
        data = _load(path)
    except BadInput:
        raise
    except Exception as error:
        with path.open("rb") as file:
            kind = kind_of(file.read(512))
        raise BadInput(f"a NumPy array in {path.name}", f"{kind}: {error!r}", "Save it again with numpy.save.") from None
    if data.dtype.kind not in "biuf":
        raise BadInput(f"real numbers in {path.name}", f"dtype {data.dtype}", "Convert it to float32 first.")
    if data.ndim not in (2, 3, 4) or 0 in data.shape:
        raise BadInput(f"an array of 2, 3 or 4 axes in {path.name}", f"shape {data.shape}", "Save one image per file.")
    if frame not in (None, "channels"):
        frames = len(data) if data.ndim == 4 else 1
        if not isinstance(frame, int) or not 0 <= frame < frames:
            raise BadInput(f"a frame from 0 to {frames - 1} in {path.name}", f"{frame}", "Choose one of those.")
        data = data[frame] if data.ndim == 4 else data
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and io refuses that
        return Volume((data if data.ndim == 4 else data[None]).astype(np.float64 if labels else np.float32), has_world=False)


def _load(path: Path) -> np.ndarray[Any, Any]:
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # mapped: nothing is allocated for what a header claims
            return np.asarray(np.load(path, allow_pickle=False, mmap_mode="r"))
        with zipfile.ZipFile(file) as members:
            check_size(path, sum(member.file_size for member in members.infolist()), "arrays")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if len(archive.files) != 1 and "image" not in archive.files:
                raise BadInput(f"one array in {path.name}, or one named 'image'", f"{archive.files}", "Save the image on its own.")
            return archive["image" if "image" in archive.files else archive.files[0]]
