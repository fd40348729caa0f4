"""A series as a Volume: values as the headers scale them, strictly through highdicom."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Array
from radiolucent.io.dicom.files import choose, counted, dataset, guarded, library
from radiolucent.io.dicom.planes import LPS, Stack, planes, stack
from radiolucent.io.image import grey_or_colour
from radiolucent.io.kinds import check_size
from radiolucent.volume import Volume

_log = logging.getLogger("radiolucent")

_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_MEASURED = ("CT", "PT")  # their numbers are quantities: never inverted for display
_PET_UNITS = ("BQML", "CNTS", "GML", "PROPCNTS", "PROPCPS", "CPS", "STDDEV")
# What adds a decoder, by the end of the transfer syntax's UID.
_PACKAGES = (
    (r"4\.(50|51|57|70)", "python-gdcm (or pylibjpeg and pylibjpeg-libjpeg)"),
    (r"4\.(80|81)", "pyjpegls"),
    (r"4\.(90|91|92|93|201|202|203)", "pylibjpeg and pylibjpeg-openjpeg"),
)


def headers(path: Path, series: str | None = None) -> list[Any]:
    """The series' datasets without pixels, as the writers of maps take them."""
    return [dataset(file, pixels=False) for file in choose(path, series)[0]]


def read(path: Path, frame: int | str | None, colour: str = "refuse", series: str | None = None) -> Volume:
    """A series (folder), an Enhanced multi-frame image or a 2D image (file) as float32 on its own grid.

    Values are rescaled slice by slice (slope and intercept, or the modality's table); windows are not
    applied. MONOCHROME1 (low is bright) is inverted, except for CT and PET, whose numbers are quantities.
    """
    files, notes = choose(path, series)
    datasets = [dataset(file, pixels=True) for file in files]
    volume = volume_of(path, datasets, frame, colour)
    notes += _notes(datasets[0])
    for note in notes:
        warnings.warn(f"{path.name}: {note}", InputWarning, stacklevel=3)
    return volume.noted(*notes)


def volume_of(path: Path, datasets: Sequence[Any], frame: int | str | None = None, colour: str = "refuse") -> Volume:
    """The images of one series as a Volume; the path serves for messages."""
    name = path.name
    if len(datasets) > 1 and any("PerFrameFunctionalGroupsSequence" in d or _frames(d) > 1 for d in datasets):
        raise BadInput(f"one multi-frame image in {name}", f"{len(datasets)} images in the series", "Give one file.")
    count = _frames(datasets[0])
    placed = planes(datasets)
    _check_pixels(path, datasets, max(count, len(datasets)))
    if count > 1 and (len(placed) != count or all(p.position is None for p in placed)):
        return _single(name, datasets[0], stack(name, placed[:1]), _which(name, count, frame), colour)
    _which(name, 1, frame)
    if len(placed) == 1:
        return _single(name, datasets[0], stack(name, placed), 0, colour)
    return _several(name, datasets, stack(name, placed))


def _frames(item: Any) -> int:
    with guarded("a number of frames", "The header is damaged."):
        return int(item.get("NumberOfFrames") or 1)


def _which(name: str, count: int, frame: int | str | None) -> int:
    """The frame to take of a stack of pictures without a place in space (ultrasound, angiography)."""
    if count == 1 and frame in (None, 0, "channels"):
        return 0
    if not isinstance(frame, int) or not 0 <= frame < count:
        do = f"Choose one: --frame 0 to --frame {count - 1}." if count > 1 else "Leave --frame out."
        got = f"{count} without a place in space" if frame is None else f"frame {frame} of {count}"
        raise BadInput(f"one image in {name}", got, do)
    return frame


def _several(name: str, datasets: Sequence[Any], place: Stack) -> Volume:
    """(1, columns, rows, slices), read and assembled by highdicom, whose geometry must agree with ours."""
    highdicom = library("highdicom")
    first = datasets[0]
    with guarded(f"a volume that highdicom can build from {name}", _advice(first)):
        if _colourful(first):
            raise BadInput(f"grey images in {name}", "a stack of colour images", "Give one of them, as a 2D image.")
        how = {"dtype": np.float32, "rtol": 0.25, "perpendicular_tol": 0.02, **_transform(first)}  # ours are stricter: see planes
        if "PerFrameFunctionalGroupsSequence" in first:
            built = highdicom.Image.from_dataset(first, copy=False).get_volume(**how)
        else:
            for item in datasets:  # rounded differently from slice to slice, within our tolerance
                item.ImageOrientationPatient = first.ImageOrientationPatient
                item.PixelSpacing = first.PixelSpacing
                item.FrameOfReferenceUID = item.get("FrameOfReferenceUID") or first.SeriesInstanceUID
            built = highdicom.get_volume_from_series(datasets, **how)
    data, affine = built.array, LPS @ built.affine
    if affine[:3, 0] @ place.grid.affine[:3, 2] < 0:  # its slices run against the normal
        affine = affine @ np.array([[-1.0, 0, 0, len(data) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        data = data[::-1]
    off = np.linalg.inv(place.grid.affine) @ affine[:, [2, 1, 0, 3]] - np.eye(4)
    if data.shape[::-1] != place.grid.shape or (np.abs(off[:3]) @ [*place.grid.shape, 1]).max() > 0.2:
        raise BadInput(f"a clear geometry in {name}", "headers that can be read in two ways", "Export the series again.")
    return Volume(data.T[None], place.grid.affine, place.has_world)


def _single(name: str, item: Any, place: Stack, frame: int, colour: str) -> Volume:
    """One plane as (channels, rows, columns); colour as for other 2D images."""
    highdicom = library("highdicom")
    with guarded(f"an image that can be decoded in {name}", _advice(item)):
        colourful = _colourful(item)
        if colourful:
            data = _rgb(item, frame)
        elif item.get("ImagePositionPatient"):
            item.FrameOfReferenceUID = item.get("FrameOfReferenceUID") or item.SeriesInstanceUID
            data = highdicom.get_volume_from_series([item], dtype=np.float32, **_transform(item)).array[0]
        else:
            image = highdicom.Image.from_dataset(item, copy=False)
            how = {"dtype": np.float32, **_transform(item)}
            data = image.get_volume(**how).array[0] if place.has_world else image.get_frame(frame + 1, **how)
    notes: tuple[str, ...] = ()
    if colourful:
        data, notes = grey_or_colour(name, Image.fromarray(data), colour)
    else:
        data = data[None]
    return Volume(data, place.grid.affine, place.has_world, notes)


def _colourful(item: Any) -> bool:
    return int(item.get("SamplesPerPixel", 1)) > 1 or item.get("PhotometricInterpretation") == "PALETTE COLOR"


def _rgb(item: Any, frame: int) -> Array:
    pixels = library("pydicom.pixels")
    data = pixels.pixel_array(item, index=frame)
    if item.PhotometricInterpretation == "PALETTE COLOR":
        data = pixels.apply_color_lut(data, item)
        data = (data >> 8).astype(np.uint8) if data.dtype == np.uint16 else data
    if data.dtype != np.uint8:
        raise BadInput("8 bits per colour", f"{8 * data.dtype.itemsize} bits", "Save it as a grey image of 16 bits.")
    return data[..., :3]


def _transform(item: Any) -> dict[str, Any]:
    """Which of the headers' transforms of values are applied."""
    is_map = item.get("SOPClassUID") == _PARAMETRIC_MAP
    return {
        # Scanners add real-world maps beside the slope; converters to NIfTI, and so models, go by the slope.
        "apply_real_world_transform": None if is_map else False,
        "apply_modality_transform": False if is_map else None,
        "apply_presentation_lut": item.get("Modality") not in _MEASURED,
    }


def _notes(item: Any) -> list[str]:
    notes = []
    with guarded("plain values in the headers", "The headers are damaged."):
        if item.get("PhotometricInterpretation") == "MONOCHROME1":
            done = "kept, since they are measurements" if item.get("Modality") in _MEASURED else "inverted, so that high is bright"
            notes.append(f"stored with low values as bright (MONOCHROME1): the values were {done}")
        if item.get("Modality") == "PT":
            units = item.get("Units") if item.get("Units") in _PET_UNITS else "unknown units"
            notes.append(f"the PET's values are in {units} as stored; no uptake value (SUV) was computed")
    return notes


def _check_pixels(path: Path, datasets: Sequence[Any], count: int) -> None:
    """Refuse, before anything is decoded: too large, truncated, no decoder, a slope of zero."""
    name = path.name
    with guarded(f"an image's size and type in the headers of {name}", "They are damaged: export the series again."):
        first = datasets[0]
        # 12 bytes each while reading: stored, decoded, scaled, stacked
        voxels = count * int(first.Rows) * int(first.Columns) * int(first.get("SamplesPerPixel", 1))
        if voxels < 1:
            raise BadInput(f"rows and columns in {name}", "none", "Export the series again.")
        check_size(path, voxels * 12, f"{first.Rows} rows, {first.Columns} columns and {count} images")
        _alike_kinds(name, datasets)
        for item in datasets:
            _check_decoder(name, item)
            _check_length(name, item)
            slope = item.get("RescaleSlope", 1)
            if slope is not None and (float(slope) == 0 or not math.isfinite(float(slope))):
                raise BadInput(f"rescale slopes other than zero in {name}", f"{float(slope)}", "Export the series again.")


def _alike_kinds(name: str, datasets: Sequence[Any]) -> None:
    kinds = [f"{d.get('PhotometricInterpretation')}"[:16].strip() for d in datasets]
    if len(set(kinds)) > 1:
        known = [k if re.fullmatch(r"MONOCHROME[12]|RGB|YBR_\w+|PALETTE COLOR", k) else "another" for k in kinds]
        raise BadInput(f"one kind of pixels in {name}", counted(known), "Move the images that do not belong out of the folder.")


def _check_decoder(name: str, item: Any) -> None:
    syntax = item.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    try:
        available = library("pydicom.pixels").get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        known = syntax.name if syntax.name != str(syntax) else "an unknown compression"
        raise BadInput(f"pixels that can be decoded in {name}", known, _advice(item))


def _check_length(name: str, item: Any) -> None:
    if item.file_meta.TransferSyntaxUID.is_encapsulated or int(item.get("SamplesPerPixel", 1)) > 1:
        return
    needed = int(item.Rows) * int(item.Columns) * _frames(item) * int(item.BitsAllocated) // 8
    held = max((len(item[key].value) for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if key in item), default=0)
    if held < needed:
        raise BadInput(f"{needed} bytes of pixels in each image of {name}", f"{held}", "It is truncated: copy it again.")


def _advice(item: Any) -> str:
    """What to do where pixels cannot be decoded."""
    syntax = str(item.file_meta.get("TransferSyntaxUID", ""))
    for pattern, packages in _PACKAGES:
        if re.fullmatch(rf"1\.2\.840\.10008\.1\.2\.{pattern}", syntax):
            return f"Install {packages}, or unpack the files first, for example with gdcmconv --raw."
    return "Unpack the files first, for example with gdcmconv --raw."
