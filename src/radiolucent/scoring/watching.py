"""How far a long explanation has come, for whoever watches it from outside; for nobody else it costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, int], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """While inside, watcher(done, total) hears of every step in this thread; None hides the steps of a part from it."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def tell(done: int, total: int) -> None:
    """Say that `done` of `total` perturbed copies have been through the model; 0 at the start."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(done, total)
