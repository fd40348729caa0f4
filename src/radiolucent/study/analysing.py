"""A study's rows through the analysis into STUDY/analysis: tables, and in JSON what they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from radiolucent import io
from radiolucent.analysis import Analysis, analyse
from radiolucent.errors import BadInput
from radiolucent.io.tables import write_table
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
    found = analyse(study.rows(), study.cases(), study.manifest(), recipe.analysis, against=others)
    content = {"radiolucent": VERSION, "against": against.recipe.study.name if against else ""} | found.as_dict()
    with io.new_folder(study.folder / FOLDER, replace=True) as new:
        for name, table in found.tables.items():
            rows = table.to_dict("records")
            for kind in ("parquet", "csv"):
                write_table(new / f"{name}.{kind}", rows, columns=list(table.columns))
        io.put(new / "analysis.json", json.dumps(content, indent=1).encode())
    return found


def read_analysis(study: Study) -> dict[str, DataFrame]:
    """The tables that `analyse_study` wrote, by name."""
    from pandas import read_parquet

    folder: Path = study.folder / FOLDER
    if not (folder / "analysis.json").exists():
        raise BadInput(f"an analysis in {folder}", "none", "Run `radiolucent study analyse` first.")
    return {path.stem: read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
