"""What a map is like, and how it comes out when it is made again: on a changed image, by a changed model, another time."""

from typing import Any

from radiolucent.metrics.remaking.completeness import Completeness
from radiolucent.metrics.remaking.complexity import EffectiveComplexity, Entropy, Sparseness
from radiolucent.metrics.remaking.efficiency import Evaluations, PeakMemory, Seconds
from radiolucent.metrics.remaking.maps import Again, Remade, RemadeMetric, scores_of
from radiolucent.metrics.remaking.randomisation import ComplexityRise, ParameterRandomisation, TargetRandomisation
from radiolucent.metrics.remaking.repeating import Repeatability, Reproducibility
from radiolucent.metrics.remaking.robustness import AverageSensitivity, MaxSensitivity, RotationContinuity, ShiftContinuity

REMAKING: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        EffectiveComplexity,
        Entropy,
        Sparseness,
        AverageSensitivity,
        MaxSensitivity,
        ShiftContinuity,
        RotationContinuity,
        Repeatability,
        Reproducibility,
        ParameterRandomisation,
        ComplexityRise,
        TargetRandomisation,
        Completeness,
        Seconds,
        Evaluations,
        PeakMemory,
    )
}

__all__ = [
    "REMAKING",
    "Again",
    "AverageSensitivity",
    "Completeness",
    "ComplexityRise",
    "EffectiveComplexity",
    "Entropy",
    "Evaluations",
    "MaxSensitivity",
    "ParameterRandomisation",
    "PeakMemory",
    "Remade",
    "RemadeMetric",
    "Repeatability",
    "Reproducibility",
    "RotationContinuity",
    "Seconds",
    "ShiftContinuity",
    "Sparseness",
    "TargetRandomisation",
    "scores_of",
]
