"""A relevance map as a DICOM Parametric Map that refers to the series it explains."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.io.atomic import put
from radiolucent.io.dicom.files import guarded, library
from radiolucent.io.dicom.pixels import volume_of
from radiolucent.io.dicom.source import Source, content, text
from radiolucent.volume import Volume


def write_parametric_map(
    path: str | Path,
    volume: Volume,
    source: str | Path | Sequence[Any] | Source,
    *,
    name: str,
    description: str = "",
    device: str = "",
    number: int = 0,
) -> Path:
    """Write a map as a Parametric Map (32-bit float, as it is), whole or not at all, read back before it takes its name.

    The object belongs to the source's study and frame of reference, and each of its frames refers to
    the image that it lies on. **It carries the patient's name, id, birth date and sex, and the study's
    date and numbers, from the source's headers**, as DICOM requires: it is as confidential as its source.

    Args:
        volume: one channel on the source's own grid, as `io.read` gives it.
        source: the series' folder, a file, its datasets, or a Source (read once for several maps).
        name: what the values are, such as "grad-cam: lesion" (64 characters are kept).
        description: more words on it (64 characters are kept).
        device: what tells this software's model from others, such as the start of its weights' hash.
        number: added to the number of the new series, 9000.

    Raises:
        BadInput: NaN or infinite values, another grid than the source's, headers that lack a UID or (X-rays) a place
            in the patient.
    """
    source = source if isinstance(source, Source) else Source.of(source)
    highdicom, pydicom = library("highdicom"), library("pydicom")
    if not np.isfinite(volume.data).all():
        raise BadInput("finite values in a map", "NaN or infinity", "Mend the map: DICOM viewers take them for numbers.")
    if not source.stack.has_world:
        raise BadInput("a source with a place in the patient, for a Parametric Map", "none", "Use the NIfTI or TIFF map.")
    frames = source.frames(volume).astype(np.float32)
    with guarded("a source that a Parametric Map can refer to", "Use the NIfTI map, or export the source again."):
        made = highdicom.pm.ParametricMap(
            pixel_array=frames,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_values(frames, name)],
            voi_lut_transformations=[_window(frames)],
            content_label="SALIENCY",
            content_description=text(description) or None,
            **source.identity(number, device, name),
        )
        made.Laterality = source.images[0].get("Laterality")
        raw = content(made)
        back = volume_of(Path(path), [pydicom.dcmread(BytesIO(raw))])
    if not np.array_equal(back.data, volume.data.astype(np.float32)) or back.grid != source.stack.grid:
        raise BadInput("a map that reads back as it was written", "other values or another place", "Report this as a bug.")
    return put(Path(path), raw)


def _window(frames: np.ndarray) -> Any:
    """Zero in the middle, so that for and against are told apart; exact, since other windows may not be narrower than 1."""
    width = float(2 * np.abs(frames).max()) or 1.0
    return library("highdicom").VOILUTTransformation(0.0, width, voi_lut_function="LINEAR_EXACT")


def _values(frames: np.ndarray, name: str) -> Any:
    """Stored values are the values: no unit, no scale."""
    return library("highdicom").pm.RealWorldValueMapping(
        lut_label="RELEVANCE",
        lut_explanation=text(name) or "relevance",
        unit=library("pydicom.sr.codedict").codes.UCUM.NoUnits,
        value_range=(float(frames.min()), float(frames.max())),
        slope=1.0,
        intercept=0.0,
    )
