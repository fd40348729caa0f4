"""Running a study: which cases are left, who does them, and what becomes of those that fail."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.study.claims import attempts
from radiolucent.study.cohort import Case, Cohort
from radiolucent.study.layouts import read_cohort
from radiolucent.study.recipe import Recipe
from radiolucent.study.store import Study
from radiolucent.study.working import Job, Outcome, keep, load_model, work

_MOST_ALIKE = 5  # failures for one and the same reason before any success: it is not the cases
_MOST_BLAMELESS = 3  # in a row, before the run stops: every other case would fail too


@dataclass
class Run:
    """What a run did. `elsewhere` are cases that another process was still at."""

    study: Study
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    there: int = 0
    quarantined: int = 0


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    workers: int = 0,
    scheduler: str = "",
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    threads: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[int], None] = lambda cases: None,
    step: Callable[[], None] = lambda: None,
) -> Run:
    """Do what is left of a study: every case that is neither done nor failed, or, with `retry`, not done.

    Args:
        recipe, folder: what is asked, and where it goes; a study that was begun otherwise is refused.
        workers: processes on this machine; 0 does the cases in this one.
        scheduler: the address of a Dask cluster that is running, tcp://...; its workers must see the same files.
        shard: (i, n): the i-th of n parts of the cohort, from 1.
        threads: PyTorch's threads in each process; the last bits of a result may depend on it.
        say, begin, step: are told what happens, how many cases are left, and of each one that ends.

    A case that fails is noted in failed/ with its reason; so is one that kills its workers even alone. One that was
    interrupted with the whole process comes last in the next run, so that it cannot keep the others from their end.
    """
    if workers < 0 or (workers and scheduler):
        raise BadInput("a number of workers, or a scheduler", f"{workers} and {scheduler or 'none'}", "Give one of them.")
    study, cohort, job = _begun(recipe, Path(folder).absolute(), threads, say)
    result = Run(study)
    left = _left(study, cohort.cases[shard[0] - 1 :: shard[1]], retry, result)
    begin(len(left))
    _announce(recipe, cohort, len(left), say)
    pace = _Pace(len(left))
    waiting: Sequence[Case] = left
    for _ in range(2):  # a second time for those that another process was at: it may have been killed
        again = []
        for case, outcome in _outcomes(job, waiting, workers, scheduler):
            if outcome.status == "elsewhere":
                again.append(case)
            else:
                _note(outcome, result, say, pace)
                step()
        waiting = again
    result.elsewhere = [case.id for case in waiting]
    return result


def _begun(recipe: Recipe, folder: Path, threads: int | None, say: Callable[[str], None]) -> tuple[Study, Cohort, Job]:
    """The study's folder, new or as it was left, the cohort, and what a worker must know; the model is loaded here, too."""
    cohort = read_cohort(recipe.cohort)
    _check_folder(folder, recipe, cohort)
    model = load_model(recipe)
    for note in model.card.notes:
        say(f"note: {note}")
    study = Study.begin(folder, recipe, cohort, model.identity, say)
    job = Job(recipe, folder, model.identity, threads)
    keep(job, model)
    return study, cohort, job


def _announce(recipe: Recipe, cohort: Cohort, left: int, say: Callable[[str], None]) -> None:
    """How much there is to do; and what the analysis would refuse later, on which no case depends."""
    say(f"{left} of {len(cohort.cases)} cases to do")
    unknown = [name for name in recipe.analysis.covariates if name not in cohort.table().column_names]
    if unknown:
        say(f"note: [analysis] names covariates that the cohort does not have: {', '.join(unknown)}")


def _left(study: Study, cases: Sequence[Case], retry: bool, result: Run) -> list[Case]:
    """What there is to do: first what nobody has begun, then what was interrupted."""
    left = []
    for case in cases:
        if study.is_done(case):
            result.there += 1
        elif study.is_failed(case) and not retry:
            result.quarantined += 1
        else:
            left.append(case)
    return sorted(left, key=lambda case: attempts(study.mark(case.folder)))


def _note(outcome: Outcome, result: Run, say: Callable[[str], None], pace: _Pace) -> None:
    """Keep the books, say how it went, and stop where every other case would fail too."""
    for note in outcome.notes:
        say(f"note: {outcome.case}: {note}")
    if outcome.status == "there":
        result.there += 1
        say(f"{outcome.case} was done by another process {pace.step()}")
        return
    if outcome.status == "done":
        result.done.append(outcome.case)
        pace.blameless = 0
        say(f"{outcome.case} done in {outcome.seconds:.1f} s {pace.step()}")
        return
    result.failed[outcome.case] = outcome.reason
    say(f"{outcome.case} failed: {outcome.reason} {pace.step()}")
    if not result.done and not result.there and list(result.failed.values()) == [outcome.reason] * _MOST_ALIKE:
        do = "Correct the recipe and choose another --out, or correct the data and run with --retry."
        raise BadInput("cases that can be done", f"the first {_MOST_ALIKE} all failed: {outcome.reason}", do)
    pace.blameless = pace.blameless + 1 if outcome.blameless else 0
    if pace.blameless == _MOST_BLAMELESS:
        do = "Mend that and run the same command again: what is done is kept."
        raise BadInput("a place to work and to write in", f"the last {_MOST_BLAMELESS} cases all failed: {outcome.reason}", do)


class _Pace:
    """How fast the cases go."""

    def __init__(self, total: int) -> None:
        self.total, self.ended, self.start, self.blameless = total, 0, time.monotonic(), 0

    def step(self) -> str:
        """After one more case: "(3/40, 12.3 cases/min, 3.0 min left)" """
        self.ended += 1
        rate = self.ended / max(time.monotonic() - self.start, 1e-9) * 60
        return f"({self.ended}/{self.total}, {rate:.3g} cases/min, {(self.total - self.ended) / rate:.1f} min left)"


def _outcomes(job: Job, cases: Sequence[Case], workers: int, scheduler: str) -> Iterator[tuple[Case, Outcome]]:
    if not cases:
        return
    if not workers and not scheduler:
        for case in cases:
            yield case, work(job, case)
        return
    from radiolucent.study.cluster import outcomes

    yield from outcomes(job, cases, workers, scheduler)


def _check_folder(folder: Path, recipe: Recipe, cohort: Cohort) -> None:
    """The study must not lie where its inputs are (but may in a BIDS dataset's derivatives), and be writable."""
    inputs = {c.image.parent.resolve() for c in cohort.cases} | {c.image.resolve() for c in cohort.cases if c.image.is_dir()}
    inputs |= {p.resolve() for p in (recipe.cohort.bids, recipe.cohort.nnunet) if p}
    inputs |= {c.label.parent.resolve() for c in cohort.cases if c.label}
    if folder.resolve() in inputs or any(
        c.image.is_dir() and folder.resolve().is_relative_to(c.image.resolve()) for c in cohort.cases
    ):
        raise BadInput("a study's folder apart from its inputs", str(folder), "Choose another --out.")
    if folder.exists() and not folder.is_dir():
        raise BadInput("a folder for the study", f"{folder}, a file", "Choose another --out.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "study.json").exists():
        raise BadInput("a study, or an empty or new folder", f"{folder}, which holds something else", "Choose another --out.")
    io.check_writable(folder if folder.is_dir() else folder.parent)


def read_shard(text: str) -> tuple[int, int]:
    """ "2/4" as (2, 4)"""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        raise BadInput("a shard i/N with i from 1 to N", repr(text), "For example --shard 1/4.")
    return i, n
