"""All checks of all maps of one image, with each changed copy through the model once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from radiolucent import baselines, segments
from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.hooks import evaluating
from radiolucent.metrics.faithfulness.changed import Changed, Cubes
from radiolucent.metrics.faithfulness.findings import Asking, Check, Claim
from radiolucent.metrics.faithfulness.units import AXES, Units
from radiolucent.metrics.finding import Finding, Undefined
from radiolucent.metrics.naming import label_of
from radiolucent.protocols import Target
from radiolucent.scoring import VOXELS, in_chunks, scoring, share
from radiolucent.settings import per_axis

ON_PROCESSOR = 2**17
"""Voxels that share a pass there: nine copies of 48^3 at once took a 3D ResNet-18 as long as one by one, and 200 MiB more."""


@dataclass(frozen=True)
class Answer:
    """What one check says about one map of one target.

    target: its number. value, low, high: NaN where there is none, and then the `reason`. evaluations: how many images went
    through the model for it, and the seconds that took; what other answers needed too is counted in each.
    shares, scores: the curve, of a check that has one.
    """

    map: str
    target: int
    check: str
    category: str
    value: float
    low: float
    high: float
    evaluations: int
    seconds: float
    reason: str = ""
    shares: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


class Asked:
    """A model on one image, that remembers what it said about each changed copy of it, for all targets."""

    def __init__(self, model: nn.Module, x: Tensor, targets: Target, labels: Tensor | None = None, batch: int = 0) -> None:
        self.x = x
        self.said: dict[Changed, Tensor] = {}
        self.seconds: dict[Changed, float] = {}
        self._model, self._targets, self._labels = model, targets, labels
        self._scored, self._together = (
            scoring(model, targets),
            share(batch, x[:, 0].numel(), ON_PROCESSOR if x.device.type == "cpu" else VOXELS),
        )
        self._units: dict[tuple[str, Cubes], Units] = {}
        self._references: dict[str, Tensor] = {}

    def units(self, over: str, cubes: Cubes) -> Units:
        key = over, cubes if over in ("cubes", "supervoxels") else 0
        if key not in self._units:
            self._units[key] = self._cut(over, cubes)
        return self._units[key]

    def _cut(self, over: str, cubes: Cubes) -> Units:
        x, grid = self.x, tuple(self.x.shape[2:])
        if over == "voxels":
            return Units(grid, math.prod(grid))
        if over in AXES:
            return Units.slices(grid, over)
        if over == "semantic":
            return Units.of(segments.predicted(self._model, x, self._targets)[0])
        if over == "parcellation":
            if self._labels is None:
                raise BadInput('a parcellation for over="parcellation"', "none", "Give one, or choose another `over`.")
            return Units.of(segments.given(self._labels, x)[0])
        along = per_axis(cubes, x, "cubes")
        return Units.of((segments.cubes(x, along) if over == "cubes" else segments.supervoxels(x, math.prod(along)))[0])

    def reference(self, baseline: str) -> Tensor:
        if baseline not in self._references:
            self._references[baseline] = baselines.baseline(baseline, self.x)
        return self._references[baseline]

    def ask(self, changed: Iterable[Changed]) -> None:
        """Puts those copies through the model that it has not seen, as many at once as fit."""
        new = [c for c in dict.fromkeys(changed) if c not in self.said]

        def scored(which: range) -> tuple[Tensor, float]:
            start = time.perf_counter()
            S = self._scored(torch.stack([new[i].of(self) for i in which]))[:, :, 0].cpu().double()
            return S, (time.perf_counter() - start) / len(which)

        for which, (S, seconds) in in_chunks(len(new), self._together, scored):
            for i, scores in zip(which, S, strict=True):
                self.said[new[i]], self.seconds[new[i]] = scores, seconds


@dataclass
class _Job:
    """One check of one map of one target, on its way."""

    map: str
    check: str
    metric: Check
    claim: Claim
    wants: Sequence[Changed] = ()
    used: dict[Changed, None] = field(default_factory=dict)
    running: Asking | None = None
    finding: Finding = field(default_factory=Finding)
    seconds: float = 0.0

    def go(self, asked: Asked) -> None:
        """To its next question or its end."""
        start = time.perf_counter()
        try:
            if self.running is None:
                if self.claim.says_nothing:
                    raise Undefined(self.claim.says_nothing)
                self.running = self.metric(self.claim, asked)
                self.wants = next(self.running)
            else:
                S = torch.stack([asked.said[c][self.claim.target] for c in self.wants])
                self.wants = ()
                self.wants = self.running.send(S)
            self.used |= dict.fromkeys(self.wants)
        except StopIteration as end:
            self.finding, self.wants = end.value, ()
        except Undefined as why:
            self.finding, self.wants = Finding(reason=str(why)), ()
        finally:
            self.seconds += time.perf_counter() - start

    def answer(self, asked: Asked) -> Answer:
        seconds = self.seconds + sum(asked.seconds[c] for c in self.used)
        about, found = (self.map, self.claim.target, self.check, self.metric.category), self.finding
        spent = len(self.used), round(seconds, 4)
        return Answer(*about, found.value, found.low, found.high, *spent, found.reason, found.shares, found.scores)


def ask(
    model: nn.Module,
    x: Tensor,
    maps: Mapping[str, Tensor],
    targets: Target,
    checks: Sequence[Check],
    *,
    slopes: Sequence[str] = (),
    labels: Tensor | None = None,
    batch: int = 0,
) -> list[Answer]:
    """Ask the model whether maps of one image are to be believed: an answer for each map, target and check, in that order.

    A changed copy of the image is scored once, for all targets, maps and checks that ask for it: random subsets are the
    same for all maps, and each order's copies are shared by what ranks alike. Copies of all of them fill the batches.

    Args:
        model: is left exactly as it was, also after an error.
        x: one image (1, c, *grid).
        maps: name -> relevance as methods give it, (t, 1, c, *cells); coarse ones are interpolated.
        targets: of t scores, fixed (`targets.fix(model(x))`).
        checks: for example [FaithfulnessCorrelation(), Deletion("voxels")].
        slopes: the maps whose values are the score per unit of intensity, as gradients are (see Infidelity).
        labels: a label map (*grid) for over="parcellation".
        batch: how many copies share a pass; 0: up to 16, of a million voxels together (on a processor 131072). Halved when
            memory runs out.

    A NaN, infinite or constant map, and a score that does not change, give NaN with a reason.
    """
    _refuse(x, maps, checks, slopes)
    x = x.detach().as_subclass(Tensor)
    kinds = {label_of(c): c for c in checks}
    with evaluating(model), torch.no_grad():
        asked = Asked(model, x, targets, labels, batch)
        jobs = []
        for name, relevance in maps.items():
            claims = _claims(name, relevance, x, name in slopes)
            jobs += [_Job(name, label, metric, claim) for claim in claims for label, metric in kinds.items()]
        for job in jobs:
            job.go(asked)
        while going := [job for job in jobs if job.wants]:
            asked.ask(c for job in going for c in job.wants)
            _same_number(asked, maps)
            for job in going:
                job.go(asked)
    return [job.answer(asked) for job in jobs]


def _claims(name: str, relevance: Tensor, x: Tensor, slope: bool) -> list[Claim]:
    fits = relevance.ndim == x.ndim + 1 and relevance.shape[1] == 1 and relevance.shape[2] in (1, x.shape[1])
    if not fits:
        expected = f"relevance (t, 1, 1 or {x.shape[1]}, *cells) with {x.ndim - 2} axes as the map {name!r}"
        raise BadInput(expected, f"shape {tuple(relevance.shape)}", "Give what a method returns, for one image.")
    values = relevance.detach().as_subclass(Tensor).to(torch.promote_types(relevance.dtype, torch.float32))
    fine = upsample(values, tuple(x.shape[2:]))[:, 0]
    return [Claim(row, t, slope) for t, row in enumerate(fine)]


def _refuse(x: Tensor, maps: Mapping[str, Tensor], checks: Sequence[Check], slopes: Sequence[str]) -> None:
    if len(x) != 1:
        raise BadInput("one image (1, c, *grid)", f"shape {tuple(x.shape)}", "Check them one by one.")
    if not maps or len({len(relevance) for relevance in maps.values()}) > 1:
        got = ", ".join(f"{name}: {len(relevance)}" for name, relevance in maps.items()) or "none"
        raise BadInput("maps of the same number of targets", got, "Give each as (t, 1, c, *cells).")
    wrong = [c for c in checks if isinstance(c, type) or not callable(c) or getattr(c, "category", "") == "localisation"]
    if not checks or wrong:
        do = "For example [FaithfulnessCorrelation(), Deletion()] from radiolucent.metrics; those against a mask go to measure."
        raise BadInput("a list of checks", f"{wrong or list(checks)!r:.80}", do)
    if unknown := set(slopes) - set(maps):
        raise BadInput(f"slopes among the maps {', '.join(maps)}", ", ".join(sorted(unknown)), "Correct the names.")


def _same_number(asked: Asked, maps: Mapping[str, Tensor]) -> None:
    scores, rows = len(next(iter(asked.said.values()))), len(next(iter(maps.values())))
    if scores != rows:
        raise BadInput(f"a map for each of the {scores} targets", f"{rows}", "Give the targets that the maps were made for.")
