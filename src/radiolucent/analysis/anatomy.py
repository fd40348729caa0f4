"""Of a regression with an output per structure: all questions about its outputs' own structures, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pandas import DataFrame

from radiolucent.analysis.asymmetry import asymmetries, asymmetry, output_pairs, truth_columns, truths
from radiolucent.analysis.densities import density
from radiolucent.analysis.matching import Match, matches
from radiolucent.analysis.mirrors import mirror, own
from radiolucent.analysis.profiles import Patients
from radiolucent.analysis.settings import Settings
from radiolucent.analysis.variability import coefficients, variability, variation

_MOST_NAMED = 12


class Anatomy(NamedTuple):
    """Tables by name, notes in words, the targets' regions, and the manifest's columns that were taken as true values."""

    tables: Mapping[str, DataFrame]
    notes: tuple[str, ...] = ()
    matches: Sequence[Match] = ()
    truths: Sequence[str] = ()


def anatomy(
    regions: DataFrame, cases: DataFrame, manifest: DataFrame, outputs: DataFrame, settings: Settings, patients: Patients = None
) -> Anatomy:
    """density, own, mirror, variation, variability, asymmetries and asymmetry; what cannot be answered is empty, with a note.

    Args:
        regions: checked region rows.
        cases: case, target and score, the prediction; a table without scores is one without predictions.
        manifest: case, and columns of true values where there are any (see `truths`).
        outputs: the model's outputs: target, mean and spread in the training data (NaN where nobody says it), where these
            two come from (source), and unit.
    """
    explained = list(dict.fromkeys(regions["target"]))
    targets = list(dict.fromkeys([*outputs["target"], *explained]))
    found = matches(regions, targets, settings.structures, settings.pairs)
    common: dict[str, Any] = {"patients": patients, "level": settings.level, "seed": settings.seed}
    tests = common | {"alpha": settings.alpha}
    table = {"density": density(regions, found, within=settings.within, **common)}
    table["own"] = own(regions, found, within=settings.within)
    table["mirror"] = mirror(table["own"], margin=settings.margin, **tests)
    table["variation"] = variation(table["own"], coefficients(outputs, regions, found), **common)
    table["variability"] = variability(table["variation"], level=settings.level, alpha=settings.alpha, seed=settings.seed)
    unit = next(iter(outputs["unit"]), "")
    columns = truth_columns(manifest, found, settings.truth)
    true = truths(regions, manifest, found, settings.truth, unit)
    pairs = output_pairs(found)
    predicted = cases if "score" in cases.columns else DataFrame(columns=["case", "target", "score"])
    table["asymmetries"] = asymmetries(predicted, true, pairs)
    table["asymmetry"] = asymmetry(table["asymmetries"], unit=unit, **tests)
    notes = [*_nameless(found, explained), *_unpaired(pairs, true, table["asymmetry"])]
    return Anatomy(table, tuple(notes), found, tuple(columns.values()))


def _nameless(found: Sequence[Match], explained: Sequence[str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for match in found:
        if not match.own and match.target in explained:
            by_reason.setdefault(match.reason, []).append(match.target)
    return [f"{_listed(targets)} without a structure of its own: {reason}" for reason, targets in by_reason.items()]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _unpaired(pairs: Sequence[tuple[str, str, str]], true: DataFrame, table: DataFrame) -> list[str]:
    if not pairs:
        return ["asymmetry was not audited: no two outputs are a left and a right"]
    if true.empty:
        do = 'name columns of the manifest, or set truth = "volumes" in [analysis]'
        return [f"asymmetry was not audited: there are no true values ({do})"]
    left_out = [name for name, *_ in pairs if name not in set(table["pair"])]
    return (
        [f"asymmetry was not audited for {_listed(left_out)}: predictions or true values of a side are missing"] if left_out else []
    )
