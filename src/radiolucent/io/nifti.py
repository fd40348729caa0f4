"""NIfTI and FreeSurfer volumes through nibabel, read to their last byte before they are believed."""

from __future__ import annotations

import gzip
import logging
import math
import os
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from radiolucent import geometry
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Grid
from radiolucent.io.atomic import put
from radiolucent.volume import Volume

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
_SLACK = 1 << 20
_log = logging.getLogger("radiolucent")


def read(path: Path, frame: int | str | None, dtype: type = np.float32) -> Volume:
    """The image on its file's grid, scaled as its header says, as `dtype`."""
    mgh = path.suffix.lower() in (".mgz", ".mgh")
    raw = _content(path, _mgh_size if mgh else _nifti_size)
    try:
        loaded: Any = (nib.MGHImage if mgh else _nifti_class(raw)).from_bytes(raw)
        stored = loaded.get_data_dtype()
        if stored.names or stored.kind == "c":
            raise BadInput(
                f"a grey image in {path.name}",
                "a colour image (RGB voxels)" if stored.names else f"complex voxels ({stored})",
                "Convert it: one channel, or the magnitude.",
            )
        data = np.asanyarray(loaded.dataobj)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"a readable image in {path.name}", f"{error}", "Copy or convert the file again.") from None
    notes: list[str] = []
    has_world = True
    if not mgh:
        has_world = _check_header(path, raw, loaded, notes)
    data = _frame(path, data, frame).astype(dtype)
    affine = np.asarray(loaded.affine, np.float64)
    geometry.check_affine(affine)
    for note in notes:
        warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=4)
    return _straight(path, Volume(data, affine, has_world, tuple(notes)))


def _frame(path: Path, data: Any, frame: int | str | None) -> Any:
    """(i, j, k[, t]) -> (c, i, j, k)."""
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 5 and data.shape[3] == 1:  # NIfTI vectors: x, y, z, 1, channels
        data = data[:, :, :, 0]
    if data.ndim < 3:
        data = data.reshape(data.shape + (1,) * (3 - data.ndim))
    if data.ndim == 3:
        return data[None]
    if data.ndim == 4 and frame == "channels":
        return np.moveaxis(data, 3, 0)
    if data.ndim == 4 and isinstance(frame, int) and 0 <= frame < data.shape[3]:
        return data[None, ..., frame]
    raise BadInput(
        f"a 3D image in {path.name}",
        f"{data.ndim}D data of shape {data.shape}" + (f" and frame {frame}" if frame is not None else ""),
        f"Choose one image: --frame 0 to --frame {data.shape[-1] - 1}, or --frame channels for a model that takes them all.",
    )


def _straight(path: Path, volume: Volume) -> Volume:
    """A sheared grid (tilted gantry, registration) does not open in most viewers: resample it once, here."""
    if geometry.shear(volume.affine) < 1e-3:
        return volume
    note = f"the grid is sheared: resampled to {geometry.orthonormalise(volume.grid)}"
    warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=5)
    return volume.on(geometry.orthonormalise(volume.grid)).noted(note)


def _content(path: Path, size: Callable[[Path, bytes], int]) -> bytes:
    """All bytes of the file, unpacked, after checking that they are as many as its header promises."""
    packed = path.suffix.lower() in (".gz", ".mgz")
    start = path.open("rb").read(1024)
    if packed and start[:2] != b"\x1f\x8b":
        kind = "text" if start.isascii() else "unpacked or foreign data"
        raise BadInput(f"gzip data in {path.name}", f"{kind} (it begins with {start[:12]!r})", "Rename or pack it.")
    opener = gzip.open if packed else open
    try:
        with opener(path, "rb") as file:
            head = file.read(1024)
            promised = size(path, head)
            body = head + file.read(promised + _SLACK - len(head))
            if packed and file.read(1):
                raise BadInput(
                    f"at most {promised} bytes in {path.name}, as its header says", "more", "Damaged, or made to fill your memory."
                )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"a whole gzip file in {path.name}", f"{error}", "It is truncated or damaged: copy it again.") from None
    if len(body) < promised:
        raise BadInput(f"{promised} bytes of image in {path.name}", f"{len(body)}", "It is truncated: copy it again.")
    return body


def _nifti_class(raw: bytes) -> Any:
    return nib.Nifti2Image if 540 in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")) else nib.Nifti1Image


def _nifti_size(path: Path, head: bytes) -> int:
    try:
        header = _nifti_class(head).header_class.from_fileobj(BytesIO(head), check=False)
        if header["sizeof_hdr"] not in (348, 540):
            raise ValueError(f"its header claims {header['sizeof_hdr']} bytes")
        axes = int(header["dim"][0])
        dims = [int(n) for n in header["dim"][1 : axes + 1]]
        offset, bits = float(header["vox_offset"]), int(header["bitpix"])
    except Exception as error:
        kind = "text" if head[:200].isascii() else "something else"
        raise BadInput(f"a NIfTI header in {path.name}", f"{kind}: {error}", "Is it another kind of file?") from None
    return _promised(path, dims if 1 <= axes <= 7 else [], offset, bits // 8)


def _mgh_size(path: Path, head: bytes) -> int:
    try:
        header: Any = nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(head), check=True)
        return _promised(path, [int(n) for n in header["dims"]], 284, header.get_data_dtype().itemsize)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"an MGH header in {path.name}", f"{error}", "Is it another kind of file?") from None


def _promised(path: Path, dims: list[int], offset: float, itemsize: int) -> int:
    """Bytes that the header promises; refused before anything of that size is allocated."""
    if not dims or min(dims) < 1 or not math.isfinite(offset):
        raise BadInput(f"1 to 7 dimensions above zero in {path.name}", f"{dims}", "Its header is damaged.")
    size = int(offset) + math.prod(dims) * itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if size > memory // 2:
        raise BadInput(
            f"an image of at most half the memory ({memory >> 31} GiB) in {path.name}",
            f"dimensions {dims}: {size / 2**30:.3g} GiB",
            "Its header is damaged, or it needs a larger machine.",
        )
    return size


def _check_header(path: Path, raw: bytes, loaded: Any, notes: list[str]) -> bool:
    """The header as stored, since nibabel mends it silently. Returns whether it defines a world."""
    header = _nifti_class(raw).header_class.from_fileobj(BytesIO(raw), check=False)
    spacing = header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]
    if not (np.isfinite(spacing).all() and (spacing != 0).all()):
        raise BadInput(f"voxel sizes above zero in {path.name}", f"{spacing.tolist()} mm", "Mend pixdim in its header.")
    slope = float(header["scl_slope"])
    if slope == 0 or not math.isfinite(slope):
        _log.info("%s: scl_slope is %s, values are taken unscaled", path.name, slope)
    q, s = int(header["qform_code"]), int(header["sform_code"])
    if q > 0 and s > 0:
        image = Grid(tuple(loaded.shape[:3]), loaded.get_sform())
        if not _same(image, Grid(image.shape, loaded.get_qform())):
            notes.append("qform and sform disagree: the sform is used")
    if q <= 0 and s <= 0:
        notes.append("no world space: qform and sform codes are 0, so left and right are unknown")
        return False
    return True


def _same(a: Grid, b: Grid) -> bool:
    """Within a tenth of a voxel at every corner."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in (*a.shape, 1, 1)[:3]), indexing="ij")).reshape(3, -1)
    off = (a.affine - b.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.linalg.norm(off[:3], axis=0).max() < 0.1 * min(a.spacing))


def write(path: Path, volume: Volume) -> Path:
    """One channel as (i, j, k), several as (i, j, k, c); integers stay integers."""
    data = volume.data if volume.data.ndim == 4 else volume.data[..., None]
    data = data[0] if len(data) == 1 else np.moveaxis(data, 0, 3)
    image = nib.Nifti1Image(data, volume.affine)
    code = 1 if volume.has_world else 0
    image.set_sform(volume.affine, code)
    image.set_qform(volume.affine, code)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    return put(path, gzip.compress(content, 3, mtime=0) if path.suffix == ".gz" else content)
