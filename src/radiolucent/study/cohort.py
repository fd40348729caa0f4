"""Who is in a study: cases with covariates, from a manifest, a BIDS folder or an nnU-Net raw folder."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radiolucent.errors import BadInput, InputWarning

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


@dataclass(frozen=True)
class Case:
    """One image to explain. `folder` is the name of its folder: the id, where that is a safe name."""

    id: str
    image: Path
    label: Path | None = None
    covariates: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class Cohort:
    """Cases in the order in which they were given, each id once; `root` is what their paths are relative to."""

    cases: tuple[Case, ...]
    root: Path

    def __post_init__(self) -> None:
        ids = [case.id for case in self.cases]
        twice = sorted(i for i, n in Counter(ids).items() if n > 1)
        if not ids or twice or not all(ids):
            got = f"twice: {', '.join(map(repr, twice[:20]))}" if twice else "an empty id" if ids else "none"
            raise BadInput(f"cases in {self.root}, each with an id of its own", got, "Correct the list of cases.")
        odd = [case.id for case in self.cases if any(p and _impossible(p) for p in (case.image, case.label))]
        if odd:
            raise BadInput("file names that the system can have", f"others for {', '.join(odd[:9])}", "Correct the list of cases.")
        if not any(case.image.exists() for case in self.cases):
            raise BadInput("images of the cases", f"none of {len(ids)} is there, as {self.cases[0].image}", "Check the paths.")
        named = tuple(Case(c.id, c.image, c.label, c.covariates, name) for c, name in zip(self.cases, folders(ids), strict=True))
        object.__setattr__(self, "cases", named)

    def paths(self) -> dict[str, str]:
        """Case -> its image and label, relative to the root: what must stay the same while a study runs."""
        return {c.id: " ".join(os.path.relpath(p, self.root) for p in (c.image, c.label) if p) for c in self.cases}

    def table(self) -> pa.Table:
        """The manifest: case, image, label ("" where there is none), then the covariates, each column of one type."""
        import pyarrow as pa

        rows = [{"case": c.id, "image": str(c.image), "label": str(c.label or ""), **c.covariates} for c in self.cases]
        columns = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = [row.get(name) for row in rows]
            if any(isinstance(cell, str) for cell in cells):
                cells = [None if cell is None else str(cell).encode(errors="replace").decode() for cell in cells]
            if any(isinstance(cell, int) and abs(cell) >= 1 << 63 for cell in cells):
                cells = [None if cell is None else float(cell) for cell in cells]
            columns[name] = pa.array(cells)
        return pa.table(columns)

    def part(self, split: str) -> Cohort:
        """The cases of one split, by the covariate of that name."""
        if not split:
            return self
        have = sorted({str(c.covariates["split"]) for c in self.cases if "split" in c.covariates})
        if split not in have:
            raise BadInput(f"cases whose split is {split!r}", ", ".join(have) or "no column named split", "Correct [cohort].")
        return Cohort(tuple(c for c in self.cases if str(c.covariates.get("split")) == split), self.root)


def _impossible(path: Path) -> bool:
    """A name that no system can have: an error of its own at every look."""
    return "\0" in str(path) or any(len(os.fsencode(part)) > 255 for part in path.parts)


def folders(ids: Sequence[str]) -> list[str]:
    """A safe name of a folder for each id: the id itself, or, where that is none on some system, part of it and a hash."""
    folded = Counter(name.casefold() for name in ids)
    return [name if _safe(name) and folded[name.casefold()] == 1 else _hashed(name) for name in ids]


def _safe(name: str) -> bool:
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name) and not name.endswith(".")
    return bool(plain) and name.partition(".")[0].casefold() not in _RESERVED


def _hashed(name: str) -> str:
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"case-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:40]}-{digest}"


def read_manifest(path: Path) -> Cohort:
    """A table with the columns case and image, and where there is one label; every other column is a covariate.

    CSV (comma or semicolon), TSV or Parquet. Relative paths start at the table's folder.
    """
    table = read_table(path, ("case", "image", "label"))
    missing = [name for name in ("case", "image") if name not in table.columns]
    if missing:
        raise BadInput(f"the columns case and image in {path.name}", f"{', '.join(map(str, table.columns))}", "Rename them.")
    nothing = [str(c) for c, image in zip(table["case"], table["image"], strict=True) if not image]
    if nothing:
        raise BadInput(f"an image for every case in {path.name}", f"none for {', '.join(nothing[:20])}", "Remove these rows.")
    cases = []
    for row in records(table):
        image, label = row.pop("image"), row.pop("label", "")
        cases.append(Case(row.pop("case"), path.parent / image, path.parent / label if label else None, row))
    return Cohort(tuple(cases), path.parent)


def read_table(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    """A table with types; the columns `texts` as text, even where they look like numbers or like nothing (007, NA)."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path).reset_index(drop=True)
            for name in set(texts) & set(table.columns):
                table[name] = pd.Series(["" if pd.isna(v) else str(v).strip() for v in table[name]], dtype=object)
        else:
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
            mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
            columns = [name.strip().strip('"') for name in header.rstrip("\r\n").split(mark)]
            if len(set(columns)) < len(columns):
                raise BadInput(f"each column once in {path.name}", header.strip(), "Rename one of them.")
            how: dict[str, Any] = {"sep": mark, "encoding": "utf-8-sig", "skipinitialspace": mark != "\t"}
            table = pd.read_csv(path, **how)
            if mark == ";":  # where commas are decimal points: 3,5
                for name in table.columns:
                    cells = table[name].dropna()
                    if len(cells) and all(isinstance(v, str) and re.fullmatch(r"\s*[+-]?\d+(,\d+)?\s*", v) for v in cells):
                        table[name] = table[name].str.replace(",", ".").astype(float)
            as_written = pd.read_csv(path, **how, dtype=str, keep_default_na=False)
            for name in set(texts) & set(table.columns):
                table[name] = as_written[name].str.strip().to_numpy(object)
    except BadInput:
        raise
    except Exception as error:  # the readers raise anything
        raise BadInput(f"a table (CSV, TSV or Parquet) at {path}", f"{type(error).__name__}: {error}", "Check the file.") from None
    if len(table) and not isinstance(table.index, pd.RangeIndex):
        raise BadInput(f"as many cells as columns in each row of {path.name}", "more", "Quote cells that hold the separator.")
    table = table.rename(columns=lambda name: str(name).strip())
    for name in table.columns:
        cells = table[name].dropna()
        nested = [v for v in cells if isinstance(v, (list, dict, set, tuple)) or (hasattr(v, "shape") and v.shape)]
        if nested:
            raise BadInput(f"one value in each cell of {path.name}", f"{nested[0]!r} in {name}"[:200], "Leave the column out.")
    return table


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows with Python's own values; None where a cell is empty."""
    import pandas as pd

    columns = {name: [None if pd.isna(v) else v for v in table[name].tolist()] for name in table.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def warn_of_doubles(cohort: Cohort) -> None:
    """One image as two cases counts twice. One patient in two splits: the model may have been trained on what it is tested on."""
    twice = [str(path) for path, n in Counter(case.image for case in cohort.cases).items() if n > 1]
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        warnings.warn(f"the same image is that of several cases: {', '.join(twice[:5])}{more}", InputWarning, stacklevel=3)
    splits: dict[str, set[str]] = {}
    for case in cohort.cases:
        known = {name.casefold(): value for name, value in case.covariates.items()}
        patient = next((known[n] for n in ("patient", "patient_id") if known.get(n) is not None), None)
        if patient is not None and known.get("split") is not None:
            splits.setdefault(str(patient), set()).add(str(known["split"]))
    both = sorted(patient for patient, names in splits.items() if len(names) > 1)
    if both:
        more = f" and {len(both) - 10} more" if len(both) > 10 else ""
        warnings.warn(f"the same patient is in several splits: {', '.join(both[:10])}{more}", InputWarning, stacklevel=3)
