"""The cohort's page, opened as a user opens it: sorted, searched, hostile names and all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Page
from matplotlib.figure import Figure

from radiolucent.report.cohort import Group, Panel, Table, Thumbnail, cell, write_cohort_report
from radiolucent.report.figures import png

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def small_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().imshow(np.eye(4))
    return figure


@pytest.fixture
def report(tmp_path: Path) -> Path:
    rows = [
        {"case": HOSTILE, "score": 1234.5678, "dice": 0.25},
        {"case": "b", "score": -0.00123, "dice": float("nan")},
        {"case": "a", "score": 10.0, "dice": 0.5},
    ]
    table = Table({"case": "case", "score": "anomaly score", "dice": "Dice"}, rows, {"a": "cases/a/report.html"}, note="All cases.")
    gallery = [
        ("Most anomalous", [Thumbnail(HOSTILE, png(small_figure()), "score 1", "cases/a/report.html"), Thumbnail("b", b"", "none")])
    ]
    panel = Panel("Anomaly", "Which cases stand out?", [Group("grad-cam", [(small_figure(), "A picture.")], gallery)], [table])
    return write_cohort_report(
        tmp_path / "report.html", title="A study " + HOSTILE, subtitle="3 cases", panels=[panel],
        verdicts=["No difference found."], notes=["1 case failed"], methods="Maps were made with X.", facts={"seed": 0},
    )  # fmt: skip


def column(page: Page, number: int) -> list[str]:
    return page.page.evaluate(f"[...document.querySelectorAll('.table tbody tr')].map(r => r.cells[{number}].textContent)")


def test_sorting_and_search_work_offline(report: Path, browser: Any) -> None:
    page = Page(browser, report)
    assert column(page, 1) == ["1235", "-0.00123", "10"], "rows begin in the order given"
    page.page.click("th:nth-child(2) button")
    assert column(page, 1) == ["-0.00123", "10", "1235"], "numbers sort as numbers"
    page.page.click("th:nth-child(3) button")
    assert column(page, 2) == ["0.25", "0.5", "n/a"]
    page.page.click("th:nth-child(3) button")
    assert column(page, 2) == ["0.5", "0.25", "n/a"], "no value comes last both ways"
    page.page.fill("input[type=search]", "0.5 a")
    assert page.page.locator(".table tbody tr:visible").count() == 1
    assert page.page.inner_text(".count") == "1 of 3 rows"
    assert page.page.get_attribute(".table tbody tr:visible a", "href") == "cases/a/report.html"
    assert not page.errors
    assert not [r for r in page.requests if not r.startswith(("file:", "data:"))]


def test_names_are_text(report: Path, browser: Any) -> None:
    page = Page(browser, report)
    assert "owned" not in page.page.title().replace(HOSTILE, "")
    assert page.page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.page.inner_text("h1")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (1234.5, "1234"), (float("nan"), "n/a"), (None, "n/a"), (3, "3"), ("x", "x"), (1e-9, "1e-09")],
)
def test_cells(value: Any, text: str) -> None:
    assert cell(value) == text


def test_only_a_case_leads_to_its_page(tmp_path: Path) -> None:
    table = Table({"rank": "rank", "case": "case"}, [{"rank": 1, "case": "2"}, {"rank": 2, "case": "1"}], {"1": "one.html"})
    page = write_cohort_report(tmp_path / "r.html", title="", subtitle="", panels=[Panel("", "", tables=[table])]).read_text()
    assert page.count('<a href="one.html">1</a>') == 1  # the case, and not the rank
