"""Rows to CSV, Parquet and Excel: what is written is what is read, and no cell is a formula."""

import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import openpyxl
import pytest
from pyarrow import parquet

from radiolucent.errors import BadInput
from radiolucent.io import tables
from radiolucent.io.tables import write_table, write_tables

ROWS = [
    {"case": "=1+1", "value": 0.5, "n": 3, "reason": ""},
    {"case": "b\x07\nc", "value": float("nan"), "n": np.int64(4), "late": "@x"},
]


def cells(path: Path, sheet: str) -> list[list[object]]:
    return [[cell.value for cell in row] for row in openpyxl.load_workbook(path)[sheet].iter_rows()]


def test_excel_has_a_sheet_per_table(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "a.xlsx", {"scores": ROWS, "means": [{"mean": 1.5}]})
    assert openpyxl.load_workbook(path).sheetnames == ["scores", "means"]
    assert cells(path, "scores") == [
        ["case", "value", "n", "reason", "late"],
        ["'=1+1", 0.5, 3, None, None],
        ["b?\nc", None, 4, None, "'@x"],
    ]
    assert cells(path, "means") == [["mean"], [1.5]]
    assert [p.name for p in tmp_path.iterdir()] == ["a.xlsx"]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_row_44_no_cell_of_excel_is_a_formula(tmp_path: Path, cell: str) -> None:
    path = write_table(tmp_path / "a.xlsx", [{cell: cell, "number": -1.5}])
    sheet = openpyxl.load_workbook(path)["table"]
    for place in ("A1", "A2"):
        assert sheet[place].data_type == "s"
        assert str(sheet[place].value).startswith("'")
    assert sheet["B2"].value == -1.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_excel_has_an_empty_cell_where_there_is_no_number(tmp_path: Path, value: float) -> None:
    path = write_table(tmp_path / "a.xlsx", [{"a": 1.0, "b": value, "c": 3.0}])
    with ZipFile(path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert not re.search("nan|inf|#NUM", sheet, re.I)
    assert cells(path, "table")[1] == [1, None, 3]


def test_parquet_keeps_types_and_text_as_it_is(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", [*ROWS, {"case": 7, "value": None, "n": 1}])
    back = parquet.read_table(path).to_pydict()
    assert back["case"] == ["=1+1", "b\x07\nc", "7"]
    assert back["n"] == [3, 4, 1]
    assert back["value"][0] == 0.5
    assert np.isnan(back["value"][1])
    assert back["value"][2] is None
    assert back["late"] == [None, "@x", None]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_tables_lie_beside_the_first(tmp_path: Path, kind: str) -> None:
    write_tables(tmp_path / f"a.{kind}", {"scores": ROWS, "means": [{"mean": 1.5}]})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{kind}", f"a_means.{kind}"]


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    for kind in ("csv", "parquet", "xlsx"):
        assert write_table(tmp_path / f"a.{kind}", []).stat().st_size > 0


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"a table's name that ends in .csv, .parquet, .xlsx; got a.xls"):
        write_table(tmp_path / "a.xls", ROWS)
    monkeypatch.setattr(tables, "_MOST_ROWS", 1)
    with pytest.raises(BadInput, match="at most 1 rows for Excel"):
        write_table(tmp_path / "a.xlsx", ROWS)
    assert not list(tmp_path.iterdir())
