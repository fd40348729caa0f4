"""Small DICOM series whose geometry and values are known, written with pydicom alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME, ID = "Mustermann^Erika", "PID-4711"
AXIAL = (1.0, 0, 0, 0, 1, 0)
STORAGE = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
}


def oblique() -> tuple[float, ...]:
    """Row and column directions of a plane turned about two axes, rounded as scanners write them."""
    a, b = np.radians(20), np.radians(-35)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return tuple(float(f"{v:.6f}") for v in (*turn[:, 0], *turn[:, 1]))


def images(
    stored: np.ndarray,
    *,
    modality: str = "CT",
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-50.0, -60.0, 70.0),
    spacing: tuple[float, float] = (0.8, 0.6),
    step: float = 2.5,
    slopes: Sequence[float] | None = None,
    intercept: float = -1024.0,
) -> list[Dataset]:
    """One dataset per slice of `stored` (slices, rows, columns), stacked along the normal of the plane."""
    normal = np.cross(orientation[:3], orientation[3:])
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    found = []
    for k, pixels in enumerate(stored):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = STORAGE[modality]
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
        item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = NAME, ID, "19640812", "F"
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.StudyDate, item.StudyTime, item.StudyID, item.AccessionNumber = "20240102", "101112", "S1", "A1"
        item.ReferringPhysicianName = "Arzt^Anton"
        item.Modality, item.InstanceNumber = modality, k + 1
        item.ImageOrientationPatient = list(orientation)
        item.ImagePositionPatient = [float(f"{v:.6f}") for v in np.array(origin) + k * step * normal]
        item.PixelSpacing, item.SliceThickness = list(spacing), step
        item.Rows, item.Columns = pixels.shape
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        item.RescaleSlope, item.RescaleIntercept = (slopes[k] if slopes else 1.0), intercept
        item.PixelData = pixels.astype("<u2").tobytes()
        found.append(item)
    return found


def write(folder: Path, datasets: Sequence[Dataset], change: Callable[[list[Dataset]], None] | None = None) -> Path:
    """Files in an order that says nothing about the slices, half of them without a suffix."""
    folder.mkdir(exist_ok=True)
    datasets = list(datasets)
    if change:
        change(datasets)
    for number, item in enumerate(datasets):
        name = f"{(number * 7919) % 1009:04d}" + (".dcm" if number % 2 else "")
        item.save_as(folder / name, enforce_file_format=True)
    return folder


def enhanced(datasets: Sequence[Dataset]) -> Dataset:
    """The same slices as one Enhanced MR file, its geometry per frame, in a scrambled order of frames."""
    order = np.random.default_rng(3).permutation(len(datasets))
    first = datasets[0]
    item = Dataset()
    item.update({e.tag: e for e in first if e.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                "SliceThickness", "RescaleSlope", "RescaleIntercept", "PixelData", "SOPClassUID", "SOPInstanceUID")})  # fmt: skip
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.NumberOfFrames, item.PixelData = len(datasets), b"".join(datasets[i].PixelData for i in order)
    organisation = generate_uid()
    index = Dataset()
    index.DimensionOrganizationUID, index.DimensionIndexPointer, index.FunctionalGroupPointer = organisation, 0x00200032, 0x00209113
    item.DimensionIndexSequence = [index]
    item.DimensionOrganizationSequence = [Dataset()]
    item.DimensionOrganizationSequence[0].DimensionOrganizationUID = organisation
    item.SharedFunctionalGroupsSequence = [Dataset()]
    frames = []
    for i in order:
        frame = Dataset()
        for sequence, keywords in {
            "PlanePositionSequence": ["ImagePositionPatient"],
            "PlaneOrientationSequence": ["ImageOrientationPatient"],
            "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness"],
            "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
        }.items():
            group = Dataset()
            for keyword in keywords:
                setattr(group, keyword, datasets[i][keyword].value)
            setattr(frame, sequence, [group])
        frame.PixelValueTransformationSequence[0].RescaleType = "US"
        frame.FrameContentSequence = [Dataset()]
        frame.FrameContentSequence[0].DimensionIndexValues = [int(i) + 1]
        frames.append(frame)
    item.PerFrameFunctionalGroupsSequence = frames
    return item


def everything(path: Path) -> str:
    """All that a DICOM file says, as text."""
    return str(pydicom.dcmread(path))
