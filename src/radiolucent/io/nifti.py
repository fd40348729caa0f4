"""NIfTI and FreeSurfer volumes through nibabel, read to their last byte before they are believed."""

from __future__ import annotations

import gzip
import logging
import math
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
from radiolucent.io.kinds import check_size, kind_of
from radiolucent.volume import Volume

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
_SLACK = 1 << 20
_log = logging.getLogger("radiolucent")


def read(path: Path, frame: int | str | None, *, labels: bool = False) -> Volume:
    """The image on its file's grid, scaled as its header says, as float32; `labels` as float64, so that they stay exact."""
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
        with np.errstate(all="ignore"):  # what overflows becomes infinite, and io refuses that
            data = _frame(path, np.asanyarray(loaded.dataobj), frame).astype(np.float64 if labels else np.float32)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"a readable image in {path.name}", f"{error}", "Copy or convert the file again.") from None
    affine = np.array(loaded.affine, np.float64)
    notes: list[str] = []
    if mgh:
        has_world = int.from_bytes(raw[28:30], "big") == 1  # goodRASFlag
        notes += [] if has_world else ["no world space: its goodRASFlag is not set, so left and right are unknown"]
    else:
        has_world = _check_header(path, raw, loaded, notes)
        affine[:3] *= _millimetres(raw, notes)
    try:
        volume = Volume(data, affine, has_world, tuple(notes))
    except BadInput as error:
        raise BadInput(f"{error.expected} in {path.name}", error.got, error.do) from None
    for note in notes:
        warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=3)
    return _straight(path, volume, labels)


def _frame(path: Path, data: Any, frame: int | str | None) -> Any:
    """(i, j, k[, t]) -> (c, i, j, k)."""
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 5 and data.shape[3] == 1:  # NIfTI vectors: x, y, z, 1, channels
        data = data[:, :, :, 0]
    if data.ndim < 3:
        data = data.reshape(data.shape + (1,) * (3 - data.ndim))
    if data.ndim == 3:
        if frame not in (None, 0, "channels"):
            raise BadInput(f"frame 0, the only one in {path.name}", f"frame {frame}", "Leave --frame out.")
        return data[None]
    if data.ndim == 4 and frame == "channels":
        return np.moveaxis(data, 3, 0)
    if data.ndim == 4 and isinstance(frame, int) and 0 <= frame < data.shape[3]:
        return data[None, ..., frame]
    raise BadInput(
        f"a 3D image in {path.name}",
        f"{data.ndim}D data of shape {data.shape}" + (f" and frame {frame}" if frame is not None else ""),
        f"Choose one image: --frame 0 to --frame {data.shape[-1] - 1}, or --frame channels for a model that takes them all."
        if data.ndim == 4
        else "Save one image per file.",
    )


def _straight(path: Path, volume: Volume, labels: bool) -> Volume:
    """A sheared grid (tilted gantry, registration) does not open in most viewers: resample it once, here."""
    if geometry.shear(volume.affine) < 1e-3:
        return volume
    note = f"the grid is sheared: resampled to {geometry.orthonormalise(volume.grid)}"
    warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=4)
    return volume.on(geometry.orthonormalise(volume.grid), nearest=labels).noted(note)


def _content(path: Path, size: Callable[[Path, bytes], int]) -> bytes:
    """All bytes of the file, unpacked, after checking that they are as many as its header promises."""
    packed = path.suffix.lower() in (".gz", ".mgz")
    try:
        with path.open("rb") as plain:
            start = plain.read(1024)
        if packed and start[:2] != b"\x1f\x8b":
            raise BadInput(f"gzip data in {path.name}", kind_of(start), "Rename or pack it.")
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(1024)
            promised = size(path, head)
            parts, left = [head], promised + _SLACK - len(head)
            while left > 0 and (part := file.read(min(left, 1 << 22))):  # in parts: the header's word is no reason to allocate
                parts.append(part)
                left -= len(part)
            if packed and file.read(1):
                raise BadInput(
                    f"at most {promised} bytes in {path.name}, as its header says", "more", "Damaged, or made to fill your memory."
                )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"a whole gzip file in {path.name}", f"{error}", "It is truncated or damaged: copy it again.") from None
    except OSError as error:
        raise BadInput(f"a file that can be read at {path}", str(error), "Check its permissions and its disk.") from None
    body = b"".join(parts)
    if len(body) < promised:
        raise BadInput(f"{promised} bytes of image in {path.name}", f"{len(body)}", "It is truncated: copy it again.")
    return body


def _nifti_class(raw: bytes) -> Any:
    return nib.Nifti2Image if 540 in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")) else nib.Nifti1Image


def _header(raw: bytes) -> Any:
    """The header as stored (nibabel mends some errors in it without a word), without extensions."""
    kind = _nifti_class(raw).header_class
    return kind(raw[: kind.sizeof_hdr], check=False)


def _nifti_size(path: Path, head: bytes) -> int:
    try:
        header = _header(head)
        if header["sizeof_hdr"] not in (348, 540):
            raise ValueError(f"its header claims {header['sizeof_hdr']} bytes")
        dims = [int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1]]
        offset = float(header["vox_offset"])
    except Exception:
        raise BadInput(f"a NIfTI header in {path.name}", kind_of(head), "Is it another kind of file?") from None
    try:
        itemsize = header.get_data_dtype().itemsize
    except Exception:
        raise BadInput(f"voxels of a known type in {path.name}", f"code {header['datatype']}", "Its header is damaged.") from None
    if not 0 <= offset < math.inf:
        raise BadInput(f"an offset of the voxels (vox_offset) in {path.name}", f"{offset}", "Its header is damaged.")
    return _promised(path, dims if header["dim"][0] <= 7 else [], int(offset), itemsize)


def _mgh_size(path: Path, head: bytes) -> int:
    try:
        header: Any = nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(head), check=True)
        dims, itemsize = [int(n) for n in header["dims"]], header.get_data_dtype().itemsize
    except Exception:
        raise BadInput(f"an MGH header in {path.name}", kind_of(head), "Is it another kind of file, or damaged?") from None
    return _promised(path, dims, 284, itemsize)


def _promised(path: Path, dims: list[int], offset: int, itemsize: int) -> int:
    """Bytes that the header promises; refused before anything of that size is allocated."""
    if not dims or min(dims) < 1:
        raise BadInput(f"1 to 7 dimensions above zero in {path.name}", f"{dims}", "Its header is damaged.")
    size = offset + math.prod(dims) * itemsize
    check_size(path, size, f"dimensions {dims}")
    return size


def _check_header(path: Path, raw: bytes, loaded: Any, notes: list[str]) -> bool:
    """Whether the header defines a world; refuses what nibabel would mend silently."""
    header = _header(raw)
    spacing = header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]
    if not (np.isfinite(spacing).all() and (spacing != 0).all()):
        raise BadInput(f"voxel sizes above zero in {path.name}", f"{spacing.tolist()} mm", "Mend pixdim in its header.")
    slope = float(header["scl_slope"])
    if slope == 0 or not math.isfinite(slope):
        _log.info("%s: scl_slope is %s, values are taken unscaled", path.name, slope)
    q, s = int(loaded.header["qform_code"]), int(loaded.header["sform_code"])  # unknown codes count as 0
    if q > 0 and s > 0:
        image = Grid(tuple(loaded.shape[:3]), loaded.get_sform())
        try:
            agree = _same(image, Grid(image.shape, loaded.get_qform()))
            notes += [] if agree else ["qform and sform disagree: the sform is used"]
        except Exception:  # nibabel's, for an impossible quaternion
            notes.append("the qform is damaged: the sform is used")
    if q <= 0 and s <= 0:
        notes.append("no world space: qform and sform codes are 0, so left and right are unknown")
        return False
    return True


def _millimetres(raw: bytes, notes: list[str]) -> float:
    """Factor from the header's unit of length to mm; where it names none it is mm, as everywhere."""
    unit, factor = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}.get(int(_header(raw)["xyzt_units"]) % 8, ("mm", 1.0))
    if factor != 1:
        notes.append(f"its sizes are in {unit}: converted to mm")
    return factor


def _same(a: Grid, b: Grid) -> bool:
    """Within a tenth of a voxel at every corner."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in (*a.shape, 1, 1)[:3]), indexing="ij")).reshape(3, -1)
    off = (a.affine - b.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.linalg.norm(off[:3], axis=0).max() < 0.1 * min(a.spacing))


def write(path: Path, volume: Volume) -> Path:
    """One channel as (i, j, k), several as (i, j, k, c); integers stay integers."""
    content = to_bytes(volume)
    return put(path, gzip.compress(content, 3, mtime=0) if path.suffix.lower() == ".gz" else content)


def to_bytes(volume: Volume) -> bytes:
    """The file's content, unpacked: a fresh header with equal qform and sform, codes 0 where there is no world."""
    data = volume.data if volume.data.ndim == 4 else volume.data[..., None]
    data = _storable(data[0] if len(data) == 1 else np.moveaxis(data, 0, 3))
    image = (nib.Nifti1Image if max(data.shape) < 1 << 15 else nib.Nifti2Image)(data, volume.affine)
    code = 1 if volume.has_world else 0
    image.set_sform(volume.affine, code)
    image.set_qform(volume.affine, code if geometry.shear(volume.affine) < 1e-3 else 0)  # which cannot hold shear
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _storable(data: Any) -> Any:
    """The same values in a type that NIfTI and its readers know."""
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        if max(-int(data.min()), int(data.max())) >= 1 << 31:
            raise BadInput("integers below 2^31 in size for NIfTI", f"{data.min()} to {data.max()}", "Convert them to float64.")
        return data.astype(np.int32)
    other = {"bool": np.uint8, "float16": np.float32, "longdouble": np.float64, "float128": np.float64}.get(data.dtype.name)
    return data.astype(other) if other else data
