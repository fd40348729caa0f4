"""Questions that others have asked, as lists of methods and metrics: what a recipe leaves out is taken from its preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields

from radiolucent.methods import METHODS
from radiolucent.metrics import FAITHFULNESS, KNOWN


@dataclass(frozen=True)
class Preset:
    """Methods and metrics as text, and which models they are for ("": any). `located`: cases need a truth to be found."""

    methods: Callable[[], tuple[str, ...]]
    metrics: Callable[[], tuple[str, ...]]
    task: str = ""
    located: bool = False


_CONTROLS = ("random-map", "edge-map")
_COSTS = ("seconds", "evaluations")


def _agg2exp_methods() -> tuple[str, ...]:
    return (
        "gradient",
        "integrated-gradients(steps=20)",
        "smooth-grad(samples=20)",
        "kernel-shap(samples=1000)",
        "kernel-shap(regions=semantic, samples=200)",
    )


def _agg2exp_metrics() -> tuple[str, ...]:
    """Single voxels, 224^2 of a window of 96^3, hidden by the minimum, 100 times; 3 noisy copies; the share above a tenth."""
    share = round(224**2 / 96**3, 4)
    return (
        f"faithfulness-correlation(over=voxels, subset={share})",
        "average-sensitivity(samples=3)",
        "effective-complexity",
        *_COSTS,
    )


def _latec_methods() -> tuple[str, ...]:
    return (
        "occlusion",
        "kernel-shap",
        "gradient",
        "input-x-gradient",
        "guided-backprop",
        "grad-cam",
        "score-cam",
        "grad-cam++",
        "integrated-gradients",
        "expected-gradients",
        "lrp",
        "attention-rollout",
        "gradient-rollout",
    )


def _latec_metrics() -> tuple[str, ...]:
    """All of three kinds; what needs a second trained model is left out."""
    kinds = ("faithfulness", "robustness", "complexity")
    return tuple(name for name, kind in KNOWN.items() if kind.category in kinds and name != "reproducibility") + _COSTS


def _planted_methods() -> tuple[str, ...]:
    """All that can be made without a word about their settings, and two that know nothing of the model."""
    plain = [name for name, kind in METHODS.items() if all(_has_value(f) for f in fields(kind))]
    return (*plain, *_CONTROLS)


def _planted_metrics() -> tuple[str, ...]:
    located = ("pointing-game", "energy-pointing-game", "rank-accuracy", "average-precision", "auroc", "enrichment")
    return (*located, *(name for name in FAITHFULNESS if name != "road"), *_COSTS)


def _has_value(field: object) -> bool:
    return getattr(field, "default", MISSING) is not MISSING or getattr(field, "default_factory", MISSING) is not MISSING


PRESETS: Mapping[str, Preset] = {
    "agg2exp": Preset(_agg2exp_methods, _agg2exp_metrics, task="segmentation"),
    "latec": Preset(_latec_methods, _latec_metrics, task="classification"),
    "planted": Preset(_planted_methods, _planted_metrics, located=True),
}
"""agg2exp: the four metrics of Agg2Exp (2024) and its five methods, for what a segmentation predicts. latec: the methods and
kinds of metrics of LATEC (Klein et al., NeurIPS 2024) as far as they are here, for classifiers. planted: all methods, against
a truth that is known."""
