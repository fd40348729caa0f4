"""The questions to one scan: where each method's map of each output lies, and what happens when it is taken away."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from deletion import Deletion, nearest_first, random_orders
from held_out import Held, Scans, finer
from torch import nn

import radiolucent as rl
from radiolucent.explanation import Explanation
from radiolucent.metrics import PointingGame, measure
from radiolucent.models import Card
from radiolucent.protocols import Method
from radiolucent.regions import Regions

Row = dict[str, Any]


class Asking:
    """The same questions to each scan.

    Args:
        model: the regressor, with its card.
        task: whose scans they are: it knows which structure an output measures.
        methods: what is compared, by the name that tables give it.
    """

    def __init__(self, model: nn.Module, card: Card, task: Scans, methods: Mapping[str, Method]) -> None:
        self.model, self.card, self.task, self.methods = model, card, task, methods
        self.deletion = Deletion()

    def __call__(self, held: Held) -> tuple[list[Row], list[Row]]:
        """Rows (case, patient, method, output, metric, value), and the rows of `by_region` for each method."""
        prediction = rl.predict(self.model, held.image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rl.InputWarning)  # masks that have not converged are counted in the rows
            found = prediction.explain(
                list(self.methods.values()),
                rl.Outputs(),
                classes=self.card.classes,
                spread=self.card.spread,
                failed=lambda method, error: None,  # a Grad-CAM that is zero everywhere: counted as "no map"
            )
        by_method = {e.method: e for e in found}
        regions, rows, attention, maps, whose = Regions(held.anatomy), [], [], [], []
        for name, method in self.methods.items():
            explanation = by_method.get(method)
            there = explanation.targets if explanation else ()
            rows += [_row(name, output, "no map", output not in there) for output in self.task.own]
            if explanation is None:
                continue
            fine = replace(explanation, relevance=tuple(finer(r, held.anatomy.labels) for r in explanation.relevance))
            about = {"method": name, "layer": "", "case": held.name}  # the name has the layer in it
            attention += [row | about for row in rl.by_region(fine, regions)]
            rows += [*self._pointing(name, held, fine), *self._said(name, explanation)]
            maps += [np.abs(r.data).sum(0) for r in explanation.relevance]
            whose += [(name, output) for output in there]
        rows += self._deleted(held, prediction.x, np.stack(maps), whose) + self._controls(held, prediction.x)
        return [row | {"case": held.name, "patient": held.patient} for row in rows], attention

    def _pointing(self, name: str, held: Held, fine: Explanation) -> list[Row]:
        rows = []
        games = [PointingGame(), PointingGame(self.task.tolerance_mm)]
        for output, relevance in zip(fine.targets, fine.relevance, strict=True):
            inside = held.anatomy.labels.like(np.isin(held.anatomy.labels.data, self.task.own[output]).astype(np.int32))
            found = measure(relevance, inside, games, labels=[1], part="absolute")
            rows += [_row(name, output, row["metric"], row["value"]) for row in found]
        return rows

    def _said(self, name: str, explanation: Explanation) -> list[Row]:
        """What it cost, and what SMOCAM says of its masks."""
        facts = explanation.provenance
        seconds = facts["seconds"] / facts["shared_by_methods"] / len(self.task.own)
        rows = [_row(name, output, "seconds", seconds) for output in explanation.targets]
        for output, detail in zip(explanation.targets, facts.get("details", ()), strict=False):
            about = {name: detail[name] for name in ("distance", "converged", "iterations")}
            about["at start"] = detail["curve"]["distance"][0]
            rows += [_row(name, output, metric, value) for metric, value in about.items()]
        return rows

    def _deleted(self, held: Held, x: torch.Tensor, maps: np.ndarray, whose: Sequence[tuple[str, str]]) -> list[Row]:
        area = self.deletion(self.model, x, maps, torch.tensor(self.card.spread))
        outputs = list(self.task.own)
        return [_row(name, output, "deletion", area[i, outputs.index(output)]) for i, (name, output) in enumerate(whose)]

    def _controls(self, held: Held, x: torch.Tensor) -> list[Row]:
        """Deletion of what is chosen without the network."""
        sigma, shape, rows = torch.tensor(self.card.spread), tuple(x.shape[2:]), []
        for name, firsts in random_orders(shape).items():
            area = self.deletion(self.model, x, firsts, sigma).mean(0)
            rows += [_row(name, output, "deletion", area[i]) for i, output in enumerate(self.task.own)]
        for name, labels in (("own structure first", self.task.own), ("mirror first", self.task.mirror)):
            there = [output for output in self.task.own if output in labels]
            if not there:
                continue
            inside = [np.isin(held.anatomy.labels.data[0], labels[output]) for output in there]
            area = self.deletion(
                self.model, x, np.stack([nearest_first(where, shape, held.image.grid.spacing) for where in inside]), sigma
            )
            rows += [_row(name, output, "deletion", area[i, list(self.task.own).index(output)]) for i, output in enumerate(there)]
        return rows


def _row(method: str, output: str, metric: str, value: float) -> Row:
    return {"method": method, "output": output, "metric": metric, "value": float(value)}
