"""Regions as a DICOM Segmentation that refers to the series they lie on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.io.atomic import put
from radiolucent.io.dicom.files import guarded, library
from radiolucent.io.dicom.planes import planes
from radiolucent.io.dicom.source import Source, content, text
from radiolucent.version import VERSION
from radiolucent.volume import Volume


def write_segmentation(
    path: str | Path,
    labels: Volume,
    source: str | Path | Sequence[Any] | Source,
    *,
    names: Mapping[int, str],
    algorithm: str,
    description: str = "",
    device: str = "",
    number: int = 0,
) -> Path:
    """Write labelled voxels as a binary Segmentation, whole or not at all, read back before it takes its name.

    It refers to its source as `write_parametric_map` does, and like it **carries the patient's data**.

    Args:
        labels: one channel of whole numbers on the source's own grid; a mask is labels of 0 and 1.
        source: the series' folder, a file, its datasets, or a Source.
        names: label -> the segment's name (64 characters are kept); 0 is background.
        algorithm: what made the regions, such as "grad-cam, strongest 1 %".
        description, device, number: as for `write_parametric_map`.

    Raises:
        BadInput: a named label without a voxel, a label without a name, another grid than the source's.
    """
    source = source if isinstance(source, Source) else Source.of(source)
    highdicom, pydicom = library("highdicom"), library("pydicom")
    wanted = _numbered(labels, names)
    frames = source.frames(labels)
    segments = np.stack([frames == label for label in wanted], -1)
    with guarded("a source that a Segmentation can refer to", "Use the NIfTI map, or export the source again."):
        made = highdicom.seg.Segmentation(
            pixel_array=segments,
            segmentation_type="BINARY",
            segment_descriptions=[_segment(i + 1, names[label], algorithm) for i, label in enumerate(wanted)],
            content_label="SALIENCY",
            content_description=text(description) or None,
            **source.identity(number, device, algorithm),
        )
        raw = content(made)
        stored = _stored(pydicom.dcmread(BytesIO(raw)), source, segments.shape)
    if not np.array_equal(stored, segments):
        raise BadInput("regions that read back as they were written", "others", "Report this as a bug.")
    return put(Path(path), raw)


def _numbered(labels: Volume, names: Mapping[int, str]) -> list[int]:
    """The labels in order; each has a name and a voxel."""
    held = {int(v) for v in np.unique(labels.data)} - {0}
    if labels.data.dtype.kind not in "biu":
        raise BadInput("whole numbers as labels", f"dtype {labels.data.dtype}", "Convert them, for example with astype(int).")
    wanted = sorted(set(names) - {0})
    empty = [label for label in wanted if label not in held]
    if empty or not wanted:
        listed = ", ".join(f"{label} {names[label]}" for label in empty) or "no label at all"
        raise BadInput("a voxel in every region", f"none in {listed}", "An empty region is no finding: leave it out.")
    if held - set(wanted):
        raise BadInput("a name for every label", f"none for {sorted(held - set(wanted))[:5]}", "Add it to `names`.")
    return wanted


def _segment(number: int, name: str, algorithm: str) -> Any:
    highdicom, codes = library("highdicom"), library("pydicom.sr.codedict").codes
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=text(name) or f"region {number}",
        segmented_property_category=highdicom.sr.CodedConcept("309825002", "SCT", "Spatial and Relational Concept"),
        segmented_property_type=highdicom.sr.CodedConcept("relevant-region", "99RADIOLUCENT", "Region relevant to a model"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=text(algorithm), family=codes.DCM.ArtificialIntelligence, version=VERSION
        ),
    )


def _stored(made: Any, source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """The segments (frames, rows, columns, segments) as the written file places them: by position, not by order."""
    out = np.zeros(shape, bool)
    shared = made.SharedFunctionalGroupsSequence[0]
    pixels = np.asarray(made.pixel_array).reshape(-1, *shape[1:3])
    known = np.array([p.position for p in planes(source.images)]) if source.stack.has_world else None
    for pixel, place, item in zip(pixels, planes([made]), made.PerFrameFunctionalGroupsSequence, strict=True):
        frame = 0
        if known is not None and place.position is not None:
            far = np.linalg.norm(known - place.position, axis=1)
            frame = int(far.argmin())
            if far[frame] > 1e-3:
                raise BadInput("frames at the source's positions", f"one {far[frame]:.3g} mm off", "Report this as a bug.")
        which = item.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        out[frame, :, :, which[0].ReferencedSegmentNumber - 1] = pixel > 0
    return out
