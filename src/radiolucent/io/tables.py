"""Tables: label names in the formats that people have, and rows out as CSV."""

from __future__ import annotations

import csv
import io
import json
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
    if kind == ".json":
        names = _dataset_json(path, text)
    elif kind in (".tsv", ".csv"):
        names = _columns(path, list(csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",")))
    else:
        names = _freesurfer(text)
    if not names:
        raise BadInput(f"rows of label values and names in {path.name}", "none", "See docs: parcellations.")
    return names


def _columns(path: Path, rows: list[dict[str, str]]) -> dict[int, Name]:
    lower = [{(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, str)} for row in rows]
    have = set(lower[0]) if lower else set()
    index = next((c for c in ("index", "label", "value", "id") if c in have), None)
    name = next((c for c in ("name", "region", "structure") if c in have and c != index), None)
    if not index or not name:
        raise BadInput(
            f"the columns index and name in {path.name}", f"{sorted(have)}", "Rename them (also read: label/value/id, region/structure)."
        )
    try:
        return {
            int(row[index]): Name(row[name], row.get("hemisphere", ""), row.get("color", row.get("colour", "")))
            for row in lower
            if row.get(index)
        }
    except ValueError as error:
        raise BadInput(f"whole numbers in the column {index} of {path.name}", str(error), "Correct it.") from None


def _freesurfer(text: str) -> dict[int, Name]:
    """Lines of `index name R G B A`; # starts a comment."""
    names = {}
    for line in text.splitlines():
        parts = line.split("#")[0].split()
        if len(parts) >= 5 and parts[0].isdigit() and all(p.isdigit() for p in parts[2:5]):
            side = {"lh": "left", "rh": "right"}.get(parts[1].split("-")[1] if parts[1].startswith("ctx-") else "", "")
            side = side or next((s for s in ("left", "right") if parts[1].lower().startswith(s)), "")
            names[int(parts[0])] = Name(parts[1], side, "#" + "".join(f"{int(p):02x}" for p in parts[2:5]))
    return names


def _dataset_json(path: Path, text: str) -> dict[int, Name]:
    """nnU-Net v2 {"labels": {name: value}}, and the Decathlon's older {"labels": {"value": name}}."""
    try:
        labels = json.loads(text)["labels"]
        names = {}
        for key, value in labels.items():
            if isinstance(value, list):  # region-based training: not a label image's value
                continue
            names |= {int(value): Name(key)} if isinstance(value, int) else {int(key): Name(str(value))}
        return names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f'"labels": {{name: value}} in {path.name}', f"{error!r}", "Is it nnU-Net's dataset.json?") from None


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as CSV, whole or not at all; text that a spreadsheet would run as a formula is escaped."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _harmless(v) for k, v in row.items()} for row in rows)
    return put(Path(path), buffer.getvalue().encode())


def _harmless(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
