"""Is a map faithful to the model? Checks that hide parts of the image and ask the model again."""

from typing import Any

from radiolucent.metrics.faithfulness.asking import Answer, Asked, ask
from radiolucent.metrics.faithfulness.changed import Witness
from radiolucent.metrics.faithfulness.correlation import FaithfulnessCorrelation
from radiolucent.metrics.faithfulness.curves import Deletion, Insertion, Monotonicity, Sufficiency
from radiolucent.metrics.faithfulness.findings import Check, Claim
from radiolucent.metrics.faithfulness.infidelity import Infidelity
from radiolucent.metrics.faithfulness.monotonicity import MonotonicityCorrelation
from radiolucent.metrics.faithfulness.road import ROAD
from radiolucent.metrics.finding import Finding

FAITHFULNESS: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        FaithfulnessCorrelation,
        Infidelity,
        Deletion,
        Insertion,
        Sufficiency,
        ROAD,
        Monotonicity,
        MonotonicityCorrelation,
    )
}

__all__ = [
    "FAITHFULNESS",
    "ROAD",
    "Answer",
    "Asked",
    "Check",
    "Claim",
    "Deletion",
    "FaithfulnessCorrelation",
    "Finding",
    "Infidelity",
    "Insertion",
    "Monotonicity",
    "MonotonicityCorrelation",
    "Sufficiency",
    "Witness",
    "ask",
]
