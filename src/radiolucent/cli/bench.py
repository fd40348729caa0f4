"""`radiolucent bench`: methods against each other, from a recipe to a scoreboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from radiolucent.cli.options import Json
from radiolucent.cli.terminal import progress


def bench(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="The scoreboard's folder: new, or one that this recipe has begun.")],
    retry: Annotated[bool, typer.Option(help="Do again what has failed.")] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Compute nothing: tables and page of what is there, also while it runs.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch's threads.")] = None,
    as_json: Json = False,
) -> None:
    """Judge methods by metrics, over cases and models: tables, ranks, a page. May be killed and called again at any time."""
    import torch

    from radiolucent.bench import Bench, Run, read_recipe, run, write_results
    from radiolucent.bench.reporting import verdicts

    if threads:
        torch.set_num_threads(threads)
    read = read_recipe(recipe)
    if only_report:
        done = Run(Bench(out.absolute()))
        board = write_results(done.bench, read)
    else:
        with progress(0, as_json) as (say, step):
            done = run(read, out, retry=retry, say=say, begin=step, step=step)
        board = write_results(done.bench, read)
    page = str(done.bench.page.resolve())
    if as_json:
        values = {"done": done.done, "failed": done.failed, "elsewhere": done.elsewhere, "there": done.there}
        print(json.dumps(values | {"report": page}, indent=1))
    else:
        if not only_report:
            print(f"{len(done.done)} cases done, {len(done.failed)} failures, {done.there} cases were there before")
        for line in verdicts(board):
            print(f"  {line}")
        print(f"report: {page}")
    if done.failed:
        raise typer.Exit(3)
