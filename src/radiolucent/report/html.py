"""One self-contained page per case: viewer, pictures, scores, regions, provenance, and what it means."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from radiolucent import io
from radiolucent.explanation import Explanation
from radiolucent.methods import describe, title
from radiolucent.parcellation import Parcellation
from radiolucent.report import figures
from radiolucent.report.beside import Map, evidence, pictures, table
from radiolucent.report.page import Anatomy, Page
from radiolucent.report.picture import THRESHOLD, for_display
from radiolucent.report.viewed import viewed
from radiolucent.trust import TrustCard
from radiolucent.version import VERSION
from radiolucent.volume import Volume

MEANING = (
    "A map shows which voxels the model's score depends on, as the named method measures it. It does not show that "
    "these voxels are abnormal, that the prediction is right, or that the model would decide otherwise without them. "
    "Different methods answer different questions; where they disagree, none of them is proof."
)


def write_report(
    path: str | Path,
    scan: Volume,
    explanations: Sequence[Explanation],
    *,
    title: str,
    subtitle: str = "",
    notes: Sequence[str] = (),
    parcellation: Parcellation | None = None,
    parcellation_name: str = "parcellation",
    model: str = "this model",
    beside: Mapping[str, Sequence[Explanation]] | None = None,
    cards: Sequence[TrustCard] = (),
) -> Path:
    """Write the report of one case as a single HTML file that needs no network.

    Args:
        path: the file to write (appears whole or not at all).
        scan: the scan on the grid of the explanations.
        explanations: one or more, of this scan.
        title: the case's name; `subtitle` goes below it.
        notes: remarks to put on top; those of the scan are added.
        parcellation: regions to show and to add up over; on any grid, `parcellation_name` says what it is.
        model: what the model is called where there are others beside it.
        beside: other models' explanations of the same scan and targets, by the models' names.
        cards: what `radiolucent.trust.trust` says of the explanations.
    """
    anatomy = Anatomy(parcellation, parcellation_name) if parcellation else None
    shown: dict[str, Any] = {"subtitle": subtitle, "notes": notes, "anatomy": anatomy, "cards": {"": cards}}
    return write(path, Page(scan, explanations, title, model=model, beside=beside or {}, **shown))


def write(path: str | Path, page: Page) -> Path:
    """Write a page, whole or not at all."""
    parts = _words(page) | _numbers(page) | _pictures(page) | _viewer(page)
    return io.put(Path(path), environment().get_template("case.html").render(parts).encode("utf-8"))


def _words(page: Page) -> dict[str, Any]:
    """What the page says in words."""
    return {
        "title": page.title,
        "subtitle": page.subtitle,
        "notes": [*page.notes, *page.scan.notes, *(remark for e in page.explanations for remark in e.remarks)],
        "meaning": MEANING,
        "measured_in": page.measured_in,
        "facts": list(page.facts.items()),
        "methods": [{**describe(e.method), "repr": ", ".join(dict.fromkeys(settings))} for e, settings in _kinds(page.every)],
        "parcellation_name": page.anatomy.called if page.anatomy else "",
        "provenance": _provenance(page.explanations, page.beside),
        "version": VERSION,
    }


def _numbers(page: Page) -> dict[str, Any]:
    """Its tables."""
    return {
        "scores": _scores(page.explanations, page.beside),
        "trust": [evidence(each) for each in page.maps if each.card],
        "trust_cost": next((own[0].cost["said"] for own in page.cards.values() if own), ""),
        "alike": table(page.likeness),
        "regions": _by_map(page.rows),
    }


def _pictures(page: Page) -> dict[str, Any]:
    """The maps of the page's own model, each with all that belongs to it."""
    units = {id(e): own for e, own in zip(page.explanations, page.units, strict=False)}
    return {
        "cards": [
            _card(page.background, own, page.outline(own.target))
            | pictures(page.background, own, page.maps, page.likeness)
            | {"units": units.get(id(own.explanation), {}).get(own.target, ())}
            for own in page.maps
            if not own.model
        ],
        "threshold": f"{THRESHOLD:.0%}",
        "has_outline": bool(page.anatomy and page.anatomy.outlines),
        "orientation": page.scan.has_world,
        "resampled": page.background.data[0].size != page.scan.data[0].size,
    }


def _viewer(page: Page) -> dict[str, Any]:
    """The scripts, the only ones that the page lets run, and what they read."""
    is_3d = page.scan.data.ndim == 4
    niivue = files("radiolucent.report").joinpath("viewer/niivue.umd.js").read_text("utf-8") if is_3d else ""
    app = files("radiolucent.report").joinpath("viewer/app.js").read_text("utf-8")
    return {
        "is_3d": is_3d,
        "has_labels": page.parcellation is not None,
        "data": viewed(page.background, page.maps, page.parcellation, page.labels),
        "csp": policy(niivue, app),
        "niivue": niivue,
        "app": app,
    }


_FIRST_REGIONS = 8


def _by_map(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of each map: the regions with the largest shares, the others, and how far from the target it lies."""
    maps: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        where = f" at {row['layer']}" if row.get("layer") else ""
        maps.setdefault(f"{row['method']}{where}: {row['target']}", []).append(row)
    tables = []
    for name, own in maps.items():
        falling = sorted((r for r in own if r.get("kind") != "near"), key=lambda r: -r["mass_fraction"])
        near = [r for r in own if r.get("kind") == "near" and r["mass_fraction"] >= 0]  # NaN: there is no such target here
        tables.append({"name": name, "first": falling[:_FIRST_REGIONS], "others": falling[_FIRST_REGIONS:], "near": near})
    return tables


def environment() -> Environment:
    """The templates, with everything escaped that is not said to be safe."""
    loader = PackageLoader("radiolucent.report")
    return Environment(
        loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def policy(*scripts: str) -> str:
    """Only these scripts, byte for byte, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts if s]
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src data: blob:; worker-src blob: data:; form-action 'none'; base-uri 'none'"
    )


def _scores(explanations: Sequence[Explanation], others: Mapping[str, Sequence[Explanation]]) -> list[tuple[str, float]]:
    """Each target's score, once; then those of other models."""
    pairs = [pair for e in explanations for pair in zip(e.targets, e.scores, strict=True)]
    for name, own in others.items():
        pairs += [(f"{target}, by {name}", score) for e in own for target, score in zip(e.targets, e.scores, strict=True)]
    return list(dict.fromkeys(pairs))


def _card(shown: Volume, own: Map, outline: Any) -> dict[str, Any]:
    explanation, target, drawn = own.explanation, own.target, own.drawn
    unit = explanation.method.unit
    relevance = explanation.relevance[explanation.targets.index(target)]
    card: dict[str, Any] = {
        "method": title(explanation.method),
        "target": target,
        "slices": figures.data_uri(_stamped(figures.slices(shown, drawn, unit, outline), own)),
        "profiles": figures.data_uri(figures.profiles(shown, for_display(relevance))),
        "montage": "",
        "course": _course(explanation, target),
        "evidence": evidence(own) if own.card else None,
    }
    if shown.data.ndim == 4:
        card["montage"] = figures.data_uri(_stamped(figures.montage(shown, drawn, unit, outline), own))
    return card


def _stamped(figure: Figure, own: Map) -> Figure:
    figures.stamp(figure, own.stamp)
    return figure


def _course(explanation: Explanation, target: str) -> dict[str, Any] | None:
    """How the optimisation of a target's mask went; nothing for methods without one."""
    details = explanation.provenance.get("details") or ()
    row: Mapping[str, Any] = dict(zip(explanation.targets, details, strict=False)).get(target, {})
    if "curve" not in row:
        return None
    steps, converged = row["iterations"], row.get("converged")
    said = f"{steps} iterations, as many as were asked for"
    if converged is not None:
        said = f"converged after {steps} iterations" if converged else f"did NOT converge in {steps} iterations"
    numbers = {name: f"{value:.4g}" for name, value in row.items() if isinstance(value, float)}
    return {
        "said": said,
        "is_open": converged is False,
        "numbers": ", ".join(f"{name} {value}" for name, value in numbers.items()),
        "figure": figures.data_uri(figures.course(row["curve"])),
    }


def _kinds(explanations: Sequence[Explanation]) -> list[tuple[Explanation, list[str]]]:
    """One explanation of each kind of method, with the settings that occur."""
    kinds: dict[type, tuple[Explanation, list[str]]] = {}
    for e in explanations:
        kinds.setdefault(type(e.method), (e, []))[1].append(repr(e.method))
    return list(kinds.values())


def _provenance(explanations: Sequence[Explanation], others: Mapping[str, Sequence[Explanation]]) -> list[tuple[str, str]]:
    """What all share once; what differs by method behind the method's name; of other models what makes them others."""
    own = ("seconds", "forwards", "backwards", "peak_memory_mib", "cells", "cell_mm", "shared_by_methods", "depth", "details")
    first = explanations[0].provenance
    rows = [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in first.items() if k not in own and v not in ("", [], {})]
    for e in explanations:
        known = {k: e.provenance[k] for k in own if k in e.provenance}
        # Curves, slices and units have pictures and tables of their own.
        if any({"curve", "slices", "units"} & row.keys() for row in known.get("details", ())):
            del known["details"]
        values = ", ".join(f"{k} {json.dumps(value)}" for k, value in known.items())
        rows.append((title(e.method), values))
    for name, beside in others.items():
        known = {k: e.provenance[k] for e in beside[:1] for k in ("weights_sha256", "preprocessing") if k in e.provenance}
        rows.append((name, ", ".join(f"{k} {json.dumps(value)}" for k, value in known.items())))
    return rows
