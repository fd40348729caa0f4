"""The folder of a bias hunt: tables, and a page with the misclassified cases first, their units, the ranking and the tests."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame
from torch import nn

from radiolucent import io
from radiolucent.errors import InputWarning
from radiolucent.explanation import Prediction
from radiolucent.io.tables import write_table
from radiolucent.landmarks import landmark_table
from radiolucent.methods import AttentiveResponse, title
from radiolucent.models import Card
from radiolucent.protocols import Target
from radiolucent.report.cohort import Group, Panel, write_cohort_report
from radiolucent.report.picture import background, for_display
from radiolucent.report.responses import ranked_cases
from radiolucent.report.units import COLOURS, unit_figures
from radiolucent.study.hunting import Asked, Hunted, ask, shown_first
from radiolucent.study.shown import table
from radiolucent.version import VERSION

_MOST_PIXELS = 1 << 18
_RANKED = 15


def write_hunt(
    folder: Path, hunted: Hunted, network: nn.Module, card: Card, asked: Asked, *, pictures: int, overwrite: bool
) -> Path:
    """Write the folder, whole or not at all, and return the page: report.html, ranking.csv, tests.csv, landmarks.csv, ..."""
    by_class = landmark_table(hunted.rows, ["class"], patients=hunted.patients)
    tables = {"ranking": hunted.hunt.ranking, "landmarks": by_class, "responses": hunted.rows, "tests": hunted.hunt.tests}
    with io.new_folder(folder, replace=overwrite) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # said already, when the cases were asked
        for name, frame in tables.items():
            write_table(new / f"{name}.csv", frame.to_dict("records"), columns=list(map(str, frame.columns)))
        about = facts(hunted, card, asked)
        io.put(new / "hunt.json", json.dumps(about | {"failed": dict(hunted.failed)}, indent=1).encode())
        write_cohort_report(
            new / "report.html",
            title=f"Bias hunt: {card.name}",
            subtitle=f"{about['cases']} cases, {about['misclassified']} misclassified; {title(asked.method)}",
            panels=[*_pictured(hunted, network, card, asked, pictures), *_tables(hunted, by_class)],
            verdicts=verdicts(hunted),
            notes=[*(f"{case} failed: {reason}" for case, reason in list(hunted.failed.items())[:20]), *hunted.notes[:20]],
            facts={k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()},
        )
    return folder / "report.html"


def facts(hunted: Hunted, card: Card, asked: Asked) -> dict[str, Any]:
    """What the hunt was made from."""
    wrong = int((~hunted.hunt.ranking["correct"]).sum())
    found = {"cases": len(hunted.manifest), "misclassified": wrong, "failed_cases": len(hunted.failed), "model": card.name}
    told = {
        "weights_sha256": hunted.weights,
        "table": hunted.table,
        "label": asked.label,
        "target": asked.target or "the class that the network says",
        "split": asked.split or "all",
        "where": asked.where or "all",
        "part": asked.part,
        "inverted": asked.inverted,
        "method": repr(asked.method),
    }
    patients = len(set(hunted.patients.values())) if hunted.patients else "each case is one"
    return found | told | {"patients": patients, "radiolucent": VERSION}


def verdicts(hunted: Hunted) -> list[str]:
    """The findings in words, the largest first, or that there is none."""
    tests = hunted.hunt.tests
    if tests.empty or tests["p"].notna().sum() == 0:
        return ["No covariate could be tested: the ranking stands alone."]
    found = hunted.hunt.found()
    made = int(tests["p"].notna().sum())
    first = f"{len(found)} of {made} tests found something at a false discovery rate of 0.05."
    return [first, *(f"{row['target']} cases: {row['verdict']}" for row in found.head(10).to_dict("records"))]


def _pictured(hunted: Hunted, network: nn.Module, card: Card, asked: Asked, count: int) -> Iterator[Panel]:
    """Cases with the maps of their units, the misclassified ones first; then the first of the ranking side by side."""
    ranking = hunted.hunt.ranking.set_index("case")
    cases = hunted.manifest.set_index("case", drop=False).to_dict("index")
    chosen = shown_first(hunted.hunt.ranking, count)
    first = list(hunted.hunt.ranking["case"][:_RANKED])
    maps: dict[str, tuple[Any, Any]] = {}
    groups: dict[bool, list[Group]] = {False: [], True: []}
    for case in dict.fromkeys([*chosen, *first]):
        prediction, targets = ask(cases[case], network, card, asked)
        relevance = prediction.explain([asked.method], targets, classes=card.classes)[0].relevance[0]
        scan = background(prediction.scan, _MOST_PIXELS)
        maps[case] = scan, for_display(relevance, _MOST_PIXELS).data.sum(0)
        if case in chosen:
            row = ranking.loc[case]
            name = f"{case}: {row['truth']}, taken for {row['predicted']}, {row['outside']:.0%} of the response outside"
            right = bool(row["correct"])
            figures = list(case_figures(prediction, targets, asked, *maps[case], name))
            groups[right].append(Group(name, figures, photographs=True))
    for right, heading, text in (
        (
            False,
            "Misclassified cases",
            f"Explained is {asked.target or 'the class that the network said'}: does the response lie on the anatomy?",
        ),
        (True, "Correct cases", "Those with the most response outside the anatomy: right, but for what reason?"),
    ):
        if groups[right]:
            yield Panel(heading, f"{text} {COLOURS}", groups[right])
    titles = [f"{c}\n{ranking.loc[c, 'truth']} as {ranking.loc[c, 'predicted']}, {ranking.loc[c, 'outside']:.0%}" for c in first]
    drawn = ranked_cases([(name, *maps[case]) for name, case in zip(titles, first, strict=True)])
    text = "The most response outside the anatomy first: truth as prediction, share outside."
    shown = table(hunted.hunt.ranking, "All cases; outside and the shares of what is no anatomy.")
    yield Panel("Ranking", COLOURS, [Group("The first of the ranking", [(drawn, text)], photographs=True)], [shown])


def case_figures(
    prediction: Prediction, targets: Target, asked: Asked, scan: Any, dominant: Any, name: str
) -> Iterator[tuple[Figure, str]]:
    """Image and map, for attentive responses with the maps of the strongest 9 and 25 units, each with its caption."""
    method = asked.method
    drawn = list(unit_figures(prediction, targets, method)) if isinstance(method, AttentiveResponse) else []
    yield from drawn or [(ranked_cases([(name, scan, dominant)], columns=1), f"image and {title(method)}")]


def _tables(hunted: Hunted, by_class: DataFrame) -> Sequence[Panel]:
    note = "Means over the cases of each true class; p tests share - area (what shifted maps have), effect > 0 is more than that; "
    note += "hit: share of the cases with the peak there; significant: share of those whose own p is below 0.05."
    text = "Share of the response on each place, with its 95 % bootstrap interval (from, to); enrichment is share over area."
    first = ["class", "landmark", "n", "missing", "area", "share", "low", "high"]  # the interval is that of the share
    by_class = by_class[[*first, *(c for c in by_class.columns if c not in {*first, "kind"})]]
    found = [Panel("Where the response lies", text, tables=[table(by_class, note)])]
    tests = hunted.hunt.tests
    if len(tests):
        tests = tests.drop(columns=["method", "layer"]).sort_values(["q", "p"], kind="stable")
        text = (
            "Response outside the anatomy, and on each place, against each covariate: all, correct and misclassified cases apart. "
        )
        text += "A covariate that goes with the class goes with whatever the network does for that class: hunt within a class too."
        note = "q is the false discovery rate over all tests that were made; where none was made, the verdict says why."
        made = table(tests, note)
        made = replace(made, columns=dict(made.columns) | {"target": "cases"})  # of a hunt's tests: all, correct or misclassified
        found.append(Panel("Covariates", text, tables=[made]))
    return found
