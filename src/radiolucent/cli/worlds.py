"""`radiolucent worlds make` and `radiolucent worlds locate`: planted truth, and every method against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from radiolucent.cli.options import Json, Mass
from radiolucent.cli.terminal import progress, without_nan

app = typer.Typer(no_args_is_help=True, help="Worlds in which the cause of a network's output is known.")


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="lesion, distractor, interaction, volume or context.")],
    out: Annotated[Path, typer.Option(help="The world's folder, a new one.")],
    scans: Annotated[
        Path | None, typer.Option(help="A folder of 3D scans to plant into; default: RADIOLUCENT_DATA/ixi/t1.")
    ] = None,
    set_: Annotated[list[str], typer.Option("--set", help="Setting of the world: agreement=0.8 or radius=2,3.")] = [],  # noqa: B006
    size: Annotated[int, typer.Option(help="Voxels a side.")] = 24,
    cases: Annotated[int, typer.Option(min=1, help="Test cases to write.")] = 40,
    tested: Annotated[int, typer.Option(min=1, help="Test cases to measure the network on.")] = 200,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the training.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the training's cases.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="PyTorch's; the last bits of the weights depend on them.")] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Train a small network on a world: OUT/model, OUT/cases.csv, OUT/world.json, all or nothing."""
    from radiolucent.worlds import WORLDS, Training, scans_folder, world_of
    from radiolucent.worlds import make as run

    world = world_of(WORLDS, name, set_)
    training = Training(seed=seed, threads=threads, **({"steps": steps} if steps else {}))
    with progress(training.steps, as_json) as (say, step):
        facts = run(
            world,
            scans_folder(scans),
            out,
            training,
            size=size,
            cases=cases,
            tested=tested,
            overwrite=overwrite,
            say=say,
            step=step,
        )
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for effect in facts["effects"]:
        flipped = f", {effect['flipped']:.0%} of the classes flip" if "flipped" in effect else ""
        kind = "cause" if effect["cause"] else "no cause"
        print(f"{effect['part']} ({kind}): changes the output by {effect['change']:.3g}{flipped}")
    print(f"world: {out.resolve()}")


@app.command()
def locate(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `worlds make` wrote.")],
    methods: Annotated[
        list[str],
        typer.Option(help='Method, may be repeated: occlusion, or "occlusion(window=6)". Default: all, and the controls.'),
    ] = [],  # noqa: B006
    cases: Annotated[int, typer.Option(min=1, help="At most so many cases of each world, that the network gets right.")] = 10,
    layer: Annotated[list[str], typer.Option(help="Layer of layer-wise methods, may be repeated; default: the card's.")] = [],  # noqa: B006
    part: Mass = "positive",
    out: Annotated[Path | None, typer.Option(help="A new folder for located.md, located.csv and scores.csv too.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Every method's maps against the planted truth, as a Markdown table per world."""
    from radiolucent.worlds import locate as run
    from radiolucent.worlds import read_world, write

    for folder in folders:
        read_world(folder)  # before the first: minutes of maps are lost with the last
    with progress(cases * len(folders), as_json) as (say, step):
        found = [run(folder, methods, layers=layer, cases=cases, part=part, say=say, step=step) for folder in folders]
    rows = [row for located in found for row in located.rows()]
    if out is not None:
        write(out, found, overwrite=overwrite)
    if as_json:
        print(
            json.dumps({"rows": [without_nan(row) for row in rows], "failed": {f.world: dict(f.failed) for f in found}}, indent=1)
        )
    else:
        print("\n\n".join(located.markdown() for located in found))
