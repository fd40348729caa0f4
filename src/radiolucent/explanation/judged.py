"""Rows of what was asked about maps: the same columns whoever asked, so that they make one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.methods import titles
from radiolucent.metrics import FAITHFULNESS, METRICS, REMAKING, from_text, label_of
from radiolucent.metrics.finding import Finding
from radiolucent.protocols import Method

ASKED = FAITHFULNESS | REMAKING
"""The metrics that ask the model, by name."""


def row(method: Method, target: str, metric: Any, found: Finding, evaluations: float, seconds: float) -> dict[str, Any]:
    """What one metric says about one method's map of one target."""
    name, settings, layer = titles(method)
    return {
        "method": name,
        "settings": settings,
        "layer": layer,
        "target": target,
        "metric": label_of(metric),
        "category": metric.category,
        "better": "higher" if metric.higher_is_better else "lower",
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "evaluations": evaluations,
        "seconds": seconds,
        "reason": found.reason,
    }


def asking(metrics: Sequence[Any]) -> list[Any]:
    """Metrics that ask the model, by their text or as they are."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence) or not metrics:
        raise BadInput("a list of metrics", f"{metrics!r:.80}", 'For example ["deletion", "entropy"].')
    return [_asking(metric) for metric in metrics]


def _asking(metric: Any) -> Any:
    if isinstance(metric, str):
        against = metric.partition("@")[0] in METRICS
        if against:
            raise BadInput(f"a metric among {', '.join(ASKED)}", repr(metric), "It needs a mask: see radiolucent.metrics.measure.")
        return from_text(metric, ASKED)
    if isinstance(metric, type) or not callable(metric) or getattr(metric, "name", "") in METRICS:
        raise BadInput(f"metrics among {', '.join(ASKED)}, or instances of them", f"{metric!r:.80}", "Correct it.")
    return metric


def is_check(metric: Any) -> bool:
    """Whether it asks about maps as they are (FAITHFULNESS), and has none made again."""
    return bool(metric.category == "faithfulness")
