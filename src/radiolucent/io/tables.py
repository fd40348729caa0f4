"""Tables: label names in the formats that people have, and rows out as CSV, Parquet or Excel."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.io.atomic import put


@dataclass(frozen=True)
class Name:
    """What a label value stands for. `colour` is #rrggbb or "", `hemisphere` left, right, midline or ""."""

    name: str
    hemisphere: str = ""
    colour: str = ""


def read_names(path: str | Path) -> dict[int, Name]:
    """Label value -> name.

    BIDS `dseg.tsv` and any TSV or CSV with the columns index (or label, value, id) and name (or region,
    structure, and optionally hemisphere, color), FreeSurfer colour tables (.txt, .ctab), nnU-Net
    `dataset.json`.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"a table of names at {path}", str(error), "TSV, CSV, a FreeSurfer table or dataset.json.") from None
    kind = path.suffix.lower()
    pairs = (
        _dataset_json(path, text) if kind == ".json" else _columns(path, text) if kind in (".tsv", ".csv") else _freesurfer(text)
    )
    names: dict[int, Name] = {}
    for value, name in pairs:
        if names.setdefault(value, name) != name:
            got = f"{names[value].name!r} and {name.name!r}"
            raise BadInput(f"one name for label {value} in {path.name}", got, "Remove one of the rows.")
    if not names:
        raise BadInput(
            f"rows of label values and names in {path.name}",
            "none",
            "Give columns index and name (TSV, CSV), a FreeSurfer table or dataset.json.",
        )
    return names


def _columns(path: Path, text: str) -> list[tuple[int, Name]]:
    try:
        reader = csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise BadInput(f"a table of names in {path.name}", str(error), "Export it again as plain text.") from None
    header = [cell.lower() for cell in rows[0]] if rows else []
    index = next((c for c in ("index", "label", "value", "id") if c in header), None)
    name = next((c for c in ("name", "region", "structure") if c in header), None)
    if not index or not name:
        raise BadInput(
            f"the columns index and name in {path.name}", f"{header}", "Rename them (also read: label/value/id, region/structure)."
        )
    pairs = []
    for cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        if not row.get(index):
            continue
        try:
            value = int(row[index])
        except ValueError as error:
            raise BadInput(f"whole numbers in the column {index} of {path.name}", str(error), "Correct it.") from None
        if not row.get(name):
            raise BadInput(f"a name for label {value} in {path.name}", "an empty cell", "Fill it in.")
        side = _SIDES.get(row.get("hemisphere", "").lower(), "")
        colour = row.get("color", row.get("colour", "")).lower()
        pairs.append((value, Name(row[name], side, colour if re.fullmatch("#[0-9a-f]{6}", colour) else "")))
    return pairs


_SIDES = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right", "midline": "midline"}


def _freesurfer(text: str) -> list[tuple[int, Name]]:
    """Lines of `index name R G B A`; # starts a comment."""
    pairs = []
    for line in text.splitlines():
        found = re.match(r"\s*([0-9]+)\s+([^\s#]*[^\s#0-9][^\s#]*)\s+([0-9]+)\s+([0-9]+)\s+([0-9]+)\b", line)
        if found:
            value, name, *rgb = found.groups()
            side = re.match(r"(left|right)[-_]|(?:ctx|wm)[-_](lh|rh)[-_]", name.lower())
            colour = "#" + "".join(f"{min(int(part), 255):02x}" for part in rgb)
            pairs.append((int(value), Name(name, _SIDES[side[1] or side[2]] if side else "", colour)))
    return pairs


def _dataset_json(path: Path, text: str) -> list[tuple[int, Name]]:
    """nnU-Net v2 {"labels": {name: value}}, and the Decathlon's older {"labels": {"value": name}}."""
    try:
        labels = json.loads(text)["labels"]
        return [
            (value, Name(key)) if isinstance(value, int) else (int(key), Name(str(value)))
            for key, value in labels.items()
            if not isinstance(value, list)  # region-based training: not a label image's value
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f'"labels": {{name: value}} in {path.name}', f"{error!r}", "Is it nnU-Net's dataset.json?") from None


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> Path:
    """Rows as .csv, .parquet or .xlsx by the name's suffix, whole or not at all.

    In CSV and Excel, text that a spreadsheet would run as a formula is escaped. In Excel, NaN is an empty cell,
    which its averages leave out. `columns` are those of a table that may have no rows.
    """
    return write_tables(path, {"table": rows}, columns)


def write_tables(path: str | Path, tables: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str] = ()) -> Path:
    """Named tables as the sheets of one .xlsx; in the other formats the first is `path`, each other one PATH_name."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in TABLES:
        raise BadInput(f"a table's name that ends in {', '.join(TABLES)}", path.name, "Change the suffix.")
    if kind == ".xlsx":
        return put(path, _excel(tables, columns))
    for number, (name, rows) in enumerate(tables.items()):
        content = _csv(rows, columns) if kind == ".csv" else _parquet(rows, columns)
        put(path.with_stem(f"{path.stem}_{name}") if number else path, content)
    return path


TABLES = (".csv", ".parquet", ".xlsx")
_MOST_ROWS = (1 << 20) - 1  # of a sheet, below its header


def _columns_of(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> list[str]:
    return list(dict.fromkeys([*first, *(key for row in rows for key in row)]))


def _csv(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> bytes:
    columns = _columns_of(rows, first)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(harmless(column) for column in columns)
    writer.writerows([harmless(row.get(column, "")) for column in columns] for row in rows)
    return buffer.getvalue().encode(errors="replace")


def _parquet(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> bytes:
    """Columns of one type each: text wherever a cell is text."""
    import pyarrow
    from pyarrow import parquet

    columns = {}
    for name in _columns_of(rows, first):
        cells = [row.get(name) for row in rows]
        if any(isinstance(cell, str) for cell in cells):
            cells = [None if cell is None else str(cell).encode(errors="replace").decode() for cell in cells]
        columns[name.encode(errors="replace").decode()] = pyarrow.array(cells)
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


def _excel(tables: Mapping[str, Sequence[Mapping[str, Any]]], first: Sequence[str]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    def cell(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "?", harmless(value)) if isinstance(value, str) else value

    book = Workbook(write_only=True)
    for name, rows in tables.items():
        if len(rows) > _MOST_ROWS:
            raise BadInput(f"at most {_MOST_ROWS} rows for Excel", f"{len(rows)}", "Write .parquet or .csv instead.")
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        columns = _columns_of(rows, first)
        header = [WriteOnlyCell(sheet, cell(column)) for column in columns]
        for title in header:
            title.font = Font(bold=True)
        sheet.append(header)
        for row in rows:
            sheet.append([cell(row.get(column)) for column in columns])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def harmless(value: Any) -> Any:
    """The value as a spreadsheet may see it: text that it would run as a formula gets a quote in front."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ").replace("\0", "")  # which would end a row, or a reader
    return "'" + text if value.startswith(("=", "+", "-", "@", "\t", "\r")) else text
