"""The series that a map refers to, and a map's frames in that series' order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.io.dicom.files import guarded, library
from radiolucent.io.dicom.pixels import headers
from radiolucent.io.dicom.planes import Stack, planes, stack
from radiolucent.version import VERSION
from radiolucent.volume import Volume

_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Headers of one series, ready for highdicom: classic images in the order of their slices, or one multi-frame."""

    images: tuple[Any, ...]
    stack: Stack

    @classmethod
    def of(cls, given: str | Path | Sequence[Any], series: str | None = None) -> Source:
        """From a series folder, a file, or datasets (which are not changed)."""
        library("highdicom")
        if isinstance(given, (str, Path)):
            images, name = headers(Path(given), series), Path(given).name
        else:
            images, name = [copy.deepcopy(item) for item in given], "the source datasets"
        if not images:
            raise BadInput("a source series", "no dataset", "Give its folder.")
        place = stack(name, planes(images))
        with guarded(
            f"a study, a series and an instance UID in every header of {name}", "A map needs them to refer to its source."
        ):
            multiframe = "PerFrameFunctionalGroupsSequence" in images[0]
            _mend(images, place)
            for item in images:
                _ = item.StudyInstanceUID, item.SeriesInstanceUID, item.SOPInstanceUID, item.SOPClassUID
        return cls(tuple(images if multiframe else [images[i] for i in place.order]), place)

    def frames(self, volume: Volume) -> Array:
        """A map's (frames, rows, columns), in the order of the source's images or frames."""
        if len(volume.data) != 1:
            raise BadInput("one channel for a DICOM map", f"{len(volume.data)}", "Write the channels one by one.")
        ours = self.stack.grid
        same = volume.grid == ours if self.stack.has_world else volume.grid.shape == ours.shape
        if not same:
            raise BadInput(f"a map on its source's grid ({ours})", f"{volume.grid}", "Resample it with `.on(grid)` first.")
        if volume.data.ndim == 3:
            return np.ascontiguousarray(volume.data)
        slices = volume.data[0].transpose(2, 1, 0)
        if len(self.images) > 1:
            return np.ascontiguousarray(slices)
        ranks = np.empty(len(slices), int)
        ranks[list(self.stack.order)] = np.arange(len(slices))
        return np.ascontiguousarray(slices[ranks])

    def identity(self, number: int, device: str, series_description: str) -> dict[str, Any]:
        """What is common to both kinds of object. A UID in each, since each is a series of its own."""
        highdicom = library("highdicom")
        return {
            "source_images": self.images,
            "series_instance_uid": highdicom.UID(),
            "sop_instance_uid": highdicom.UID(),
            "series_number": 9000 + number,
            "instance_number": 1,
            "manufacturer": "Radiolucent",
            "manufacturer_model_name": "Radiolucent",
            "software_versions": VERSION,
            "device_serial_number": device or "unknown",
            "series_description": text(series_description),
            "specific_character_set": "ISO_IR 192",  # UTF-8: names of classes come in all scripts
        }


def _mend(images: Sequence[Any], place: Stack) -> None:
    """Allow what anonymised or rounded headers lack or vary, within what `stack` found to be one grid."""
    first = images[0]
    for item in images:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in item:
                setattr(item, keyword, None)
        if "PerFrameFunctionalGroupsSequence" in item:
            shared, frame = item.SharedFunctionalGroupsSequence[0], item.PerFrameFunctionalGroupsSequence[0]
            for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
                if name not in shared:
                    setattr(shared, name, frame[name].value)
        elif place.has_world:
            item.ImageOrientationPatient = first.ImageOrientationPatient
            item.PixelSpacing = first.PixelSpacing
            if not item.get("SliceThickness"):
                item.SliceThickness = float(f"{np.linalg.norm(place.grid.affine[:3, 2]):.6g}")
    if place.has_world and not first.get("FrameOfReferenceUID"):
        raise BadInput("a frame of reference in the source's headers", "none", "A map cannot refer to a place without one.")


def text(value: str) -> str:
    """At most 64 characters, as the standard allows, without those that it gives a meaning."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in value)[:64].strip()


def content(item: Any) -> bytes:
    """An object as the bytes of its file."""
    buffer = BytesIO()
    item.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
