"""The cohort's page: which panel answers which question, from the tables of the analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from radiolucent.analysis import Analysis, Settings, patients_of
from radiolucent.analysis.profiles import Patients, units
from radiolucent.analysis.quality import QUALITIES
from radiolucent.report import cohort_figures as draw
from radiolucent.report.cohort import MOST_THUMBNAILS, Group, Panel, Thumbnail, write_cohort_report
from radiolucent.statistics import bootstrap_mean
from radiolucent.study.anatomy import anatomy_panels, anatomy_verdicts
from radiolucent.study.paragraph import facts, methods_paragraph
from radiolucent.study.shown import HEADINGS, each, of, table
from radiolucent.study.store import Study

_SIDE_BY_SIDE = 3  # of the most and of the least anomalous cases
_MOST_TARGETS = 6  # whose distributions are drawn; all are in the tables


def write_study_report(study: Study, analysis: Analysis) -> Path:
    """STUDY/report.html; the numbers on it are those of the tables in STUDY/analysis."""
    recipe, status = study.recipe, study.status()
    tables, cases = analysis.tables, study.cases()
    links = _links(study, status.done)
    panels = [
        _importance(tables, study.rows()),
        _anomaly(study, tables, cases, links),
        _bias(tables),
        *_sides(tables),
        *anatomy_panels(tables, analysis.settings.alpha),
        *_drift(tables),
        _cases(cases, links, agreement(cases, patients_of(study.manifest()), analysis.settings), analysis.settings.level),
    ]
    segments = bool((cases["voxels_predicted"].notna()).any()) if len(cases) else False
    return write_cohort_report(
        study.folder / "report.html",
        title=recipe.study.name or study.folder.name,
        subtitle=f"{len(status.done)} of {status.total} cases; methods: {len(recipe.explain.methods)}",
        panels=panels,
        verdicts=[*_looks(tables), *anatomy_verdicts(tables, analysis.settings.alpha), *_verdicts(tables, analysis.settings.alpha)],
        notes=[*_failed(status.failed), *_waiting(len(status.waiting)), *analysis.notes],
        methods=methods_paragraph(recipe, study.facts(), analysis.counts, segments=segments, structures="density" in tables),
        facts=facts(recipe, study.facts(), analysis.counts),
    )


def _importance(tables: Mapping[str, DataFrame], rows: DataFrame) -> Panel:
    groups = []
    for where, importance in each(tables["importance"]):
        classes, edges = of(tables["classes"], importance), of(tables["edges"], importance)
        text = "Where the relevance of each target lies, as a mean over the cases. Framed: the target's own region."
        found = [(draw.heat_map(importance, classes), text)]
        if len({*edges["region"], *edges["target"]}) > 2:
            text = "Context: the strongest arrows from a region to a target that is also recognised by it."
            found.append((draw.context_graph(edges, importance, classes), text))
        found += [
            (draw.distributions(of(rows, importance), importance, target), f"The cases behind the means for {target}.")
            for target in importance["target"].unique()[:_MOST_TARGETS]
        ]
        groups.append(Group(where, found))
    classes = tables["classes"]
    several = len(classes) and classes["n_classes"].max() > 2
    return Panel(
        "Where the model looks",
        "The share of a target's absolute relevance that lies in each region, as a mean over cases with its bootstrap interval; "
        "enrichment is that share over the region's share of the volume (1 = as expected by chance).",
        groups,
        [
            table(
                tables["importance"],
                "Every region for every target: the mean share with its interval, then the enrichment with its own.",
            ),
            *([table(classes, "Classes that the model looks at alike: clusters of their profiles.")] if several else []),
        ],
    )


def _anomaly(study: Study, tables: Mapping[str, DataFrame], cases: DataFrame, links: Mapping[str, str]) -> Panel:
    groups: list[Group] = []
    quality = tables["anomaly_quality"]
    for where, ranking in each(tables["ranking"]):
        found = [(draw.anomaly_ranking(ranking), "Which cases stand out, and by what.")]
        if "dice" in set(quality["quality"]):
            picture = draw.anomaly_against_quality(of(tables["anomaly"], ranking), cases)
            found.append((picture, "Does anomaly warn of bad segmentations? Each dot is a case."))
        most, least = ranking.head(_SIDE_BY_SIDE), ranking.tail(_SIDE_BY_SIDE)[::-1]
        galleries = [
            (f"The {words} anomalous cases (rows: targets, columns: methods)", [_thumbnail(study, row, links) for row in rows])
            for words, rows in (("most", most.to_dict("records")), ("least", least.to_dict("records")))
        ]
        groups.append(Group(where, found, galleries if len(groups) < MOST_THUMBNAILS // (2 * _SIDE_BY_SIDE) else ()))
    return Panel(
        "Cases that stand out",
        "A case is anomalous where the model looks at other regions than in the other cases: a reason to look at it, not a "
        "finding. No case is scored by a forest that has seen it." + _unscored(tables["anomaly"]),
        groups,
        [
            table(
                tables["ranking"],
                "All cases, from most to least anomalous (score: mean rank over the targets, 1 = the strangest for all).",
                links,
            ),
            table(
                tables["anomaly"],
                "Both scores for every target (higher: stranger), and the region that is farthest from the other cases'. "
                "mcd: the covariance was fitted robustly; fold: the cases that were scored together.",
                links,
            ),
            *([table(quality, "Spearman's rho of anomaly with the agreement with the label.")] if len(quality) else []),
        ],
    )


def _unscored(anomaly: DataFrame) -> str:
    cases = anomaly.groupby("case")["forest"].count()
    missing = int((cases == 0).sum())
    return (
        f" {missing} of {len(cases)} cases have no score: too few others to compare them with (see the reasons)." if missing else ""
    )


def _bias(tables: Mapping[str, DataFrame]) -> Panel:
    bias = tables["bias"]
    made = int(bias["p"].notna().sum()) if len(bias) else 0
    text = f"{made} tests were made; q is the false discovery rate over all of them." if made else "No covariate could be tested."
    if len(bias) > made:
        text += f" {len(bias) - made} more could not be made; their verdicts say why."
    return Panel(
        "Bias",
        text,
        tables=[table(bias.sort_values(["q", "p"], kind="stable"), _EFFECTS)] if len(bias) else [],
    )


def _sides(tables: Mapping[str, DataFrame]) -> list[Panel]:
    laterality = tables["laterality"]
    if not len(laterality):
        return []
    text = "(L - R) / (L + R) of the relevance in each pair of regions; left is the patient's."
    note = "For each pair a test against 0 (p, q), and one that the index lies within the margin around it (p equal, q equal)."
    return [Panel("Left and right", text, tables=[table(laterality, note)])]


def _drift(tables: Mapping[str, DataFrame]) -> list[Panel]:
    drift = tables["drift"]
    if not len(drift):
        return []
    return [
        Panel(
            "Against the reference", "Mean share in the other cases (b) minus that in the reference (a).", tables=[table(drift, "")]
        )
    ]


def agreement(cases: DataFrame, patients: Patients, settings: Settings) -> DataFrame:
    """Means of Dice, IoU and HD95 for each class, with bootstrap intervals; several cases of one patient count once."""
    rows = []
    for target, group in cases.groupby("target", sort=False):
        own = group.groupby(units(group["case"], patients))[list(QUALITIES)].mean()
        for name in QUALITIES:
            mean = bootstrap_mean(own[name].to_numpy(float), level=settings.level, seed=settings.seed)
            about = {"target": target, "quality": HEADINGS[name], "mean": mean.mean, "low": mean.low, "high": mean.high}
            rows += [about | {"n": mean.n}] if mean.n else []
    return DataFrame(rows)


def _cases(cases: DataFrame, links: Mapping[str, str], means: DataFrame, level: float) -> Panel:
    note = f"Agreement with the label: means with {level:.0%} bootstrap intervals."
    return Panel(
        "Cases",
        "Score, size and agreement with the label.",
        tables=[*([table(means, note)] if len(means) else []), table(cases, "Every case and class.", links)],
    )


def _thumbnail(study: Study, row: Mapping[str, Any], links: Mapping[str, str]) -> Thumbnail:
    folder = study.folder / "cases" / study.names()[row["case"]]
    picture = folder / "thumbnail.png"
    caption = f"rank {row['rank']}; most of all by how much relevance for {row['target']} lies in {row['strangest']}"
    return Thumbnail(row["case"], picture.read_bytes() if picture.exists() else b"", caption, links.get(row["case"], ""))


def _links(study: Study, done: Sequence[str]) -> dict[str, str]:
    """Case id -> its own page, where the recipe keeps one; relative, so that the study may be moved."""
    names = study.names()
    pages = {case: Path("cases") / names[case] / "report.html" for case in done}
    return {case: page.as_posix() for case, page in pages.items() if (study.folder / page).exists()}


_EFFECTS = (
    "Every quantity against every covariate, with an effect and its interval. rho and Cliff's delta go from -1 to 1, and 0 is "
    "no difference; delta is above 0 where the first group named has the larger values."
)
_QUESTIONS = {
    "anomaly_quality": "Relation of anomaly with the agreement with the label",
    "bias": "Differences by covariates",
    "laterality": "Differences of left and right",
    "drift": "Difference from the reference",
}


def _looks(tables: Mapping[str, DataFrame]) -> list[str]:
    """A sentence per method: how much lies in the targets themselves, in what is no structure, and in which others."""
    said = []
    for where, rows in each(tables["importance"]):
        by_role = rows[rows["kind"] == "label"].groupby(["target", "role"])["mean"].sum().groupby("role").mean()
        names = {"itself": "the target itself", "context": "other regions", "background": "the background"}
        parts = [f"{by_role[role]:.0%} in {name}" for role, name in names.items() if role in by_role]
        strongest = [f"{e.region} for {e.target} ({e.mean:.0%})" for e in of(tables["edges"], rows).head(2).itertuples()]
        context = f"; the strongest context: {', '.join(strongest)}" if strongest else ""
        said.append(f"{where}: of a target's relevance lie on average {', '.join(parts)}{context}")
    return said


def _verdicts(tables: Mapping[str, DataFrame], alpha: float) -> list[str]:
    """The findings in words; of what was looked for and not found, in how many tests."""
    said = []
    for name, question in _QUESTIONS.items():
        found = tables[name]
        if not len(found):
            continue
        hits = found[found["q"] < alpha].sort_values("q", kind="stable")
        few = int(found["verdict"].str.startswith("not enough").sum())
        said += [
            f"{where}, {row['target']}: {row['verdict']}" for where, rows in each(hits[:10]) for row in rows.to_dict("records")
        ]
        if len(hits) > 10:
            said.append(f"... and {len(hits) - 10} more in the table on {question[0].lower()}{question[1:]}")
        if name == "laterality" and (equal := int((found["q_equal"] < alpha).sum())):
            said.append(f"Left and right: equal within ±{found['margin'].iloc[0]:g} in {equal} of {len(found)} comparisons")
        if not len(hits):
            left = f"; {few} more had not enough cases" if few else ""
            said.append(f"{question}: none found in {int(found['q'].notna().sum())} tests{left}")
    return said


def _failed(failed: Mapping[str, str]) -> list[str]:
    shown = [f"{case} failed and is in no number here: {reason}" for case, reason in list(failed.items())[:10]]
    return shown + ([f"{len(failed) - 10} more cases failed (see failed/)"] if len(failed) > 10 else [])


def _waiting(count: int) -> list[str]:
    return [f"{count} cases are not done yet and are in no number here"] if count else []
