"""From the cells to the scoreboard: scores, means with intervals, ranks with critical differences, what no method beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import false_discovery_control

from radiolucent.bench.ranking import Ranking, ranking
from radiolucent.bench.store import Bench, Row
from radiolucent.statistics import means

ALL = "all models"
ALPHA = 0.05

COLUMNS = (
    "model", "case", "target", "method", "layer", "metric", "category", "better",
    "value", "low", "high", "seconds", "evaluations", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One metric over the cases of one model, or of all: the methods' ranks. q: p among all such tests of the board."""

    model: str
    metric: str
    better: str
    ranking: Ranking
    q: float = math.nan

    @property
    def differ(self) -> bool:
        return self.q < ALPHA

    @property
    def best(self) -> list[str]:
        """The method with the best mean rank, and those that cannot be told apart from it."""
        return self.ranking.like(self.ranking.methods[0]) if self.ranking.methods else []


@dataclass(frozen=True, eq=False)
class Board:
    """All that is known now. `models`, `methods`, `metrics` are in the recipe's order; `failures` have model, case, method
    ("" of a whole case), reason, unfit."""

    scores: Sequence[Row]
    failures: Sequence[Row]
    models: Sequence[str]
    methods: Sequence[str]
    metrics: Sequence[str]
    cases: Mapping[str, int]
    seed: int = 0

    @classmethod
    def of(cls, bench: Bench, seed: int = 0) -> Board:
        methods, metrics = list(bench.identity["methods"]), list(bench.identity["metrics"])
        scores: list[Row] = []
        failures: list[Row] = []
        for place in bench.places():
            about = {"model": place.model, "case": place.case}
            if reason := place.reason():
                failures.append(about | {"method": "", "reason": reason, "unfit": False})
                continue
            for row in place.rows():
                named = about | row | {"method": methods[row["number"]]}
                scores.append({column: named[column] for column in COLUMNS})
            for number, method in enumerate(methods):
                if not place.has_map(number) and (why := place.failure(number)):
                    failures.append(about | {"method": method, "reason": why["reason"], "unfit": why["unfit"]})
        cases = {model: len(found) for model, found in bench.identity["cases"].items()}
        return cls(scores, failures, list(cases), methods, metrics, cases, seed)

    @cached_property
    def about(self) -> dict[str, tuple[str, str]]:
        """Metric -> its category and which direction is better; without those that have no row."""
        return {row["metric"]: (row["category"], row["better"]) for row in self.scores}

    @cached_property
    def table(self) -> list[Row]:
        """model, method, metric, category, better, mean, low, high, n, missing: over cases, targets of one averaged before."""
        found = means(self.scores, ("model", "method", "metric"), seed=self.seed)
        columns = {"model": self.models, "method": self.methods, "metric": self.metrics}
        place = {column: {name: i for i, name in enumerate(names)} for column, names in columns.items()}
        ordered = sorted(found, key=lambda row: [place[column][row[column]] for column in columns])
        return [
            {k: row[k] for k in ("model", "method", "metric")}
            | dict(zip(("category", "better"), self.about[row["metric"]], strict=True))
            | {k: row[k] for k in ("mean", "low", "high", "n", "missing")}
            for row in ordered
        ]

    @cached_property
    def compared(self) -> list[Compared]:
        """Each metric's ranks, for each model and, of several, over all of their cases."""
        several = [*self.models, *([ALL] if len(self.models) > 1 else [])]
        found = [
            Compared(model, metric, self.about[metric][1], self._ranking(model, metric))
            for metric in self.metrics
            if metric in self.about
            for model in several
        ]
        tested = [c for c in found if math.isfinite(c.ranking.p)]
        q = false_discovery_control([c.ranking.p for c in tested]) if tested else []
        by = {id(c): float(value) for c, value in zip(tested, q, strict=True)}
        return [Compared(c.model, c.metric, c.better, c.ranking, by.get(id(c), math.nan)) for c in found]

    def _ranking(self, model: str, metric: str) -> Ranking:
        values: dict[str, dict[str, list[float]]] = {}
        for row in self._by_metric.get(metric, []):
            if model in (ALL, row["model"]):
                cases = values.setdefault(row["method"], {})
                cases.setdefault(f"{row['model']}\0{row['case']}", []).append(row["value"])
        meant = {
            method: {case: _mean(found) for case, found in values[method].items()} for method in self.methods if method in values
        }
        return ranking(meant, higher_is_better=self.about[metric][1] == "higher", alpha=ALPHA, seed=self.seed)

    @cached_property
    def _by_metric(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.scores:
            found.setdefault(row["metric"], []).append(row)
        return found

    @cached_property
    def ranks(self) -> list[Row]:
        """model, metric, method, mean_rank, verdict, methods, cases, chi2, p, q, critical_difference, reason."""
        rows = []
        for c in self.compared:
            r = c.ranking
            about: Row = {"methods": len(r.methods), "cases": r.n, "chi2": r.friedman, "p": r.p, "q": c.q}
            about |= {"critical_difference": r.critical, "reason": r.reason}
            for method, rank in zip(r.methods, r.ranks, strict=True):
                row = {"model": c.model, "metric": c.metric, "method": method, "mean_rank": rank, "verdict": _verdict(c, method)}
                rows.append(row | about)
            if not r.methods:
                row = {"model": c.model, "metric": c.metric, "method": "", "mean_rank": math.nan, "verdict": "not tested"}
                rows.append(row | about)
        return rows

    def means_of(self, model: str, metric: str) -> dict[str, Row]:
        """Method -> its row of `table`."""
        return self._by_cell.get((model, metric), {})

    @cached_property
    def _by_cell(self) -> dict[tuple[str, str], dict[str, Row]]:
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.table:
            found.setdefault((row["model"], row["metric"]), {})[row["method"]] = row
        return found

    def of_category(self, category: str) -> list[str]:
        return [metric for metric in self.metrics if self.about.get(metric, ("",))[0] == category]


def _verdict(compared: Compared, method: str) -> str:
    if not compared.differ:
        return "no difference beyond chance"
    if method == compared.ranking.methods[0]:
        return "best mean rank"
    return "not told apart from the best" if method in compared.best else "worse than the best, beyond chance"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def not_beaten(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of methods with (seconds, faithfulness: higher is better), those for which no other is as fast and as faithful, and more."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return [name for name, own in points.items() if not any(beats(other, own) for other in points.values())]
