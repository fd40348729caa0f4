"""Make the table of cases that the four trainings of this folder take.

    python examples/anatomy/table.py --data ../shared/data/fracatlas

Images of one region only, each picture once; 80 % training, 10 % validation, 10 % test by "patient" (fracatlas.py says what
that is here), with equal shares of regions and fractures in each. The same data gives the same table.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from fracatlas import COVARIATES, each_once, read_table
from pandas import DataFrame

from radiolucent.training import splits

SEED = 0
HERE = Path(__file__).parent


def cases(data: Path) -> DataFrame:
    """A row per case, with its split."""
    table = read_table(data)
    table = each_once(table[table["label"] != ""])
    kinds = (table["label"] + table["fracture"]).to_numpy()
    return table.assign(split=splits.make(kinds, table["patient"].tolist(), 0.1, 0.1, SEED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="FracAtlas: dataset.csv, images/")
    parser.add_argument("--out", type=Path, default=HERE / "cases.csv")
    given = parser.parse_args()
    table = cases(given.data)
    table["image"] = [os.path.relpath(path.resolve(), given.out.resolve().parent) for path in table["image"]]
    table[["case", "image", "label", "fracture", "split", "patient", *COVARIATES]].to_csv(given.out, index=False)
    print(pd.crosstab(table["split"], [table["label"], table["fracture"]]))
    print(f"{len(table)} images of {table['patient'].nunique()} groups in {given.out}")


if __name__ == "__main__":
    main()
