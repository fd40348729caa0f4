"""The page's panels on a regression's structures, and what they say in short."""

from __future__ import annotations

from collections.abc import Mapping

from pandas import DataFrame

from radiolucent.report import anatomy_figures as draw
from radiolucent.report.cohort import Group, Panel
from radiolucent.study.shown import each, of, table

_MOST_TARGETS = 6  # whose densities are drawn one by one; all are in the heat map and the table
_MOST_NAMED = 6


def anatomy_panels(tables: Mapping[str, DataFrame], alpha: float) -> list[Panel]:
    """None of a study whose model is no regression; of what could not be answered, a table with the reasons or nothing."""
    if "density" not in tables:
        return []
    return [_density(tables["density"]), *_mirror(tables["mirror"], alpha), *_variability(tables), *_asymmetry(tables)]


def _density(density: DataFrame) -> Panel:
    groups = []
    for where, rows in each(density):
        known = rows[rows["density"].notna()]
        if known.empty:
            continue
        text = "How densely each target's relevance lies in each region, as a mean over the cases (1: as if spread evenly)."
        pictures = [(draw.density_map(rows), text)]
        own = [target for target in known["target"].unique() if (known[known["target"] == target]["role"] == "own").any()]
        chosen = own[:_MOST_TARGETS] or list(known["target"].unique()[:_MOST_TARGETS])
        pictures += [
            (draw.density_bars(rows, target), f"Attention per structure for {target}, with intervals.") for target in chosen
        ]
        groups.append(Group(where, pictures))
    text = (
        "Attention per structure, normalised by its volume: a region's share of the relevance over its share of the volume, "
        "of all regions together (or of the whole scan, as [analysis] within says). Large regions have no advantage here."
    )
    return Panel(
        "Attention per structure", text, groups, [table(density, "Every region for every target; role: own, mirror, other.")]
    )


def _mirror(mirror: DataFrame, alpha: float) -> list[Panel]:
    if mirror.empty:
        return []
    groups = [
        Group(where, [(draw.mirror_shares(rows, alpha), "Does the model look at what it measures, or as much at the other side?")])
        for where, rows in each(mirror)
    ]
    text = (
        "The share of each target's relevance in its own structure and in the same one on the other side, of what lies in any "
        "region. Index: (own - mirror) / (own + mirror), 1 = all in the target itself, 0 = as much in its mirror. p and q are of "
        "a test that the index is 0; p equal and q equal of one that it lies within the margin around 0."
    )
    return [Panel("Target and mirror", text, groups, [table(mirror, "Every target that has a structure.")])]


def _variability(tables: Mapping[str, DataFrame]) -> list[Panel]:
    found, points = tables["variability"], tables["variation"]
    if found.empty:
        return []
    groups = []
    for where, rows in each(found):
        dots = of(points, rows)
        if dots[["density", "cv"]].notna().all(axis=1).any():
            groups.append(Group(where, [(draw.variability_scatter(dots, rows), "A dot per structure; left and right as one.")]))
    text = (
        "Does the model look more at structures that vary more? Density of the relevance on a target's own structure against "
        "the structure's coefficient of variation (standard deviation over mean)."
    )
    notes = "Spearman's rho over the structures.", "The targets, and where their coefficients of variation come from."
    return [Panel("Attention and variability", text, groups, [table(found, notes[0]), table(points, notes[1])])]


def _asymmetry(tables: Mapping[str, DataFrame]) -> list[Panel]:
    found = tables["asymmetry"]
    if found.empty:
        return []
    source = " and ".join(found["source"].unique())
    text = (
        f"Right minus left as the model predicts it, against the truth (from {source}): does it see asymmetry, or only total size?"
    )
    pictures = []
    if (found["n"] > 0).any():
        more = f" The first {draw.MOST_PAIRS} of {len(found)} pairs." if len(found) > draw.MOST_PAIRS else ""
        caption = f"A dot per case; dashed: predicted as it is; green: the fitted slope.{more}"
        pictures = [(draw.asymmetry_panels(tables["asymmetries"], found), caption)]
    note = "Each pair of outputs: r and slope of the asymmetry (from, to: of the slope), bias, and r of the totals."
    return [Panel("Asymmetry", text, [Group("Predictions", pictures)] if pictures else [], [table(found, note)])]


def anatomy_verdicts(tables: Mapping[str, DataFrame], alpha: float) -> list[str]:
    """Of each method, how many targets are looked at themselves, in their mirror, equally; variability; asymmetry."""
    if "density" not in tables:
        return []
    said = [_looked_at(where, rows, alpha) for where, rows in each(tables["mirror"]) if (rows["opposite"] != "").any()]
    said += [f"{where}, attention and variability: {rows['verdict'].iloc[0]}" for where, rows in each(tables["variability"])]
    by_verdict: dict[str, list[str]] = {}
    for row in tables["asymmetry"].to_dict("records"):
        by_verdict.setdefault(row["verdict"].partition(" (")[0].partition(":")[0], []).append(row["pair"])
    return said + [f"Asymmetry of {_listed(pairs)}: {verdict}" for verdict, pairs in by_verdict.items()]


def _looked_at(where: str, rows: DataFrame, alpha: float) -> str:
    both = rows[rows["opposite"] != ""]
    differs, same = both["q"] < alpha, both["q_equal"] < alpha
    kinds = {
        "at the target itself": both[differs & ~same & (both["effect"] > 0)],
        "rather at its mirror": both[differs & ~same & (both["effect"] < 0)],
        "equally at both": both[same],
        "undecided": both[~differs & ~same],
    }
    parts = []
    for name, found in kinds.items():
        targets = f" ({_listed(list(found['target']))})" if len(found) and name != "at the target itself" else ""
        parts += [f"{len(found)} {name}{targets}"] if len(found) else []
    return f"{where}: of {len(both)} targets with a mirror, {', '.join(parts)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
