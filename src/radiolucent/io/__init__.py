"""Files in and out. The suffix decides the reader; everything comes out as a Volume.

Whatever is wrong with a file is said here, before any of it is used (docs: bad inputs).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from radiolucent.errors import BadInput, InputWarning
from radiolucent.io import arrays, dicom, image, nifti
from radiolucent.io.atomic import check_writable, new_folder, no_room, put
from radiolucent.io.dicom import Source as DicomSource
from radiolucent.io.dicom import is_dicom, write_parametric_map, write_segmentation
from radiolucent.io.kinds import kind_of, usable
from radiolucent.io.nifti import to_bytes as to_nifti
from radiolucent.volume import Volume

SUFFIXES = (*nifti.SUFFIXES, *arrays.SUFFIXES, *image.SUFFIXES, *dicom.SUFFIXES)


def suffix(path: Path) -> str:
    """The file's kind: its last suffix, or the last two for .nii.gz, in lower case."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """A case's name: the file's without its suffix, or the folder's (of a DICOM series)."""
    if path.is_dir():
        return path.resolve().name
    known = suffix(path) if suffix(path) in SUFFIXES else ""  # 1.2.840.5 is a DICOM file's name, not one that ends in .5
    return path.name[: len(path.name) - len(known)]


def read(
    path: str | Path,
    *,
    frame: int | Literal["channels"] | None = None,
    nonfinite: Literal["refuse", "zero"] = "refuse",
    colour: Literal["refuse", "grey", "channels"] = "refuse",
    series: str | None = None,
) -> Volume:
    """An image as a float32 Volume on the grid of its file.

    NIfTI (.nii, .nii.gz), FreeSurfer (.mgz, .mgh), arrays (.npy, .npz), 2D images (PNG, JPEG, TIFF), and
    DICOM: the folder of a series, an Enhanced multi-frame file or a 2D image (any suffix or none).

    Args:
        frame: which image of a 4D file or of a stack, from 0; "channels" takes them all as channels.
        nonfinite: what happens to NaN and infinity: "refuse", or "zero" replaces them and notes how many.
        colour: what happens to a colour image: "refuse", "grey" (ITU-R 601 luma) or "channels".
        series: the SeriesInstanceUID to take, where a folder holds several DICOM series.

    Raises:
        BadInput: the file is missing, damaged, or holds something else than an image.
    """
    for given, known in ((nonfinite, ("refuse", "zero")), (colour, ("refuse", "grey", "channels"))):
        if given not in known:
            raise BadInput(f"one of {', '.join(known)}", repr(given), "Correct the option.")
    path = _existing(Path(path))
    kind = suffix(path)
    if dicom.is_dicom(path):
        volume = dicom.read(path, frame, colour, series)
    elif series is not None:
        raise BadInput("a DICOM series, of which one is chosen by its UID", path.name, "Leave `series` out.")
    elif kind in nifti.SUFFIXES:
        volume = nifti.read(path, frame)
    elif kind in arrays.SUFFIXES:
        volume = arrays.read(path, frame)
    else:
        volume = image.read(path, frame, colour)
    return _finite(volume, path, nonfinite)


def read_channels(path: str | Path, channels: int, **how: Any) -> Volume:
    """As `read`; of a file case_0000.nii.gz also the channels case_0001.nii.gz, ... beside it, as nnU-Net keeps them."""
    path = Path(path)
    name, kind = stem(path), path.name[len(stem(path)) :]
    first = read(path, **how)
    if channels == 1 or len(first.data) > 1 or not name.endswith("_0000"):
        return first
    volumes = [first]
    for number in range(1, channels):
        other = path.with_name(f"{name.removesuffix('0000')}{number:04d}{kind}")
        volumes.append(read(other, **how))
        if volumes[-1].grid != first.grid or len(volumes[-1].data) != 1:
            raise BadInput(f"one channel on the grid of {path.name} in {other.name}", f"{volumes[-1]}", "Resample it to the first.")
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    return Volume(np.concatenate([v.data for v in volumes]), first.affine, first.has_world, tuple(notes))


def read_labels(path: str | Path) -> Volume:
    """A label image as an int32 Volume (1, *grid); values that are not whole numbers are refused."""
    path = _existing(Path(path))
    if dicom.is_dicom(path):
        raise BadInput("labels as NIfTI, an array or an image", f"DICOM at {path}", "Convert them, for example with dcmqi.")
    kind = suffix(path)
    reader = nifti.read if kind in nifti.SUFFIXES else arrays.read if kind in arrays.SUFFIXES else image.read
    volume = reader(path, None, labels=True)
    data = volume.data
    broken = np.unique(data[(data != np.round(data)) | ~np.isfinite(data)])[:5]
    if len(broken) or np.abs(data).max() >= 2**31:
        raise BadInput(
            f"whole numbers as labels in {path.name}",
            f"values such as {', '.join(f'{v:g}' for v in broken)}" if len(broken) else "values above 2^31",
            "Was it interpolated? Resample labels with nearest neighbour.",
        )
    return Volume(data.astype(np.int32), volume.affine, volume.has_world, volume.notes)


def write(path: str | Path, volume: Volume) -> Path:
    """Write a Volume as .nii, .nii.gz (any volume) or .tiff (one channel, 2D), whole or not at all.

    The header is fresh (no text or extension of any input goes into it), qform and sform are equal.

    Raises:
        BadInput: another suffix, or no path and volume in this order.
    """
    if not isinstance(path, str | Path) or not isinstance(volume, Volume):
        got = f"{type(path).__name__} and {type(volume).__name__}"
        raise BadInput("a path, then a Volume", got, "write(path, volume); an array becomes one by Volume(array).")
    path = Path(path)
    if suffix(path) in (".nii", ".nii.gz"):
        return nifti.write(path, volume)
    if suffix(path) in (".tif", ".tiff"):
        return image.write(path, volume)
    raise BadInput("a name that ends in .nii, .nii.gz or .tiff", path.name, "Change the suffix.")


def _existing(path: Path) -> Path:
    path = usable(path)
    if path.is_dir():
        return path
    if not path.is_file():
        raise BadInput(f"a file at {path}", "a device or pipe" if path.exists() else "nothing there", "Check the path.")
    kind = suffix(path)
    if kind not in SUFFIXES and not dicom.is_dicom(path):
        raise BadInput(f"a file that ends in one of {', '.join(SUFFIXES)}", path.name, "Convert it, for example with nibabel.")
    if path.stat().st_size == 0:
        raise BadInput(f"an image in {path.name}", "an empty file (0 bytes)", "Copy the file again.")
    if kind in dicom.SUFFIXES and not dicom.is_dicom(path):
        with path.open("rb") as file:
            raise BadInput(f"DICOM data in {path.name}", kind_of(file.read(512)), "Is it another kind of file, or damaged?")
    return path


def _finite(volume: Volume, path: Path, nonfinite: str) -> Volume:
    data, notes = volume.data, []
    bad = int(data.size - np.isfinite(data).sum())
    if bad and nonfinite == "refuse":
        raise BadInput(
            f"finite voxels in {path.name}",
            f"{bad} voxels that are NaN or infinite",
            "Mend the file, or replace them by 0: --nonfinite zero.",
        )
    if bad:
        data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
        notes.append(f"{bad} voxels that were NaN or infinite were replaced by 0")
    if data.min() == data.max():
        notes.append(f"the image is constant: every voxel is {data.flat[0]:g}")
    for note in notes:
        warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=3)
    return Volume(data, volume.affine, volume.has_world, (*volume.notes, *notes))


__all__ = [
    "SUFFIXES", "DicomSource", "check_writable", "is_dicom", "new_folder", "no_room", "put", "read", "read_channels", "read_labels",
    "stem", "suffix", "to_nifti", "usable", "write", "write_parametric_map", "write_segmentation",
]  # fmt: skip
