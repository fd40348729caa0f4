"""The same work on Dask: local processes, or a cluster that is running."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from radiolucent.errors import BadInput
from radiolucent.study.cohort import Case
from radiolucent.study.store import Study
from radiolucent.study.working import Job, Outcome, work

if TYPE_CHECKING:
    from distributed import Client

_ALLOWED_FAILURES = 2  # of a local worker: a case that kills a third one is left out


def outcomes(job: Job, cases: Sequence[Case], workers: int, scheduler: str) -> Iterator[tuple[Case, Outcome]]:
    """Each case with how it ended, as they end. No more cases are given out than there are workers.

    So a worker that is killed takes one case with it; the case is given to others until the scheduler's allowed
    failures are used up, and then counts as failed.
    """
    from distributed import as_completed

    with ExitStack() as stack:
        client = _client(stack, workers, scheduler)
        waiting, running = list(reversed(cases)), dict[Any, Case]()
        ended = as_completed()

        def give_out() -> None:
            room = max(1, sum(client.nthreads().values()))
            while waiting and len(running) < room:
                case = waiting.pop()
                future = client.submit(work, job, case, pure=False)
                running[future] = case
                ended.add(future)

        give_out()
        try:
            for future in ended:
                case = running.pop(future)
                outcome = _outcome(future, Study(job.folder), case)
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
        except (OSError, ValueError) as error:
            raise BadInput(
                "the address of a running Dask scheduler", f"{scheduler}: {error}", "For example tcp://host:8786."
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


def _outcome(future: Any, study: Study, case: Case) -> Outcome:
    from distributed.scheduler import KilledWorker

    error = future.exception()
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    if isinstance(error, KilledWorker):
        reason = f"killed its worker {error.allowed_failures + 1} times (out of memory?)"
        try:
            study.quarantine(case, reason)
        except OSError as full:
            return Outcome(case.id, "failed", f"{reason}; {full}", blameless=True)
        return Outcome(case.id, "failed", reason)
    return Outcome(case.id, "failed", f"{type(error).__name__}: {error}", blameless=True)
