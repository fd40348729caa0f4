"""One study's rows in, all tables of its analysis out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pandas import DataFrame

from radiolucent.analysis.anomalies import anomaly
from radiolucent.analysis.clustering import classes, merges
from radiolucent.analysis.covariates import bias, quantities
from radiolucent.analysis.importances import edges, importance
from radiolucent.analysis.profiles import GROUP, Patients, checked, patients_of, selected
from radiolucent.analysis.quality import anomaly_quality
from radiolucent.analysis.shift import COLUMNS as DRIFT
from radiolucent.analysis.shift import drift
from radiolucent.analysis.sides import laterality, sides
from radiolucent.errors import BadInput, InputWarning


@dataclass(frozen=True)
class Settings:
    """How a study is analysed.

    Args:
        reference: which cases are normal, as comparisons of covariates (`scanner == "A" and age < 60`); the others are
            scored by what is fit on these, and compared with them (drift). Empty: all cases, cross-fitted.
        covariates: columns of the manifest to test for bias; none: all but case, image, label, patient, session and split.
        pairs: names of (left, right) regions; none: found by hemisphere or name.
        level, alpha: of the intervals; of the false discovery rate below which a verdict names a difference.
        folds, trees, anomalous: parts of the cross-fitting; of a forest; share of the cases that are called anomalous.
        edges: how many of the strongest context edges are kept per method and layer.
        seed: of folds, forests, bootstraps and permutations.
    """

    reference: str = ""
    covariates: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    level: float = 0.95
    alpha: float = 0.05
    folds: int = 5
    trees: int = 100
    anomalous: float = 0.1
    edges: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"level": self.level, "alpha": self.alpha, "anomalous": self.anomalous}
        wrong = [f"{name}={value}" for name, value in shares.items() if not 0 < value < 1]
        wrong += [
            f"{name}={getattr(self, name)}" for name in ("folds", "trees", "edges") if getattr(self, name) < 1 + (name == "folds")
        ]
        if wrong:
            do = "Correct it."
            raise BadInput("shares between 0 and 1, at least 2 folds, a tree and an edge", ", ".join(wrong), do)


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
        return {"settings": asdict(self.settings), "counts": dict(self.counts), "rows": rows, "notes": list(self.notes)}


def analyse(
    regions: DataFrame,
    cases: DataFrame,
    manifest: DataFrame,
    settings: Settings | None = None,
    *,
    against: DataFrame | None = None,
) -> Analysis:
    """importance, edges, classes, merges, anomaly, ranking, anomaly_quality, bias, drift, laterality and sides.

    The same rows in another order give the same tables. `against` are the region rows of another study: drift is then
    this study's difference from it; else, where a reference is set, the difference of all others from the reference.
    """
    settings = settings or Settings()
    regions = checked(regions)
    manifest = manifest.sort_values("case", ignore_index=True)
    patients = patients_of(manifest)
    common: dict[str, Any] = {"patients": patients, "level": settings.level, "seed": settings.seed}
    reference = selected(manifest, settings.reference) if settings.reference else None
    table: dict[str, DataFrame] = {"importance": importance(regions, **common)}
    table["edges"] = edges(table["importance"], most=settings.edges)
    table["classes"], table["merges"] = classes(table["importance"]), merges(table["importance"])
    options: dict[str, Any] = {"patients": patients, "folds": settings.folds, "trees": settings.trees, "seed": settings.seed}
    table["anomaly"] = anomaly(regions, reference=reference, **options)
    table["ranking"] = ranking(table["anomaly"])
    tests = common | {"alpha": settings.alpha}
    quality = {name: option for name, option in tests.items() if name != "seed"}
    table["anomaly_quality"] = anomaly_quality(table["anomaly"], cases, **quality)
    table["sides"] = sides(regions, settings.pairs)
    table["laterality"] = laterality(table["sides"], **tests)
    values = quantities(table["anomaly"], regions, table["sides"])
    table["bias"] = bias(values, manifest, settings.covariates, anomalous=settings.anomalous, **tests)
    notes = _notes(regions, manifest, patients, reference, settings) + _nameless(regions, cases)
    before, after = _cohorts(regions, reference, against)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        table["drift"] = drift(before, after, **tests) if len(before) and len(after) else DataFrame(columns=DRIFT)
    notes += [str(warning.message) for warning in caught]
    owners = {(patients or {}).get(case, case) for case in regions["case"].astype(str)}
    counts = {"cases": regions["case"].nunique(), "patients": len(owners), "manifest": len(manifest)}
    counts |= {"groups": len(regions[GROUP].drop_duplicates()), "reference": len(reference or ())}
    return Analysis(table, counts, tuple(notes), settings)


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
