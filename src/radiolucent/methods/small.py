"""Settings for small grids: the usual ones are for scans, and ask there for more than a few thousand voxels can show."""

from __future__ import annotations

from collections.abc import Mapping

from radiolucent.methods.naming import method_of
from radiolucent.protocols import Method

SMALL: Mapping[str, str] = {
    "gradient-quantile": "gradient-quantile(samples=32)",
    "integrated-gradients": "integrated-gradients(steps=32)",
    "expected-gradients": "expected-gradients(samples=32)",
    "occlusion": "occlusion(window=4, stride=2)",
    "rise": "rise(samples=1000)",
    "kernel-shap": "kernel-shap(cubes=6, samples=1000)",
    "smo-cam": "smo-cam(iterations=300)",
    "l2-caf": "l2-caf(iterations=300)",
    "extremal-perturbation": "extremal-perturbation(width=1.5, cells=8, iterations=200)",
    "meaningful-perturbation": "meaningful-perturbation(jitter=1, cells=12, iterations=200)",
}
"""By name, as text; for 16 to 32 voxels a side. Windows, cubes and cells are a few voxels wide, and there are fewer copies of
the image, since there are fewer places to tell apart. What is not named here is as it usually is."""


def small(text: str) -> Method:
    """A method by its name alone, with the settings for small grids; one with settings, "occlusion(window=6)", as it says."""
    return method_of(SMALL.get(text.strip(), text))
