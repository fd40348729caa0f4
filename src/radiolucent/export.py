"""An explanation as DICOM objects that a reading room's viewer lays over the scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation
from radiolucent.methods import title
from radiolucent.volume import Volume


def write_dicom(
    explanation: Explanation, folder: str | Path, source: str | Path, *, series: str | None = None, percentile: float = 99.0
) -> list[str]:
    """Write `target_k.dcm` (Parametric Map) and `target_k_seg.dcm` (Segmentation) for each target of an explanation.

    The segmentation holds the strongest part of the positive relevance: see `strongest`. Both carry the
    patient's data from the source's headers (see io.write_parametric_map). A map that DICOM cannot hold
    (several channels, a source without a frame of reference) is left out.

    Args:
        folder: where the files go; it exists, as Explanation.save leaves it.
        source: the DICOM series (folder or file) that was explained; `series` chooses among several.
        percentile: where the segmentation begins, among the voxels with positive relevance.

    Returns:
        What was left out, and why: one sentence each.
    """
    folder = Path(folder)
    left_out: list[str] = []
    method = title(explanation.method)
    device = str(explanation.provenance.get("weights_sha256", ""))[:16]
    try:
        images = io.DicomSource.of(source, series)
    except BadInput as error:
        return [f"no DICOM map: {error}"]
    for t, (relevance, target) in enumerate(zip(explanation.relevance, explanation.targets, strict=True)):
        name = f"{method}: {target}"
        with _noted(left_out, f"target {t} has no Parametric Map"):
            io.write_parametric_map(folder / f"target_{t}.dcm", relevance, images, name=name, device=device, number=2 * t)
        with _noted(left_out, f"target {t} has no Segmentation"):
            io.write_segmentation(
                folder / f"target_{t}_seg.dcm",
                strongest(relevance, percentile),
                images,
                names={1: name},
                algorithm=f"{method}, relevance from percentile {percentile:g}",
                device=device,
                number=2 * t + 1,
            )
    return left_out


@contextmanager
def _noted(notes: list[str], what: str) -> Iterator[None]:
    """What DICOM cannot hold is no reason to lose the NIfTI map."""
    try:
        yield
    except BadInput as error:
        notes.append(f"{what}: {error}")


def strongest(relevance: Volume, percentile: float) -> Volume:
    """1 where relevance is positive and reaches its `percentile` among the positive voxels, 0 elsewhere."""
    if not 0 <= percentile <= 100:
        raise BadInput("a percentile from 0 to 100", f"{percentile}", "99 keeps the strongest hundredth.")
    positive = relevance.data[relevance.data > 0]
    if not positive.size:
        raise BadInput("positive relevance to outline", "none: all evidence speaks against the target", "Look at the map itself.")
    level = np.percentile(positive, percentile, method="lower")  # a value that occurs: at least one voxel reaches it
    return relevance.like((relevance.data >= level).astype(np.uint8))
