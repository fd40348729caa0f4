"""The same work on Dask: local processes, or a cluster that is running."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from radiolucent.errors import BadInput
from radiolucent.study.cohort import Case
from radiolucent.study.store import Study
from radiolucent.study.working import Job, Outcome, work

if TYPE_CHECKING:
    from distributed import Client

_ALLOWED_FAILURES = 2  # of local workers; another cluster has its own (distributed.scheduler.allowed-failures)
_KILLED = "kills its workers, also when it is the only case (out of memory?)"


def outcomes(job: Job, cases: Sequence[Case], workers: int, scheduler: str) -> Iterator[tuple[Case, Outcome]]:
    """Each case with how it ended, as they end. No more cases are given out than there are workers.

    A case whose worker dies is given to others until the scheduler's allowed failures are used up. It may have had bad
    company, so in the end such cases run once more, one at a time: what kills its workers again counts as failed.
    """
    with ExitStack() as stack:
        client = _client(stack, workers, scheduler)
        suspects: list[Case] = []
        for case, outcome in _as_they_end(client, job, cases, alone=False):
            if outcome.status == "failed" and outcome.reason == _KILLED:
                suspects.append(case)
            else:
                yield case, outcome
        for case, outcome in _as_they_end(client, job, suspects, alone=True):
            yield case, _noted(outcome, Study(job.folder), case) if outcome.reason == _KILLED else outcome


def _as_they_end(client: Client, job: Job, cases: Sequence[Case], alone: bool) -> Iterator[tuple[Case, Outcome]]:
    from distributed import as_completed

    waiting, running, ended = list(reversed(cases)), dict[Any, Case](), as_completed()

    def give_out() -> None:
        room = 1 if alone else max(1, sum(client.nthreads().values()))
        while waiting and len(running) < room:
            case = waiting.pop()
            future = client.submit(work, job, case, pure=False)
            running[future] = case
            ended.add(future)

    give_out()
    try:
        for future in ended:
            case = running.pop(future)
            outcome = _outcome(future, case)
            future.release()
            give_out()
            yield case, outcome
    finally:
        client.cancel(list(running))


def _client(stack: ExitStack, workers: int, scheduler: str) -> Client:
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            return stack.enter_context(Client(scheduler, timeout=10))
        except Exception as error:  # whatever sits there and answers in another language
            raise BadInput(
                "the address of a running Dask scheduler", f"{scheduler}: {str(error)[:300]}", "For example tcp://host:8786."
            ) from None
    stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES}))
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # the system's own limit: a case may need more than its share
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )
    return stack.enter_context(Client(stack.enter_context(cluster)))


def local_threads(workers: int) -> int | None:
    """PyTorch's threads in each of so many processes, so that they share the processors."""
    return max(1, (os.cpu_count() or 1) // workers) if workers else None


def _outcome(future: Any, case: Case) -> Outcome:
    from distributed.scheduler import KilledWorker

    error = future.exception()
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    if isinstance(error, KilledWorker):
        return Outcome(case.id, "failed", _KILLED)
    return Outcome(case.id, "failed", f"{type(error).__name__}: {error}", blameless=True)


def _noted(outcome: Outcome, study: Study, case: Case) -> Outcome:
    """Put aside, and no longer interrupted."""
    try:
        study.quarantine(case, outcome.reason)
        study.mark(case.folder).unlink(missing_ok=True)
    except OSError as error:
        return replace(outcome, reason=f"{outcome.reason}; {error}", blameless=True)
    return outcome
