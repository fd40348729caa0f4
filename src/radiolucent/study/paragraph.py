"""The methods paragraph of a study, made from its recipe: what was done, in words that a paper can take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from radiolucent.analysis import Settings
from radiolucent.methods import describe, titles
from radiolucent.protocols import Method
from radiolucent.study.recipe import Recipe
from radiolucent.version import VERSION

_REDUCED = {
    "sum": "sum of its logits over the voxels that the unperturbed model assigned to it (Agg2Exp)",
    "mean": "mean of its logits over the voxels that the unperturbed model assigned to it",
    "probability": "sum of its logits weighted with the unperturbed model's probabilities",
}

_COUNTS = {"cases": "cases analysed", "patients": "patients", "manifest": "cases in the cohort", "reference": "reference cases"}


def methods_paragraph(
    recipe: Recipe, study: Mapping[str, Any], counts: Mapping[str, int], *, segments: bool, structures: bool = False
) -> str:
    """The paragraph; `study` are its facts, `counts` has cases and patients, `segments` says what the model does.

    `structures`: its outputs measure structures, which were looked at too.
    """
    targets = ", ".join(recipe.explain.targets) or ("every predicted class" if segments else "the model's outputs")
    how = f"For a class, the explained score was the {_REDUCED[recipe.explain.reduce]}." if segments else ""
    sentences = [
        f"We explained the predictions of the model for {targets} in {_cases(counts)} with Radiolucent {VERSION}.",
        how,
        f"Attributions were computed with {_listed([_named(m) for m in recipe.explain.methods])}.",
        f"{_windows(study)}They were placed on each scan's own grid and added up over the regions of {_regions(recipe)}: "
        "the importance of a region is the share of the absolute attribution that lies in it.",
        _extras(recipe),
        f"Means over cases are given with {recipe.analysis.level:.0%} bootstrap intervals.",
        _anomaly(recipe.analysis),
        _structures(recipe.analysis) if structures else "",
        "Associations with covariates were tested with the Mann-Whitney, Kruskal-Wallis, Spearman and chi-square or Fisher tests, "
        f"and the false discovery rate was controlled at {recipe.analysis.alpha:g} over all tests (Benjamini-Hochberg).",
    ]
    return " ".join(filter(None, sentences))


def _cases(counts: Mapping[str, int]) -> str:
    patients = f" of {counts['patients']} patients" if counts["patients"] != counts["cases"] else ""
    return f"{counts['cases']} cases{patients}"


def _named(method: Method) -> str:
    """Name, settings and source: "smooth-grad (samples=25, noise=0.1, seed=0; Smilkov et al., 2017)"."""
    name, settings, layer = titles(method)
    source = re.search(r"\(([^()]*\d{4}[^()]*)\)", describe(method)["summary"])
    inside = [settings, f"layer {layer}" if layer else "", source.group(1) if source else ""]
    return f"{name} ({'; '.join(filter(None, inside))})" if any(inside) else name


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _windows(study: Mapping[str, Any]) -> str:
    windows = study["identity"]["model"].get("windows")
    if not windows:
        return ""
    size = windows["window"]
    size = " x ".join(map(str, size)) if isinstance(size, list) else str(size)
    overlap = f"an overlap of {_share(windows['overlap'])} and {windows['blend']} blending"
    return f"The model was applied in windows of {size} voxels with {overlap}. "


def _share(overlap: float | Sequence[float]) -> str:
    return " x ".join(f"{o:.0%}" for o in overlap) if isinstance(overlap, list) else f"{overlap:.0%}"


def _regions(recipe: Recipe) -> str:
    known = {"predicted": "the model's own segmentation", "label": "the reference segmentation"}
    return known.get(recipe.regions.parcellation, "a given parcellation")


def _extras(recipe: Recipe) -> str:
    joined = [f"{name} ({' + '.join(parts)})" for name, parts in recipe.regions.joined.items()]
    parts = [f"Joined regions were {_listed(joined)}."] if joined else []
    if recipe.regions.near_mm:
        near = _listed([f"{mm:g}" for mm in recipe.regions.near_mm])
        parts.append(f"Attribution was also split into that inside the target, within {near} mm of its surface, and beyond.")
    return " ".join(parts)


def _anomaly(settings: Settings) -> str:
    reference = settings.reference
    fit = f"fitted on the reference ({reference})" if reference else f"cross-fitted in {settings.folds} folds"
    return (
        f"Per class, cases were scored for anomaly by an isolation forest on the region shares, {fit} so that no case was scored "
        "by a forest that had seen it, and by a robust Mahalanobis distance of their log-ratios."
    )


def _structures(settings: Settings) -> str:
    return (
        "For each output, attribution in its own structure was compared with that in the same structure of the other side "
        "(Wilcoxon's signed-rank test of a difference, and two one-sided tests of equality within a laterality index of "
        f"±{settings.margin:g}); its density was related to the structures' coefficients of variation (Spearman), and the "
        "predicted asymmetry to the true one (Pearson, slope of the regression)."
    )


def facts(recipe: Recipe, study: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """What identifies the study, for the end of the page."""
    identity = study["identity"]
    return {
        "study": recipe.study.name,
        "radiolucent": study["radiolucent"],
        "weights SHA-256": identity["model"]["weights_sha256"],
        "methods": "; ".join(map(repr, recipe.explain.methods)),
        "parcellation": identity["regions"]["parcellation"],
        "seed": recipe.study.seed,
        **{name: counts[key] for key, name in _COUNTS.items() if counts.get(key)},
    }
