"""Several models' maps of one scan on one page: pictures beside each other, and how alike they are in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiolucent.explanation import Explanation, partners, slices_of
from radiolucent.methods import SliceAttention, SliceCAM, title
from radiolucent.report import figures, slices
from radiolucent.report.picture import Picture, overlay, picture
from radiolucent.trust import TrustCard
from radiolucent.volume import Volume

MOST = 5
"""Further models in one picture."""

NUMBERS = ("spearman", "overlap", "slices_spearman", "slices_overlap", "slices_same_top")


@dataclass(frozen=True, eq=False)
class Map:
    """One model's map of one target, ready to draw; `model` is "" for the one that the page is about."""

    model: str
    explanation: Explanation
    target: str
    drawn: Picture
    card: TrustCard | None = None

    @property
    def stamp(self) -> str:
        """What its pictures must say of it, where it fails its check."""
        return self.card.stamp if self.card else ""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.model, title(self.explanation.method))))


def drawn(
    models: Mapping[str, Sequence[Explanation]], most: int, cards: Mapping[str, Sequence[TrustCard]] | None = None
) -> list[Map]:
    """All maps of all models, at most `most` voxels each, with their trust cards where there are."""
    known = {(model, card.settings, card.target): card for model, own in (cards or {}).items() for card in own}
    return [
        Map(model, explanation, target, picture(relevance, most), known.get((model, repr(explanation.method), target)))
        for model, explanations in models.items()
        for explanation in explanations
        for target, relevance in zip(explanation.targets, explanation.relevance, strict=True)
    ]


def pictures(shown: Volume, own: Map, maps: Sequence[Map], alike: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the page's own map: weights of slices with all that belongs to them, or other models' maps beside it; and words."""
    theirs = _beside(own, maps)[:MOST]
    weighed = slices_of(own.explanation, own.target)
    if not weighed:
        beside = figures.data_uri(side_by_side(shown, own, theirs)) if theirs else ""
        return {"attention": "", "words": [], "beside": beside}
    within = [m.drawn for m in maps if not m.model and m.target == own.target and isinstance(m.explanation.method, SliceCAM)]
    other = {m.model: slices_of(m.explanation, m.target) for m in theirs if isinstance(m.explanation.method, SliceAttention)}
    seen = [(m.name, m.drawn) for m in theirs if m.model not in other]
    figure = slices.attention(shown, weighed, within[0] if within else None, seen, other)
    figures.stamp(figure, own.stamp)
    details = own.explanation.provenance["details"][own.explanation.targets.index(own.target)]
    said = slices.words(details) + _words(own, alike)
    return {"attention": figures.data_uri(figure), "words": said, "beside": ""}


def _beside(own: Map, maps: Sequence[Map]) -> list[Map]:
    """Other models' maps of the same target that are compared with this one."""
    there = [m for m in maps if m.model and m.target == own.target]
    models = dict.fromkeys(m.model for m in there)
    kept = {id(e) for model in models for e in partners(own.explanation, [m.explanation for m in there if m.model == model])}
    return [m for m in there if id(m.explanation) in kept]


def _words(own: Map, alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """What other models' weights of the same slices say, one sentence each."""
    method = title(own.explanation.method)
    rows = [r for r in alike if (r["target"], r["method"], r["beside_method"]) == (own.target, method, method) and r["top_slice"]]
    said = []
    for row in rows:
        if row["model"] == alike[0]["model"]:
            top = "the highest is on the same slice" if row["slices_same_top"] else f"the highest is on {row['beside_top_slice']}"
            share, there = f"{row['slices_overlap']:.0%} of the weight", f"{row['beside_weight_there']:.3g}"
            correlation = f"Weights of {row['beside']}: rank correlation {row['slices_spearman']:.2f}, {share} on the same slices"
            said.append(f"{correlation}; {top}, and this model's top slice ({row['top_slice']}) has {there} there.")
    if len(rows) > 1:
        n = [fmean(row[f"slices_{name}"] for row in rows) for name in ("spearman", "overlap", "same_top")]
        mean = f"rank correlation {n[0]:.2f}, {n[1]:.0%} of the weight on the same slices"
        said.append(f"In the mean over all {len(rows)} pairs of models: {mean}; the same top slice in {n[2]:.0%} of the pairs.")
    return said


def side_by_side(shown: Volume, own: Map, others: Sequence[Map]) -> Figure:
    """The maps in the same slices, through the peak of the first (2D: the whole image); each has a scale of its own."""
    maps = [own, *others]
    if shown.data.ndim == 3:
        figure = Figure(figsize=(10.5, 3.6), layout="constrained", facecolor="white")
        for axis, each in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
            axis.imshow(overlay(shown.data[0], each.drawn.value))
            axis.set_axis_off()
            axis.set_title(_caption(each), fontsize=8)
        return figure
    figure = Figure(figsize=(10.5, 2.6 * len(maps)), layout="constrained", facecolor="white")
    for number, (row, each) in enumerate(zip(figure.subplots(len(maps), 3, squeeze=False), maps, strict=True)):
        for axis, view in zip(row, figures.VIEWS, strict=True):
            figures.cut(axis, view, shown, each.drawn, own.drawn.peak, None, marks=number == 0)
            axis.set_title(axis.get_title() if number == 0 else "", fontsize=9)
        _name(row[0], _caption(each))
    return figure


def _name(axis: Axes, name: str) -> None:
    """Words at the left of a row, which have room of their own."""
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)


def _caption(each: Map) -> str:
    name = fill(each.name if each.model else f"this model, {each.name}", 24, break_on_hyphens=False)
    stamp = f"\n{fill(each.stamp, 24, break_on_hyphens=False)}" if each.stamp else ""
    return f"{name}\n{each.drawn.full}{stamp}"


def table(alike: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as text, with the mean over the pairs of each target and method where there are several."""
    rows = [dict(row) for row in alike]
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in alike:
        if row["method"] == row["beside_method"]:
            kinds.setdefault((row["target"], row["method"]), []).append(row)
    for (target, method), own in kinds.items():
        if len(own) > 1:
            means = {name: fmean(row[name] for row in own) for name in NUMBERS}
            names = {"target": target, "model": f"mean over {len(own)} pairs", "method": method, "beside": "", "beside_method": ""}
            rows.append(names | means)
    return [row | {name: "" if row[name] != row[name] else f"{row[name]:.2f}" for name in NUMBERS} for row in rows]


def evidence(own: Map) -> dict[str, Any]:
    """A map's trust card for the page: its name, the verdict on the whole, and each question's word and sentence."""
    assert own.card is not None
    words = {v.question: v.word for v in own.card.verdicts}
    rows = [(v.question, v.word, v.said) for v in own.card.verdicts]
    further = [r for r in own.card.further if r["value"] == r["value"]]
    return {"map": f"{own.name}: {own.target}", "word": own.card.word, "words": words, "rows": rows, "further": further}
