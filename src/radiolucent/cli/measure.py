"""`radiolucent measure` and `radiolucent metrics`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radiolucent.cli.options import Json, Mass
from radiolucent.cli.terminal import progress, reason, table, without_nan

if TYPE_CHECKING:
    from radiolucent.scores import Scores

_MOST_LINES = 200


def measure(
    maps: Annotated[
        list[Path], typer.Argument(help="Maps: NIfTI files, or folders that `radiolucent explain` or an injected model wrote.")
    ],
    mask: Annotated[
        list[Path], typer.Option(help="One label image for all maps, or several or a folder: found by the case's name.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .xlsx, .csv or .parquet.")],
    label: Annotated[
        list[str], typer.Option(help="Labels to measure: 1,2 or names; default: the target's own, else all in the mask.")
    ] = [],  # noqa: B006
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Measure a segmentation's targets at all labels.")] = False,
    names: Annotated[Path | None, typer.Option(help="Names of the labels: TSV, CSV, FreeSurfer table, dataset.json.")] = None,
    metric: Annotated[list[str], typer.Option(help="Metric, may be repeated; see `radiolucent metrics`. Default: all.")] = [],  # noqa: B006
    threshold: Annotated[
        list[str], typer.Option(help="otsu, 0.5 (of the map's range), p95 or r0.02 (relevance); may be repeated.")
    ] = [  # noqa: B006
        "otsu"
    ],
    part: Mass = "positive",
    resample: Annotated[bool, typer.Option(help="Bring masks on another grid onto the map's (nearest neighbour).")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace tables that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Score maps against masks: a table per case, means with 95 % bootstrap intervals, a plot over the layers."""
    from radiolucent import evaluation
    from radiolucent.io.tables import read_names
    from radiolucent.metrics import against_mask

    named = {value: name.name for value, name in read_names(names).items()} if names else None
    chosen = [against_mask(text) for text in evaluation.with_thresholds(metric, threshold)]
    labels = evaluation.labels_of(label, named)
    found = evaluation.find_maps(maps)
    masks = evaluation.pair([m.case for m in found], mask)
    _check_tables(out, overwrite, [*maps, *mask, *masks.values(), *(p / "maps.csv" for p in maps), *([names] if names else [])])
    with progress(len(set(masks)), as_json) as (say, step):
        scores, failed = evaluation.evaluate(
            found,
            masks,
            say=say,
            step=step,
            all_pairs=all_pairs,
            metrics=chosen,
            labels=labels,
            names=named,
            part=part,
            resample=resample,
        )
        for case, error in failed.items():
            say(f"{case} failed: {reason(error)}")
    _tell(scores, failed, list(masks), scores.write(out) if scores.rows() else [], as_json)
    if failed:
        raise typer.Exit(3)


def _check_tables(out: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Refuse a name that is no table's, or that something has which must stay."""
    from radiolucent.errors import BadInput
    from radiolucent.io.tables import TABLES

    if out.suffix.lower() not in TABLES or not out.resolve().parent.is_dir():
        raise BadInput(f"a table to write that ends in {', '.join(TABLES)}, in a folder that exists", str(out), "Correct --out.")
    written = [out, out.with_stem(f"{out.stem}_means"), out.with_suffix(".png")]
    there = [str(path) for path in written if path.exists()]
    if there and not overwrite:
        raise BadInput("no table yet", ", ".join(there), "Choose another --out, or pass --overwrite.")
    if {path.resolve() for path in inputs} & {path.resolve() for path in written}:
        raise BadInput("a table apart from what is measured", str(out), "Choose another --out.")


def _tell(scores: Scores, failed: Mapping[str, Exception], cases: Sequence[str], files: Sequence[Path], as_json: bool) -> None:
    means = scores.means()
    if as_json:
        states = [
            {"case": c, "status": "failed", "reason": reason(failed[c])} if c in failed else {"case": c, "status": "done"}
            for c in cases
        ]
        print(
            json.dumps({"cases": states, "files": [str(f) for f in files], "means": [without_nan(row) for row in means]}, indent=1)
        )
    else:
        _print(means, files)
        for why, times in Counter(row["reason"] for row in scores.rows() if row["reason"]).most_common():
            print(f"undefined: {why} ({times} of {len(scores.rows())} scores)")
        print(f"{len(cases) - len(failed)} of {len(cases)} cases measured")


def metrics(name: Annotated[str | None, typer.Argument(help="Show one metric whole.")] = None, as_json: Json = False) -> None:
    """List the metrics (what each is, and which direction is better), or show one whole."""
    from radiolucent.metrics import KNOWN, METRICS, as_dict, describe, from_dict, label_of

    if name is not None and name not in KNOWN:
        from_dict({"metric": name})  # raises, and lists what there is
    kinds = [KNOWN[name]] if name else list(KNOWN.values())
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        settings = {key: value for key, value in as_dict(kind()).items() if key != "metric"}
        needs = "a mask" if kind.name in METRICS else "the model"
        rows.append({"metric": label_of(kind()), **describe(kind), "needs": needs, "settings": settings})
    if as_json:
        print(json.dumps(rows, indent=1))
    elif name:
        (row,) = rows
        listed = ", ".join(f"{key}={value}" for key, value in row["settings"].items()) or "none"
        about = f"{row['category']}, {row['direction']}, needs {row['needs']}"
        print(f"{name}: {row['summary']} ({about})\n\n{row['equation']}\n\n{row['meaning']}\n\nSettings: {listed}")
    else:
        columns = ["metric", "category", "direction", "needs"]
        table([*columns, "what it is"], [[str(row[column]) for column in [*columns, "summary"]] for row in rows])


def _print(means: Sequence[dict[str, Any]], files: Sequence[Path]) -> None:
    """The columns in which rows differ, and the numbers."""
    from radiolucent.scores import GROUP

    varies = {column for column in GROUP if len({row[column] for row in means}) > 1}
    columns = [c for c in GROUP if c == "metric" or (c in varies and c != "label")]
    lines = [[*(str(row[c]) for c in columns), *_numbers(row)] for row in means[:_MOST_LINES]]
    table([*columns, "mean", "95 % interval", "cases"], lines)
    if len(means) > _MOST_LINES:
        print(f"... and {len(means) - _MOST_LINES} more rows")
    for file in files:
        print(f"written: {file.resolve()}")


def _numbers(row: dict[str, Any]) -> list[str]:
    """Mean, interval and number of cases, in words where there is none."""
    mean = f"{row['mean']:.3f}" if row["n"] else "undefined"
    interval = f"{row['low']:.3f} to {row['high']:.3f}" if row["n"] > 1 else "-"
    return [mean, interval, f"{row['n']}" + (f" ({row['missing']} undefined)" if row["missing"] else "")]
