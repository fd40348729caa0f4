"""NumPy arrays: .npy and .npz. They carry no world space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.volume import Volume

SUFFIXES = (".npy", ".npz")


def read(path: Path, frame: int | str | None, dtype: type = np.float32) -> Volume:
    """(rows, columns) as 2D, (i, j, k) as 3D, (channels, i, j, k) as 3D with channels."""
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        data = loaded if isinstance(loaded, np.ndarray) else _only(path, loaded)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"a NumPy array in {path.name}", f"{error}", "Save it again with numpy.save.") from None
    if data.dtype.kind not in "biuf":
        raise BadInput(f"real numbers in {path.name}", f"dtype {data.dtype}", "Convert it to float32 first.")
    if data.ndim == 4 and isinstance(frame, int):
        if not 0 <= frame < len(data):
            raise BadInput(f"a frame from 0 to {len(data) - 1}", str(frame), "Choose one of those.")
        data = data[frame]
    if data.ndim not in (2, 3, 4) or 0 in data.shape:
        raise BadInput(f"an array of 2, 3 or 4 axes in {path.name}", f"shape {data.shape}", "Save one image per file.")
    return Volume((data if data.ndim == 4 else data[None]).astype(dtype), has_world=False)


def _only(path: Path, archive: Any) -> np.ndarray[Any, Any]:
    if len(archive.files) != 1 and "image" not in archive.files:
        raise BadInput(f"one array in {path.name}, or one named 'image'", f"{archive.files}", "Save the image on its own.")
    return archive["image" if "image" in archive.files else archive.files[0]]
