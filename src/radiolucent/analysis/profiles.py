"""Region rows as matrices: for each method, layer and target, cases x regions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from radiolucent.errors import BadInput
from radiolucent.geometry import Array

GROUP = ["method", "layer", "target"]
REGION = ["kind", "label", "region", "hemisphere"]
PATIENT = ["patient", "patient_id"]
BACKGROUND = 0
"""The label of what is no region."""

Patients = Mapping[str, str] | None
"""Case -> patient, where some patients have several cases; None where every case is a patient."""


class Profile(NamedTuple):
    """One group's values, (units, regions). A unit is a case, or a patient as the mean of their cases."""

    method: str
    layer: str
    target: str
    units: tuple[str, ...]
    regions: DataFrame
    values: Array

    @property
    def key(self) -> dict[str, str]:
        return {"method": self.method, "layer": self.layer, "target": self.target}

    @property
    def names(self) -> list[str]:
        """One name per region: the same structure of two hemispheres has its side behind it."""
        twice = self.regions["region"].duplicated(keep=False)
        rows = zip(self.regions["region"], self.regions["hemisphere"], self.regions["label"], twice, strict=True)
        return [f"{name} {side or label}" if double else str(name) for name, side, label, double in rows]


def checked(regions: DataFrame) -> DataFrame:
    """The rows, if they are what `by_region` makes; sorted, so that nothing depends on the order in which they came."""
    needed = ["case", *GROUP, *REGION, "mass_fraction", "density", "enrichment", "voxels"]
    missing = [c for c in needed if c not in regions.columns]
    if missing or regions.empty:
        got = f"no column {', '.join(missing)}" if missing else "no row"
        raise BadInput("rows of by_region with a case", got, "Run the study first, or name the columns so.")
    regions = regions.fillna(dict.fromkeys(["layer", "hemisphere"], "")).sort_values(["case", *GROUP, *REGION], ignore_index=True)
    twice = regions.duplicated(["case", *GROUP, *REGION])
    if twice.any():
        row = regions[twice].iloc[0]
        what = f"{row['case']}, {row['method']}, {row['target']}, {row['region']}"
        raise BadInput("one row per case, method, layer, target and region", f"several for {what}", "Is a case in it twice?")
    sums = regions[regions["kind"] == "label"].groupby(["case", *GROUP])["mass_fraction"].sum()
    wrong = sums[~((sums - 1).abs() < 1e-6)]
    if len(wrong):
        got = f"{wrong.iloc[0]:.6g} for {', '.join(map(str, wrong.index[0]))} ({len(wrong)} such)"
        raise BadInput("mass fractions of the label rows that sum to 1", got, "Keep the background's rows.")
    return regions


def profiles(
    regions: DataFrame, value: str = "mass_fraction", *, kinds: Sequence[str] = ("label",), patients: Patients = None
) -> Iterator[Profile]:
    """Each group's matrix of `value`, by name of method and layer and by number of the target's own region.

    A region that is absent from a scan has no row there. Its mass is then 0, as is its volume: no relevance can lie
    in it. Its density and enrichment are 0 / 0 and so NaN, which means leave out; so does the NaN of what is near to a
    target that is not there.
    """
    rows = regions[regions["kind"].isin(list(kinds))]
    absent = np.nan if value in ("density", "enrichment") or "near" in kinds else 0.0
    own = regions[regions["kind"] == "label"].groupby("region")["label"].min().to_dict()
    groups = dict(list(rows.groupby(GROUP)))
    for key in sorted(groups, key=lambda k: (k[0], k[1], own.get(k[2], np.inf), k[2])):
        wide = groups[key].pivot(index="case", columns=REGION, values=value).astype(float).fillna(absent)
        wide = wide.sort_index(axis=0).sort_index(axis=1)
        if patients is not None:
            wide = wide.groupby([patients.get(str(case), str(case)) for case in wide.index]).mean()
        method, layer, target = map(str, key)
        yield Profile(method, layer, target, tuple(map(str, wide.index)), wide.columns.to_frame(index=False), wide.to_numpy())


def patients_of(manifest: DataFrame) -> Patients:
    """Case -> patient, from the manifest's column patient or patient_id (in any case); None where it has neither.

    A case without an entry is its own patient.
    """
    columns = {str(name).casefold(): name for name in manifest.columns}
    column = next((columns[name] for name in PATIENT if name in columns), None)
    if column is None:
        return None
    known = manifest[manifest[column].notna() & (manifest[column].astype(str) != "")]
    return dict(zip(known["case"].astype(str), known[column].astype(str), strict=True))


def units(cases: Series, patients: Patients) -> Series:
    """For each row whose case it is."""
    return cases.astype(str).map(lambda case: (patients or {}).get(case, case))


def selected(manifest: DataFrame, query: str) -> set[str]:
    """The cases for which all comparisons hold: `scanner == "A" and age < 60`. A missing value fulfils none.

    No code is run: a comparison is a column, one of == != < <= > >=, and a number, a word or a text in quotes.
    """
    chosen = Series(True, index=manifest.index)
    for part in re.split(r"\s+and\s+", query.strip()):
        found = re.fullmatch(r"""\s*(.+?)\s*(==|!=|<=|>=|<|>)\s*("[^"]*"|'[^']*'|[^\s"']+)\s*""", part)
        if not found or found[1] not in manifest.columns:
            columns = ", ".join(map(str, manifest.columns))
            do = f'Write for example scanner == "A" and age < 60. Columns: {columns}.'
            raise BadInput("comparisons of covariates joined by and", repr(part), do)
        chosen &= _compared(manifest[found[1]], found[2], found[3])
    return set(manifest.loc[chosen, "case"].astype(str))


def _compared(column: Series, sign: str, text: str) -> Series:
    value: float | str = text.strip("\"'")
    if pd.api.types.is_bool_dtype(column) or column.dropna().map(type).eq(bool).all():  # with gaps, booleans are objects
        column = column.map(lambda v: str(v).lower(), na_action="ignore")
        value = str(value).lower()
    elif pd.api.types.is_numeric_dtype(column):
        try:
            value = float(value)
        except ValueError:
            do = "Compare it with a number."
            raise BadInput(f"a number to compare {column.name} with", repr(text), do) from None
    elif sign not in ("==", "!="):
        raise BadInput(f"== or != for the text in {column.name}", sign, "Only numbers have an order.")
    operations = {"==": column.eq, "!=": column.ne, "<": column.lt, "<=": column.le, ">": column.gt, ">=": column.ge}
    return operations[sign](value) & column.notna()
