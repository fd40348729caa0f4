"""One self-contained page per cohort: panels of pictures and tables that can be searched and sorted."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from radiolucent import io
from radiolucent.report.figures import data_uri
from radiolucent.report.html import environment, policy
from radiolucent.version import VERSION

MEANING = (
    "Each number says how much of a map lies in a region, as the named method measures it, over the cases named here. "
    "It does not show that a region is needed for the prediction, nor that the prediction is right. A difference between "
    "groups may come from their anatomy or their scanners as well as from the model; a case that stands out is one to look at."
)

MOST_THUMBNAILS = 200
"""Pictures on one page; a page with thousands crashes browsers. The others are in their cases' folders."""


@dataclass(frozen=True)
class Table:
    """Rows to search and sort: `columns` maps a row's key to its heading; `links` maps what is in "case" to a page."""

    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    links: Mapping[str, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """One case's picture with what to say below it, and the page that it leads to, if there is one."""

    case: str
    png: bytes
    caption: str
    link: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures of one method or case: rows of thumbnails and figures, each with its caption. `photographs`: see data_uri."""

    name: str
    figures: Sequence[tuple[Figure, str]] = ()
    galleries: Sequence[tuple[str, Sequence[Thumbnail]]] = ()
    photographs: bool = False


@dataclass(frozen=True)
class Panel:
    """One section: what it answers, its pictures in groups of which the first is open, its tables."""

    title: str
    text: str
    groups: Sequence[Group] = ()
    tables: Sequence[Table] = ()


def write_cohort_report(
    path: str | Path,
    *,
    title: str,
    subtitle: str,
    panels: Sequence[Panel],
    verdicts: Sequence[str] = (),
    notes: Sequence[str] = (),
    methods: str = "",
    facts: Mapping[str, Any] | None = None,
    meaning: str = MEANING,
) -> Path:
    """Write the page of a cohort as a single HTML file that needs no network.

    Args:
        path: the file to write (appears whole or not at all).
        title: the study's name; `subtitle` goes below it.
        panels: the sections in their order.
        verdicts: the findings in plain words, for the top of the page.
        notes: what a reader must know first, such as the cases that failed.
        methods: a paragraph to paste into a paper.
        facts: name -> value lines at the end.
        meaning: what the numbers say and what they do not.
    """
    script = files("radiolucent.report").joinpath("viewer/tables.js").read_text("utf-8")
    page = (
        environment()
        .get_template("cohort.html")
        .render(
            csp=policy(script),
            title=title,
            subtitle=subtitle,
            meaning=meaning,
            verdicts=verdicts,
            notes=notes,
            panels=[_drawn(panel) for panel in panels],
            methods=methods,
            facts=list((facts or {}).items()),
            version=VERSION,
            script=script,
        )
    )
    return io.put(Path(path), page.encode("utf-8"))


def _drawn(panel: Panel) -> dict[str, Any]:
    """A panel as the template takes it: pictures as images, cells as text with the value to sort by."""
    return {
        "title": panel.title,
        "text": panel.text,
        "groups": [
            {
                "name": group.name,
                "figures": [(data_uri(figure, photograph=group.photographs), caption) for figure, caption in group.figures],
                "galleries": [(name, [_shown(t) for t in row]) for name, row in group.galleries],
            }
            for group in panel.groups
        ],
        "tables": [_cells(table) for table in panel.tables],
    }


def _shown(thumbnail: Thumbnail) -> dict[str, str]:
    image = "data:image/png;base64," + base64.b64encode(thumbnail.png).decode() if thumbnail.png else ""
    return {"case": thumbnail.case, "image": image, "caption": thumbnail.caption, "link": thumbnail.link}


def _cells(table: Table) -> dict[str, Any]:
    keys = list(table.columns)
    numeric = {k: all(isinstance(r.get(k), (int, float)) for r in table.rows if r.get(k) is not None) for k in keys}
    links = {("case", case): page for case, page in (table.links or {}).items()}
    return {
        "head": [(heading, numeric[key]) for key, heading in table.columns.items()],
        "rows": [
            [(cell(row.get(k)), _order(row.get(k)), numeric[k], links.get((k, str(row.get(k))), "")) for k in keys]
            for row in table.rows
        ],
        "note": table.note,
    }


def cell(value: Any) -> str:
    """A value as text: three significant digits, "n/a" for what has no value."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _order(value: Any) -> str:
    """What a cell is sorted by: the whole number behind the rounded text; nothing where there is no value."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, (int, float)) else str(value)
