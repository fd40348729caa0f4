"""The metrics, and their one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from radiolucent.metrics.finding import Undefined
from radiolucent.metrics.localisation import (
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
from radiolucent.metrics.naming import Kinds, as_dict, describe, label_of, read_dict, read_label
from radiolucent.metrics.overlap import Dice, IoA, IoU, WeightedIoA
from radiolucent.metrics.prepared import Inside, Mass, Metric, Part, Score
from radiolucent.metrics.remaking import (
    REMAKING,
    AverageSensitivity,
    Completeness,
    ComplexityRise,
    EffectiveComplexity,
    Entropy,
    Evaluations,
    MaxSensitivity,
    ParameterRandomisation,
    PeakMemory,
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
"""Those against a mask: `measure`."""

KNOWN = METRICS | FAITHFULNESS | REMAKING
"""All, by name. What asks the model again (FAITHFULNESS, REMAKING) is for radiolucent.explanation.examine."""


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
    chosen = [against_mask(m) for m in metrics]
    named = {label_of(m): m for m in chosen}
    if not named:
        raise BadInput("at least one metric", "none", f"Choose among {', '.join(METRICS)}.")
    return rows_of(relevance, mask, named, labels=labels, names=names, part=part, resample=resample)


def against_mask(metric: Metric | str) -> Metric:
    """A metric for `measure`, by its text or as it is."""
    found: Metric = from_text(metric) if isinstance(metric, str) else metric
    name = getattr(found, "name", repr(found))
    if isinstance(found, type) or not callable(found) or name in (FAITHFULNESS | REMAKING):
        asks = f"{name} asks the model, not a mask: see radiolucent.explanation.examine."
        do = asks if name in KNOWN and name not in METRICS else "Give its name or an instance."
        raise BadInput(f"a metric against a mask, among {', '.join(METRICS)}", name, do)
    return found


def from_text(text: str, among: Kinds = KNOWN) -> Any:
    """A metric by its name, with settings as `label_of` writes them: "iou@p95", "deletion(over=voxels, points=50)"."""
    return read_label(text, among)


def from_dict(values: Mapping[str, Any], among: Kinds = KNOWN) -> Any:
    """The metric that `as_dict` described."""
    return read_dict(values, among)


__all__ = [
    "AUROC",
    "FAITHFULNESS",
    "KNOWN",
    "METRICS",
    "REMAKING",
    "ROAD",
    "AveragePrecision",
    "AverageSensitivity",
    "Completeness",
    "ComplexityRise",
    "Deletion",
    "Dice",
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
    "against_mask",
    "as_dict",
    "ask",
    "describe",
    "from_dict",
    "from_text",
    "label_of",
    "measure",
]
