"""What all commands say and how: progress on standard error, tables and reasons in plain words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(cases: int, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[..., None]]]:
    """(say, step): a progress bar on a terminal, plain lines elsewhere, on standard error. Warnings become lines.

    `step()` is one case more; `step(40)` says that there are 40, where that is known only later. Below the bar of the
    cases runs one of the perturbed copies that a long method has scored, with the time left.
    """
    from rich.console import Console
    from rich.progress import Progress

    from radiolucent.errors import InputWarning
    from radiolucent.scoring import watched

    console = Console(stderr=True, highlight=False)
    bar = Progress(console=console, transient=True, disable=quiet or not console.is_terminal)
    task = bar.add_task("", total=cases)
    copies = bar.add_task("", visible=False)

    def say(text: str) -> None:
        bar.update(task, description=text[:60])
        console.print(text, markup=False, soft_wrap=True)

    def show(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
        say(f"note: {message}") if issubclass(category, InputWarning) else usual(message, category, *rest, **named)

    def step(cases: int | None = None) -> None:
        bar.advance(task) if cases is None else bar.update(task, total=cases)

    def follow(done: int, total: int) -> None:
        if not done:
            bar.reset(copies, total=total, visible=False)
        bar.update(copies, completed=done, visible=0 < done < total, description=f"  {done} of {total} copies scored")

    with warnings.catch_warnings(), bar, watched(follow):
        usual, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", InputWarning)
        yield say, step


def reason(error: Exception) -> str:
    """An error of ours speaks for itself; another one needs its type to be understood."""
    return str(error) if type(error).__name__ == "BadInput" else f"{type(error).__name__}: {error}"


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        for row in rows:
            print("\t".join(row).rstrip())
        return
    drawn = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    console.print(drawn)
