"""One study's rows in, all tables of its analysis out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from radiolucent.analysis.anatomy import Anatomy, anatomy
from radiolucent.analysis.anomalies import anomaly
from radiolucent.analysis.clustering import classes, merges
from radiolucent.analysis.covariates import bias, quantities
from radiolucent.analysis.importances import edges, importance
from radiolucent.analysis.profiles import GROUP, Patients, checked, patients_of, selected
from radiolucent.analysis.quality import anomaly_quality
from radiolucent.analysis.settings import Settings
from radiolucent.analysis.shift import COLUMNS as DRIFT
from radiolucent.analysis.shift import drift
from radiolucent.analysis.sides import laterality, sides
from radiolucent.errors import InputWarning


@dataclass(frozen=True)
class Analysis:
    """Tables by name, numbers of what went in, and notes in words on what a reader must know."""

    tables: Mapping[str, DataFrame]
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    settings: Settings

    def as_dict(self) -> dict[str, Any]:
        """All but the tables, for JSON."""
        rows = {name: len(table) for name, table in self.tables.items()}
        return {"settings": self.settings.as_dict(), "counts": dict(self.counts), "rows": rows, "notes": list(self.notes)}


def analyse(
    regions: DataFrame,
    cases: DataFrame,
    manifest: DataFrame,
    settings: Settings | None = None,
    *,
    outputs: DataFrame | None = None,
    against: DataFrame | None = None,
    against_patients: Patients = None,
) -> Analysis:
    """importance, edges, classes, merges, anomaly, ranking, anomaly_quality, bias, drift, laterality and sides.

    `outputs` are those of a regression (target, mean, spread, source, unit; see `anatomy`), whose structures are then
    looked at too: density, own, mirror, variation, variability, asymmetries and asymmetry.

    The same rows in another order give the same tables. `against` are the region rows of another study, and
    `against_patients` its patients: drift is then this study's difference from it; else, where a reference is set, the
    difference of all others from the reference.
    """
    settings = settings or Settings()
    regions = checked(regions)
    manifest = manifest.sort_values("case", ignore_index=True)
    patients = patients_of(manifest)
    found = Anatomy({}) if outputs is None else anatomy(regions, cases, manifest, outputs, settings, patients)
    common: dict[str, Any] = {"patients": patients, "level": settings.level, "seed": settings.seed}
    reference = selected(manifest, settings.reference) if settings.reference else None
    table: dict[str, DataFrame] = {"importance": importance(regions, own={m.target: m.own for m in found.matches}, **common)}
    table["edges"] = edges(table["importance"], most=settings.edges)
    table["classes"], table["merges"] = classes(table["importance"]), merges(table["importance"])
    options: dict[str, Any] = {"patients": patients, "folds": settings.folds, "trees": settings.trees, "seed": settings.seed}
    table["anomaly"] = anomaly(regions, reference=reference, **options)
    table["ranking"] = ranking(table["anomaly"])
    tests = common | {"alpha": settings.alpha}
    quality = {name: option for name, option in tests.items() if name != "seed"}
    table["anomaly_quality"] = anomaly_quality(table["anomaly"], cases, **quality)
    table["sides"] = sides(regions, settings.pairs)
    table["laterality"] = laterality(table["sides"], margin=settings.margin, **tests)
    values = quantities(table["anomaly"], regions, table["sides"])
    about = manifest.drop(columns=[column for column in found.truths if column not in settings.covariates])
    table["bias"] = bias(values, about, settings.covariates, anomalous=settings.anomalous, **tests)
    notes = _notes(regions, manifest, patients, reference, settings) + _nameless(regions, cases) + list(found.notes)
    before, after = _cohorts(regions, reference, against)
    tests["patients"] = (patients if against is None else against_patients, patients)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        table["drift"] = drift(before, after, **tests) if len(before) and len(after) else DataFrame(columns=DRIFT)
    notes += [str(warning.message) for warning in caught]
    counts = _counts(regions, manifest, patients, reference)
    return Analysis(table | dict(found.tables), counts, tuple(notes), settings)


def _counts(regions: DataFrame, manifest: DataFrame, patients: Patients, reference: set[str] | None) -> dict[str, int]:
    owners = {(patients or {}).get(case, case) for case in regions["case"].astype(str)}
    counts = {"cases": regions["case"].nunique(), "patients": len(owners), "manifest": len(manifest)}
    return counts | {"groups": len(regions[GROUP].drop_duplicates()), "reference": len(reference or ())}


def ranking(anomaly: DataFrame) -> DataFrame:
    """Cases of each method and layer from most to least anomalous.

    `score` is the mean over classes of the forest score's rank, as a share of the cases; `target` and `strangest` are
    those where it is highest.
    """
    known = anomaly[anomaly["forest"].notna()]
    known = known.assign(share=known.groupby(GROUP)["forest"].rank(pct=True))
    known = known.sort_values(["method", "layer", "case", "share", "target"], ascending=[True, True, True, False, True])
    by = ["method", "layer", "case"]
    table = known.groupby(by, as_index=False).agg(
        score=("share", "mean"), target=("target", "first"), strangest=("strangest", "first"), n_targets=("target", "size")
    )
    table = table.sort_values(["method", "layer", "score", "case"], ascending=[True, True, False, True], ignore_index=True)
    table.insert(2, "rank", table.groupby(["method", "layer"]).cumcount() + 1)
    return table


def _cohorts(regions: DataFrame, reference: set[str] | None, against: DataFrame | None) -> tuple[DataFrame, DataFrame]:
    if against is not None:
        return checked(against), regions
    normal = regions["case"].astype(str).isin(reference or set())
    return regions[normal], regions[~normal] if reference is not None else regions[:0]


def _nameless(regions: DataFrame, cases: DataFrame) -> list[str]:
    """Of a segmentation, classes that no region is called like."""
    if "voxels_predicted" not in cases.columns or not cases["voxels_predicted"].notna().any():
        return []
    nameless = sorted(set(regions["target"]) - set(regions.loc[regions["kind"] == "label", "region"]))
    text = "no region is called {}: what lies in such a class itself counts as context"
    return [text.format(", ".join(nameless))] if nameless else []


def _notes(
    regions: DataFrame, manifest: DataFrame, patients: Patients, reference: set[str] | None, settings: Settings
) -> list[str]:
    notes = []
    done = set(regions["case"].astype(str))
    absent = set(manifest["case"].astype(str)) - done
    if absent:
        notes.append(f"{len(absent)} cases of the manifest have no rows and are in no table")
    if patients:
        several = len(done) - len({patients.get(case, case) for case in done})
        if several:
            notes.append(f"{several} cases are further ones of a patient: averaged for means and tests, kept in one fold")
    if reference is not None and len(reference & done) <= settings.folds:
        notes.append(f"only {len(reference & done)} cases fulfil the reference {settings.reference!r}")
    groups = regions.groupby(GROUP)["case"].nunique()
    for (method, layer, target), n in groups[groups < len(done)].items():
        where = f"{method} {layer}".strip()
        notes.append(f"{target} ({where}) has a map in {n} of {len(done)} cases; the others are missing from its means")
    return notes
