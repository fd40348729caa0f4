"""What a scoreboard leaves for its reader: tables, and one page with pictures and plain words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radiolucent import io
from radiolucent.bench.board import ALL, ALPHA, COLUMNS, Board, Compared, not_beaten
from radiolucent.bench.recipe import Recipe
from radiolucent.bench.store import Bench, Row
from radiolucent.io.tables import write_table
from radiolucent.methods import CONTROLS
from radiolucent.report import scoreboard_figures as draw
from radiolucent.report.cohort import Group, Panel, Table, cell, write_cohort_report

MEANING = (
    "Each number says how one method's maps did in one test. No test shows that a map is right: faithfulness asks whether hiding "
    "what it points at changes the prediction, localisation whether it points at what is known to matter, robustness and "
    "complexity whether it is steady and simple, which an empty edge detector is, too. A rank is a comparison on these cases and "
    "these models, with these settings, and no property of a method."
)

_RIGHT = ("localisation", "faithfulness")
"""The kinds of metrics that ask whether a map is right."""
_FEW = 10
_MOST_NAMED = 6
_MOST_REASONS = 12
_MEANS = ("model", "method", "metric", "category", "better", "mean", "low", "high", "n", "missing")
_RANKS = (
    "model", "metric", "method", "mean_rank", "verdict", "methods", "cases", "chi2", "p", "q", "critical_difference", "reason",
)  # fmt: skip


def write_results(bench: Bench, recipe: Recipe) -> Board:
    """scores.parquet and .csv, table.csv and .md, ranks.csv, report.html from the cells that are there, which it returns."""
    board = Board.of(bench, recipe.seed)
    for kind in ("parquet", "csv"):
        write_table(bench.folder / f"scores.{kind}", board.scores, COLUMNS)
    write_table(bench.folder / "table.csv", board.table, _MEANS)
    write_table(bench.folder / "ranks.csv", board.ranks, _RANKS)
    io.put(bench.folder / "table.md", as_markdown(board).encode())
    write_page(bench.page, board, recipe)
    return board


def as_markdown(board: Board) -> str:
    """A table per model: methods down, metrics across, means with their 95 % intervals over cases; the best are bold."""
    parts = []
    for model in board.models:
        metrics = [metric for metric in board.metrics if any(_known(row) for row in board.means_of(model, metric).values())]
        found = {metric: board.means_of(model, metric) for metric in metrics}
        arrows = [f"{metric} ({'↑' if board.about[metric][1] == 'higher' else '↓'})" for metric in metrics]
        lines = [f"## {model}", "", f"| method | {' | '.join(arrows)} |", f"|---|{'---|' * len(metrics)}"]
        best = {metric: _best(found[metric], board.about[metric][1]) for metric in metrics}
        for method in board.methods:
            cells = [_interval(found[metric].get(method), bold=method in best[metric]) for metric in metrics]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    note = "Means over cases with 95 % bootstrap intervals; ↑ higher is better, ↓ lower. Bold: the best mean, chance or not."
    return "\n\n".join([*parts, f"{note} Are the differences more than chance? See ranks.csv."]) + "\n"


def write_page(path: Path, board: Board, recipe: Recipe) -> Path:
    """The page; its numbers are those of the tables."""
    models = f"{len(board.models)} model{'s' if len(board.models) > 1 else ''}"
    subtitle = f"{len(board.methods)} methods, {len(board.metrics)} metrics, {models}, {sum(board.cases.values())} cases"
    panels = [_methods(board), _chance(board), *_against_cost(board), _means(board), *_failures(board)]
    return write_cohort_report(
        path,
        title=recipe.name or "Scoreboard",
        subtitle=subtitle + (f"; preset {recipe.preset}" if recipe.preset else ""),
        panels=panels,
        verdicts=verdicts(board),
        notes=_notes(board),
        facts={"models": ", ".join(f"{m} ({n} cases)" for m, n in board.cases.items()), "methods": ", ".join(board.methods)}
        | {"metrics": ", ".join(board.metrics), "seed": recipe.seed, "part of a signed map against a mask": recipe.part},
        meaning=MEANING,
    )


def verdicts(board: Board) -> list[str]:
    """For each metric what is best, and whether that is more than chance, in words; of several models, over all of them."""
    whole = ALL if len(board.models) > 1 else board.models[0]
    found = [compared for compared in board.compared if compared.model == whole]
    return [*_together(board, found), *map(_said, found)]


def _together(board: Board, found: Sequence[Compared]) -> list[str]:
    """Who is most often among the best, by what asks whether a map is right."""
    asked = [c for c in found if board.about[c.metric][0] in _RIGHT and c.differ and len(c.best) < len(c.ranking.methods)]
    if len(asked) < 2:
        return []
    often = Counter(method for c in asked for method in c.best)
    first = [f"{method} in {n}" for method, n in often.most_common(_MOST_NAMED)]
    kinds = " and ".join(dict.fromkeys(board.about[c.metric][0] for c in asked))
    said = [f"Best, or not told apart from the best, by {len(asked)} metrics of {kinds}: {', '.join(first)}."]
    for control in filter(_is_control, board.methods):
        better = {m for c in asked if control in c.ranking.methods for m in c.ranking.methods if _beats(c, m, control)}
        rest = [m for m in board.methods if m not in better and m != control and any(m in c.ranking.methods for c in asked)]
        said += [f"Not better than {control} beyond chance by any of these: {_listed(rest, len(rest))}."] if rest else []
    return said


def _is_control(label: str) -> bool:
    return label.partition("(")[0] in CONTROLS


def _beats(compared: Compared, method: str, other: str) -> bool:
    """Whether it is better by more than chance."""
    rank = dict(zip(compared.ranking.methods, compared.ranking.ranks, strict=True))
    return rank[other] - rank[method] >= compared.ranking.critical


def _said(compared: Compared) -> str:
    r = compared.ranking
    if r.reason:
        return f"{compared.metric}: not compared; {r.reason}."
    over = f"over {r.n} cases, q {_small(compared.q)}"
    if not compared.differ:
        return f"{compared.metric}: no method is better than another beyond chance ({over})."
    first, *others = r.methods
    like = [method for method in others if method in compared.best]
    worse = [method for method in others if method not in compared.best]
    if not worse:
        said = f"{compared.metric}: the ranks as a whole are no chance ({over}), but no single method can be told from the best"
        return f"{said}, {first} (mean rank {r.ranks[0]:.1f} of {len(r.methods)})."
    parts = [f"{compared.metric}: {first} has the best mean rank, {r.ranks[0]:.1f} of {len(r.methods)} ({over})"]
    parts += [f"not told apart from it: {_listed(like)}"] if like else []
    return "; ".join([*parts, f"worse beyond chance: {_listed(worse)}"]) + "."


def _methods(board: Board) -> Panel:
    groups = []
    for model in [*board.models, *([ALL] if len(board.models) > 1 else [])]:
        compared = {c.metric: c for c in board.compared if c.model == model and c.ranking.methods}
        if not compared:
            continue
        kinds = [board.about[metric][0] for metric in compared]
        guide = [kind for kind in _RIGHT if kind in kinds] or kinds
        shares = {m: [_share(c, m) for c in compared.values()] for m in board.methods}
        methods = sorted(
            (m for m in board.methods if not all(map(math.isnan, shares[m]))),
            key=lambda m: _mean([s for s, kind in zip(shares[m], kinds, strict=True) if kind in guide]),
        )
        texts = [[_value(board, model, metric, m) for metric in compared] for m in methods]
        arrows = [
            metric.replace("(", f" {_arrow(c)}(", 1) if "(" in metric else f"{metric} {_arrow(c)}" for metric, c in compared.items()
        ]
        figure = draw.heat_map(methods, arrows, np.array([shares[m] for m in methods]), texts)
        text = (
            f"Numbers: means over the cases{' of all models' if model == ALL else ''} (↑ higher is better, ↓ lower). Colour: mean "
            f"rank. Methods in the order of their ranks in {' and '.join(dict.fromkeys(guide))}. Grey: too few values."
        )
        groups.append(Group(model, [(figure, text)]))
    return Panel("Methods and metrics", "Each method by each metric: dark is good. Look down a column, not along a row.", groups)


def _chance(board: Board) -> Panel:
    several = len(board.models) > 1
    groups = []
    for c in board.compared:
        if c.ranking.methods and (c.model == ALL or not several):
            r = c.ranking
            figure = draw.rank_plot(r.methods, r.ranks, r.critical, c.differ)
            out = f"; left out, for want of values: {', '.join(r.left_out)}" if r.left_out else ""
            gone = f"; {r.incomplete} cases lack a value and are left out" if r.incomplete else ""
            test = f"Friedman's chi-squared {r.friedman:.3g}, p {_small(r.p)}, q {_small(c.q)}, {r.n} cases{gone}{out}."
            groups.append(Group(c.metric, [(figure, test)]))
    text = (
        "Methods are ranked within each case. Friedman's test asks whether the ranks could be chance; if not, two methods differ "
        f"where their mean ranks are farther apart than Nemenyi's critical difference (at {ALPHA:.0%}). q is p corrected for the "
        "number of tests on this page (false discovery rate). Not told apart is not the same: more cases may part them."
    )
    columns = {"model": "model", "metric": "metric", "method": "method", "mean_rank": "mean rank", "verdict": "verdict"}
    columns |= {"cases": "cases", "q": "q", "critical_difference": "critical diff."}
    columns |= {"reason": "why not"} if any(row["reason"] for row in board.ranks) else {}
    return Panel("More than chance?", text, groups, [Table(columns, board.ranks, note="All ranks, also of single models.")])


def _against_cost(board: Board) -> list[Panel]:
    """Of each model's first metric of faithfulness (or else of localisation), against seconds."""
    names = board.of_category("faithfulness") or board.of_category("localisation")
    if not names or "seconds" not in board.about:
        return []
    groups = []
    for model in board.models:
        value, seconds = board.means_of(model, names[0]), board.means_of(model, "seconds")
        known = [m for m in board.methods if m in value and _known(value[m]) and m in seconds and _known(seconds[m])]
        if not known:
            continue
        higher = board.about[names[0]][1] == "higher"
        points = {m: (max(seconds[m]["mean"], 1e-4), value[m]["mean"]) for m in known}
        sign = 1 if higher else -1
        front = not_beaten({m: (spent, sign * found) for m, (spent, found) in points.items() if not _is_control(m)})
        figure = draw.pareto(points, front, names[0], "seconds for the maps of all targets of a case", higher)
        best = _listed(sorted(front, key=lambda m: points[m][0]), len(front))
        groups.append(Group(model, [(figure, f"No other method is both faster and more faithful than: {best}.")]))
    text = (
        f"Means over the cases of {names[0]} and of the time for a map, on the machine that this ran on. Filled: not beaten in "
        "both (controls aside). These are means: two neighbours may be equal but for chance."
    )
    return [Panel("Faithfulness against time", text, groups)] if groups else []


def _means(board: Board) -> Panel:
    columns = {"model": "model", "method": "method", "metric": "metric", "better": "better", "mean": "mean"}
    columns |= {"low": "from", "high": "to", "n": "cases", "missing": "without a value"}
    note = "Means over cases with 95 % bootstrap intervals; several targets of a case are averaged first."
    return Panel("All numbers", "The same as table.csv.", tables=[Table(columns, board.table, note=note)])


def _failures(board: Board) -> list[Panel]:
    """Failures and missing values by their reasons, and how many cases each concerns."""
    found: Counter[tuple[str, str, str, str]] = Counter()
    for row in board.failures:
        what = "does not suit the model" if row["unfit"] else "failed" if row["method"] else "the whole case failed"
        found[row["model"], row["method"], what, row["reason"]] += 1
    failed = {(row["model"], row["case"], row["method"]) for row in board.failures}
    for row in board.scores:
        if row["reason"] and (row["model"], row["case"], row["method"]) not in failed:
            found[row["model"], row["method"], f"{row['metric']} has no value", row["reason"]] += 1
    if not found:
        return []
    rows = [
        {"model": model, "method": method, "what": what, "reason": reason, "times": times}
        for (model, method, what, reason), times in found.most_common()
    ]
    columns = {"model": "model", "method": "method", "what": "what", "reason": "why", "times": "times"}
    return [Panel("What could not be had", "These are in no mean and no rank; nothing counts as 0.", tables=[Table(columns, rows)])]


def _notes(board: Board) -> list[str]:
    whole = [row for row in board.failures if not row["method"]]
    notes = [f"{row['model']}, {row['case']} failed and is in no number here: {row['reason']}" for row in whole[:_MOST_REASONS]]
    single = Counter((row["model"], row["method"]) for row in board.failures if row["method"] and not row["unfit"])
    notes += [f"{method} failed on {n} of {board.cases[model]} cases of {model}" for (model, method), n in single.items()]
    unfit = dict.fromkeys(row["method"] for row in board.failures if row["unfit"])
    notes += [f"Not for every model here: {_listed(list(unfit), len(unfit))}; see at the end why."] if unfit else []
    seen = {(row["model"], row["case"]) for row in board.scores} | {(row["model"], row["case"]) for row in whole}
    left = sum(board.cases.values()) - len(seen)
    if len(seen) < _FEW:
        notes.append(
            f"{len(seen)} cases are few: only very large differences can be told from chance, and intervals are too narrow."
        )
    return notes + ([f"{left} cases are not done yet and are in no number here."] if left else [])


def _small(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _arrow(compared: Compared) -> str:
    return "↑" if compared.better == "higher" else "↓"


def _share(compared: Compared, method: str) -> float:
    """The mean rank from 0, the best, to 1."""
    r = compared.ranking
    if method not in r.methods:
        return math.nan
    return (r.ranks[r.methods.index(method)] - 1) / (len(r.methods) - 1)


def _value(board: Board, model: str, metric: str, method: str) -> str:
    models = board.models if model == ALL else [model]
    found = [row for m in models if (row := board.means_of(m, metric).get(method)) and _known(row)]
    total = sum(row["n"] for row in found)
    return cell(sum(row["mean"] * row["n"] for row in found) / total) if total else ""


def _best(rows: dict[str, Row], better: str) -> list[str]:
    known = {name: row["mean"] for name, row in rows.items() if _known(row)}
    top = (max if better == "higher" else min)(known.values(), default=math.nan)
    return [name for name, mean in known.items() if mean == top]


def _interval(row: Row | None, *, bold: bool) -> str:
    if row is None or not _known(row):
        return "n/a"
    mean = f"**{cell(row['mean'])}**" if bold else cell(row["mean"])
    return mean if math.isnan(row["low"]) else f"{mean} ({cell(row['low'])} to {cell(row['high'])})"


def _known(row: Row) -> bool:
    return bool(row["n"])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.inf


def _listed(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
