"""Settings for small grids: those of the usual ones that are sizes are for scans, and larger than what such a grid shows."""

from __future__ import annotations

from collections.abc import Mapping

from radiolucent.methods.naming import method_of
from radiolucent.protocols import Method

SMALL: Mapping[str, str] = {
    "occlusion": "occlusion(window=4, stride=2)",
    "kernel-shap": "kernel-shap(cubes=6)",
    "extremal-perturbation": "extremal-perturbation(width=1.5, cells=12)",
    "meaningful-perturbation": "meaningful-perturbation(jitter=1, cells=12)",
}
"""By name, as text; for 16 to 32 voxels a side. Windows, cubes and cells become a few voxels wide: an occlusion's usual window
covers a third of such a grid, and a mask of 32 cells a side, finer than the image, takes minutes. How many copies a method
scores and how many steps it takes stays as it is, and so does what is not named here."""


def small(text: str) -> Method:
    """A method by its name alone, with the settings for small grids; one with settings, "occlusion(window=6)", as it says."""
    return method_of(SMALL.get(text.strip(), text))
