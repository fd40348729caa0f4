"""A study's rows through the analysis into STUDY/analysis: tables, and in JSON what they are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from radiolucent import io
from radiolucent.analysis import Analysis, analyse, patients_of
from radiolucent.errors import BadInput
from radiolucent.io.tables import write_table
from radiolucent.study.cohort import read_table
from radiolucent.study.store import Study
from radiolucent.version import VERSION

if TYPE_CHECKING:
    from pandas import DataFrame

FOLDER = "analysis"


def analyse_study(study: Study, *, against: Study | None = None) -> Analysis:
    """Analyse the cases that are done, as [analysis] of the recipe says, and write all tables, or nothing.

    The same cases give the same bytes. `against` is another study, which drift is then measured from.
    """
    recipe = study.recipe
    others = None if against is None else against.rows()
    their = None if against is None else patients_of(against.manifest())
    cases = study.cases()
    found = analyse(
        study.rows(),
        cases,
        study.manifest(),
        recipe.analysis,
        outputs=outputs_of(study, cases),
        against=others,
        against_patients=their,
    )
    content = {"radiolucent": VERSION, "against": against.recipe.study.name if against else ""} | found.as_dict()
    with io.new_folder(study.folder / FOLDER, replace=True) as new:
        for name, table in found.tables.items():
            rows = table.to_dict("records")
            for kind in ("parquet", "csv"):
                write_table(new / f"{name}.{kind}", rows, columns=list(table.columns))
        io.put(new / "analysis.json", json.dumps(content, indent=1).encode())
    return found


def outputs_of(study: Study, cases: DataFrame) -> DataFrame | None:
    """A regression's outputs with mean and spread in the training data, from [analysis] training, else from its card.

    None for other models. Columns: target, mean, spread (NaN where nobody says it), source, unit.
    """
    from pandas import DataFrame

    model = study.facts()["identity"]["model"]
    if model.get("task") != "regression":
        return None
    names = list(model.get("classes") or dict.fromkeys(cases["target"]))
    columns = {name: list(model.get(name) or ()) for name in ("mean", "spread")}
    for name, values in columns.items():
        if values and len(values) != len(names):
            raise BadInput(f"one {name} for each of {len(names)} outputs", f"{len(values)}", "Correct the model card.")
    table = DataFrame({"target": names} | {name: values or [math.nan] * len(names) for name, values in columns.items()})
    table = table.assign(source="the model card", unit=model.get("unit", ""))
    training = study.recipe.analysis.training
    return table if training is None else _trained(table, training)


def _trained(outputs: DataFrame, path: Path) -> DataFrame:
    """Mean and spread from a table: of a row for each target, or from a column for each, with a row per training scan."""
    from pandas import DataFrame, to_numeric

    given = read_table(path, ["target"])
    if {"target", "mean", "spread"} <= set(given.columns):
        twice = given["target"][given["target"].duplicated()]
        if len(twice):
            raise BadInput(f"each target once in {path.name}", f"{twice.iloc[0]!r} twice", "Remove one of the rows.")
        found = given.set_index("target")[["mean", "spread"]]
    else:
        known = [name for name in outputs["target"] if name in given.columns]
        values = given[known].apply(to_numeric, errors="coerce")
        found = DataFrame({"mean": values.mean(), "spread": values.std()})
    found = found.apply(to_numeric, errors="coerce")
    if not set(outputs["target"]) & set(found.index):
        have = f"columns {', '.join(map(str, given.columns))}"
        expected = f"columns target, mean and spread, or one called like each output, in {path.name}"
        raise BadInput(expected, have, f"The outputs are {', '.join(outputs['target'][:20])}.")
    about = found.reindex(outputs["target"])
    return outputs.assign(mean=about["mean"].to_numpy(), spread=about["spread"].to_numpy(), source=f"the table {path.name}")


def read_analysis(study: Study) -> dict[str, DataFrame]:
    """The tables that `analyse_study` wrote, by name."""
    from pandas import read_parquet

    folder: Path = study.folder / FOLDER
    if not (folder / "analysis.json").exists():
        raise BadInput(f"an analysis in {folder}", "none", "Run `radiolucent study analyse` first.")
    return {path.stem: read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
