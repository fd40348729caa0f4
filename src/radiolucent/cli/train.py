"""`radiolucent train`: from a recipe to a model, with its card and its measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from radiolucent.cli.terminal import progress, table


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="The training's folder: new, or one that this recipe has begun.")],
    preset: Annotated[str, typer.Option(help="paper, fast or anatomy, in place of the recipe's own preset.")] = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="That many seeds, from 0, in place of the recipe's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Train a model, or go on with it. May be killed and called again at any time: the result stays the same."""
    from dataclasses import replace

    from radiolucent.training import read_recipe
    from radiolucent.training import train as run

    read = read_recipe(recipe, preset)
    if seeds:
        read = replace(read, training=replace(read.training, seeds=tuple(range(seeds))))
    with progress(0, as_json) as (say, step):
        summary = run(read, out, say=say, begin=step, step=step)
    if not summary:  # another process of several says it
        return
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    rows = [
        [row["split"], row["measure"], *(_text(row[key]) for key in ("mean", "sd")), str(row["seeds"])]
        for row in summary["measures"]
    ]
    table(["split", "measure", "mean", "sd over seeds", "seeds"], rows)
    print(f"model: {out.resolve()} (seed {summary['best_in_validation']}, the best in validation)")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
