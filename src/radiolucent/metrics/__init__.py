"""The metrics, and their one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.metrics.faithfulness import (
    FAITHFULNESS,
    ROAD,
    Deletion,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    Monotonicity,
    MonotonicityCorrelation,
    Sufficiency,
    ask,
)
from radiolucent.metrics.localization import (
    AUROC,
    AveragePrecision,
    EnergyPointingGame,
    Enrichment,
    MassConcentration,
    MaxF1,
    PointingGame,
    RankAccuracy,
)
from radiolucent.metrics.measuring import rows_of
from radiolucent.metrics.overlap import Dice, IoA, IoU, WeightedIoA
from radiolucent.metrics.prepared import Inside, Mass, Metric, Part, Score, Undefined
from radiolucent.metrics.remaking import (
    CONTROLS,
    REMAKING,
    AverageSensitivity,
    Completeness,
    ComplexityRise,
    EdgeMap,
    EffectiveComplexity,
    Entropy,
    Evaluations,
    MaxSensitivity,
    ParameterRandomisation,
    PeakMemory,
    RandomMap,
    Repeatability,
    Reproducibility,
    RotationContinuity,
    Seconds,
    ShiftContinuity,
    Sparseness,
    TargetRandomisation,
)
from radiolucent.volume import Volume

METRICS: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        IoA,
        WeightedIoA,
        IoU,
        Dice,
        PointingGame,
        EnergyPointingGame,
        Enrichment,
        MassConcentration,
        RankAccuracy,
        AveragePrecision,
        MaxF1,
        AUROC,
    )
}


def measure(
    relevance: Volume,
    mask: Volume,
    metrics: Sequence[Metric | str] = tuple(METRICS),
    *,
    labels: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    part: Part = "positive",
    resample: bool = False,
) -> list[dict[str, Any]]:
    """Score one map against one label image: a row per label and metric.

    The map is sorted once, whatever the number of labels, metrics and thresholds.

    Args:
        relevance: the map (c, *grid), signed; its channels are added up.
        mask: whole numbers (1, *grid), 0 for background, on the map's grid.
        metrics: instances (IoA(0.5)) or text ("ioa", "ioa@0.5", "iou@p95", "pointing-game@5"); default: all, at Otsu's
            threshold where they need one.
        labels: which labels; default: those that the mask holds. One that it does not hold gets NaN and a reason.
        names: label -> name; a label in the mask without a name is then an error.
        part: what counts as mass in a signed map: "positive" (evidence for the target) or "absolute".
        resample: bring a mask on another grid onto the map's (nearest neighbour), with a warning.

    Returns:
        rows with label, region (its name), metric, value, threshold (in the map's unit, NaN where none is used) and
        reason ("" or why the value is NaN: an empty mask has no score, not the score 0).

    Raises:
        BadInput: a map that is zero everywhere, NaN or infinite; a mask on another grid; labels that are not whole numbers.
    """
    chosen = [from_text(m) if isinstance(m, str) else m for m in metrics]
    named = {label_of(m): m for m in chosen}
    if not named:
        raise BadInput("at least one metric", "none", f"Choose among {', '.join(METRICS)}.")
    return rows_of(relevance, mask, named, labels=labels, names=names, part=part, resample=resample)


def from_text(text: str) -> Metric:
    """ "iou", "iou@p95" or "pointing-game@5" as a metric; what stands behind the @ is its one setting."""
    name, at, value = text.partition("@")
    if name not in METRICS:
        close = get_close_matches(name, METRICS, n=3)
        raise BadInput(
            "a metric among " + ", ".join(METRICS), repr(name), f"Did you mean {' or '.join(close)}?" if close else "Correct it."
        )
    settings = fields(METRICS[name])
    if not at:
        return METRICS[name]()
    if not settings:
        raise BadInput(f"{name} without a setting", repr(text), f"Write {name}.")
    try:
        return METRICS[name](value if settings[0].name == "threshold" else float(value))
    except ValueError as error:
        raise error if isinstance(error, BadInput) else BadInput(f"a number after {name}@", repr(value), "Correct it.") from None


def label_of(metric: Metric) -> str:
    """The metric with its setting, as `from_text` reads it: "iou@otsu", "pointing-game"."""
    value = next((getattr(metric, f.name) for f in fields(metric)), None)  # type: ignore[arg-type]
    return (
        metric.name if value in (None, 0) else f"{metric.name}@{value:g}" if isinstance(value, float) else f"{metric.name}@{value}"
    )


def describe(metric: Metric | type[Any]) -> dict[str, str]:
    """A metric's name, category, direction, one-line summary, equation and meaning, as its docstring gives them."""
    paragraphs = cleandoc(metric.__doc__ or "").split("\n\n")
    return {
        "name": metric.name,
        "category": metric.category,
        "direction": "higher is better" if metric.higher_is_better else "lower is better",
        "summary": " ".join(paragraphs[0].split()),
        "equation": "\n".join(p for p in paragraphs[1:] if p.startswith("    ")),
        "meaning": " ".join(" ".join(p.split()) for p in paragraphs[1:] if not p.startswith("    ")),
    }


__all__ = [
    "AUROC",
    "CONTROLS",
    "FAITHFULNESS",
    "METRICS",
    "REMAKING",
    "ROAD",
    "AveragePrecision",
    "AverageSensitivity",
    "Completeness",
    "ComplexityRise",
    "Deletion",
    "Dice",
    "EdgeMap",
    "EffectiveComplexity",
    "EnergyPointingGame",
    "Enrichment",
    "Entropy",
    "Evaluations",
    "FaithfulnessCorrelation",
    "Infidelity",
    "Insertion",
    "Inside",
    "IoA",
    "IoU",
    "Mass",
    "MassConcentration",
    "MaxF1",
    "MaxSensitivity",
    "Metric",
    "Monotonicity",
    "MonotonicityCorrelation",
    "ParameterRandomisation",
    "Part",
    "PeakMemory",
    "PointingGame",
    "RandomMap",
    "RankAccuracy",
    "Repeatability",
    "Reproducibility",
    "RotationContinuity",
    "Score",
    "Seconds",
    "ShiftContinuity",
    "Sparseness",
    "Sufficiency",
    "TargetRandomisation",
    "Undefined",
    "WeightedIoA",
    "ask",
    "describe",
    "from_text",
    "label_of",
    "measure",
]
