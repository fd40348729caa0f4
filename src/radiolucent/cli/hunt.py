"""`radiolucent hunt`: which images does a classifier decide by something else than the anatomy?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from radiolucent.cli.options import Json, Model, Trust, Weights, load_model, place_of
from radiolucent.cli.terminal import progress, table

Part = Literal["positive", "absolute"]
Colour = Literal["refuse", "grey", "channels"]


def hunt(
    cases: Annotated[Path, typer.Argument(help="Table as for `radiolucent train`: image, label, and a column per covariate.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the page and the tables.")],
    split: Annotated[str, typer.Option(help="Cases of this split only; --split '' takes all.")] = "",
    where: Annotated[str, typer.Option(help="Cases for which this holds: 'label == hand and hardware == False'.")] = "",
    label: Annotated[str, typer.Option(help="Column of the true classes.")] = "label",
    mask: Annotated[str, typer.Option(help="Column of images that mark the anatomy; without one a rule finds bone.")] = "mask",
    target: Annotated[str, typer.Option(help="Class to explain in every case; default: the one that the network says.")] = "",
    covariate: Annotated[list[str], typer.Option(help="Column to test, may be repeated; default: all others.")] = [],  # noqa: B006
    method: Annotated[str, typer.Option(help="Method (see `radiolucent methods`).")] = "attentive-response",
    layer: Annotated[str, typer.Option(help="Layer for layer-wise methods; default: the card's.")] = "",
    set_: Annotated[list[str], typer.Option("--set", help="Setting of the method: n=9. Default: ranking=score.")] = [],  # noqa: B006
    part: Annotated[Part, typer.Option(help="What counts in a signed map.")] = "positive",
    inverted: Annotated[
        bool, typer.Option(help="Bone is dark in these images: to find it; the model sees them as they are.")
    ] = False,
    colour: Annotated[Colour, typer.Option(help="What happens to colour images.")] = "refuse",
    pictures: Annotated[int, typer.Option(min=1, max=60, help="Cases that are drawn with their units.")] = 12,
    weights: Weights = None,
    trust_model: Trust = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Rank images by the response outside the anatomy, and test it against covariates, for right and wrong answers apart."""
    from radiolucent.methods import from_settings
    from radiolucent.study.hunt_page import verdicts, write_hunt
    from radiolucent.study.hunting import Asked, hunt_table

    _check(out, overwrite, [cases, place_of(model), *([weights] if weights else [])])
    network, card = load_model(model, weights, trust_model)
    ranked = method != "attentive-response" or any(s.partition("=")[0].rpartition(".")[2] == "ranking" for s in set_)
    (chosen,) = from_settings([method], set_ if ranked else [*set_, "ranking=score"], [layer or card.layer])
    asked = Asked(chosen, label, mask, target, split, where, tuple(covariate), part, inverted, colour)
    with progress(0, as_json) as (say, step):
        found = hunt_table(cases, network, card, asked, say=say, begin=step, step=step)
        say("drawing the page")
        page = write_hunt(out, found, network, card, asked, pictures=pictures, overwrite=overwrite)
    ranking = found.hunt.ranking
    if as_json:
        values = {"cases": len(ranking), "failed": dict(found.failed), "found": verdicts(found), "report": str(page)}
        print(json.dumps(values | {"ranking": json.loads(ranking.to_json(orient="records"))}, indent=1))
    else:
        rows = [[r["case"], r["truth"], r["predicted"], f"{r['outside']:.3f}"] for r in ranking.head(10).to_dict("records")]
        table(["case", "truth", "predicted", "response outside"], rows)
        for verdict in verdicts(found):
            print(verdict)
        print(f"report: {page.resolve()}")
    if found.failed:
        raise typer.Exit(3)


def _check(out: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Refuse before any work a folder that cannot be written, or whose contents are not ours to replace."""
    from radiolucent import io
    from radiolucent.errors import BadInput

    if out.exists() and not out.is_dir():
        raise BadInput("a folder for the results", f"{out}, a file", "Choose another --out.")
    if out.exists() and not overwrite:
        raise BadInput("no results yet", f"{out}", "Choose another --out, or pass --overwrite.")
    if out.exists() and any(out.iterdir()) and not (out / "hunt.json").is_file():
        raise BadInput("an earlier hunt to overwrite", f"{out}, which holds something else", "Choose another --out.")
    if any(path.resolve().is_relative_to(out.resolve()) for path in inputs):
        raise BadInput("results apart from what they are made of", f"{out} holds an input", "Choose another --out.")
    io.check_writable(out.resolve().parent)
