"""`radiolucent study run | status | compact | analyse`: a whole cohort, from a recipe to tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from radiolucent.cli.terminal import progress, table

app = typer.Typer(no_args_is_help=True, help="A whole cohort: run a recipe, see where it stands, compact and analyse its rows.")

Folder = Annotated[Path, typer.Argument(help="The study's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="The study's folder: new, or one that this recipe has begun.")],
    workers: Annotated[int, typer.Option(min=0, help="Processes on this machine; 0: this one.")] = 0,
    scheduler: Annotated[str, typer.Option(help="A Dask cluster that is running: tcp://host:8786.")] = "",
    shard: Annotated[str, typer.Option(help="One of N parts of the cohort: i/N, from 1.")] = "1/1",
    retry: Annotated[bool, typer.Option(help="Do the cases again that have failed.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="PyTorch's threads per process; default: shared among workers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do what is left of a study. May be killed and called again at any time; several may run at once."""
    from radiolucent.study import read_recipe
    from radiolucent.study import run as run_study
    from radiolucent.study.cluster import local_threads
    from radiolucent.study.running import read_shard

    read, part = read_recipe(recipe), read_shard(shard)
    with progress(0, as_json) as (say, step):
        done = run_study(
            read,
            out,
            workers=workers,
            scheduler=scheduler,
            shard=part,
            retry=retry,
            threads=threads or local_threads(workers),
            say=say,
            begin=step,
            step=step,
        )
    if as_json:
        print(json.dumps({"done": done.done, "failed": done.failed, "elsewhere": done.elsewhere, "there": done.there}, indent=1))
    else:
        print(f"{len(done.done)} cases done, {len(done.failed)} failed, {done.there} were there before")
        if done.quarantined:
            print(f"{done.quarantined} failed before and were left out: --retry does them again")
        if done.elsewhere:
            print(f"{len(done.elsewhere)} are being done by another process: {', '.join(done.elsewhere[:10])}")
    if done.failed or done.quarantined:
        raise typer.Exit(3)


@app.command()
def status(study: Folder, as_json: Json = False) -> None:
    """How many cases are done, failed and why, running, or still waiting."""
    from radiolucent.study import Study

    found = Study.open(study).status()
    if as_json:
        values = {k: getattr(found, k) for k in ("done", "failed", "running", "interrupted", "waiting")}
        print(json.dumps({k: dict(v) if isinstance(v, dict) else list(v) for k, v in values.items()}, indent=1))
        return
    print(f"{len(found.done)} of {found.total} cases done, {len(found.failed)} failed, {len(found.waiting)} left")
    if found.running:
        print(f"running: {', '.join(found.running)}")
    if found.interrupted:
        begun = [f"{case} (begun {n} times)" if n > 1 else case for case, n in found.interrupted.items()]
        print(f"interrupted when their process was killed: {', '.join(begun)}")
    if found.failed:
        table(["failed", "reason"], [[case, reason] for case, reason in found.failed.items()])


@app.command()
def compact(study: Folder, as_json: Json = False) -> None:
    """Gather the rows of all cases into one Parquet file each: the same bytes for the same rows."""
    from radiolucent.study import Study

    opened = Study.open(study)
    counts = opened.compact()
    if as_json:
        print(json.dumps(counts, indent=1))
    else:
        for name, rows in counts.items():
            print(f"{(opened.folder / 'compact' / f'{name}.parquet').resolve()}: {rows} rows")


@app.command()
def analyse(
    study: Folder,
    against: Annotated[Path | None, typer.Option(help="Another study, to measure drift from.")] = None,
    as_json: Json = False,
) -> None:
    """Importance, anomaly, bias, drift, laterality, a regression's structures, over the cases that are done: tables and a page."""
    from radiolucent.study import Study
    from radiolucent.study.analysing import FOLDER, analyse_study
    from radiolucent.study.reporting import write_study_report

    opened = Study.open(study)
    found = analyse_study(opened, against=Study.open(against) if against else None)
    page = write_study_report(opened, found)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
        return
    print(f"{found.counts['cases']} cases of {found.counts['patients']} patients, tables in {(opened.folder / FOLDER).resolve()}")
    print(f"report: {page.resolve()}")
    for note in found.notes:
        print(f"note: {note}")
    for name in ("bias", "drift", "laterality", "mirror", "variability", "asymmetry", "anomaly_quality"):
        rows = found.tables.get(name, ())
        if not len(rows):
            continue
        shown = rows[rows["q"] < found.settings.alpha].sort_values("q", kind="stable")
        tested = int(rows["p"].notna().sum())
        hits = "1 finding" if len(shown) == 1 else f"{len(shown)} findings"
        left = f"; {len(rows) - tested} more could not be made" if tested < len(rows) else ""
        print(f"{name}: {hits} in {tested} tests at a false discovery rate of {found.settings.alpha:g}{left}")
        for row in shown.head(5).to_dict("records"):
            where = ", ".join(str(row[key]) for key in ("method", "layer", "target", "pair") if row.get(key))
            print(f"  {where}: {row['verdict']} (q = {row['q']:.2g})")
