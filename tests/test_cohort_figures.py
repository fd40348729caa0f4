"""Pictures of a cohort: what is drawn is what the tables say, at any size, with any name."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, Rectangle
from simulated import cohort, several

from radiolucent import analysis
from radiolucent.analysis import checked
from radiolucent.report import cohort_figures
from radiolucent.report.figures import png


@pytest.fixture(scope="module")
def tables():
    rows = checked(several(24))
    importance = analysis.importance(rows)
    found = {"regions": rows, "importance": importance, "classes": analysis.classes(importance)}
    found["edges"] = analysis.edges(importance)
    found["ranking"] = analysis.ranking(analysis.anomaly(rows, trees=5))
    return found


def test_the_heat_map_holds_the_means_in_the_clusters_order(tables) -> None:
    figure = cohort_figures.heat_map(tables["importance"], tables["classes"])
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    targets = [label.get_text() for label in axis.get_yticklabels()]
    regions = [label.get_text() for label in axis.get_xticklabels()]
    assert targets == tables["classes"].sort_values("order")["target"].tolist()
    assert regions == [*targets, "background"]
    for row in tables["importance"].itertuples():
        assert shown[targets.index(row.target), regions.index(row.region)] == row.mean
    frames = [p for p in axis.patches if isinstance(p, Rectangle)]
    assert [(p.get_x(), p.get_y()) for p in frames] == [(i - 0.5, i - 0.5) for i in range(3)]
    assert len(axis.texts) == 12
    assert "root scale" in figure.axes[1].get_ylabel()


def test_what_no_scan_has_is_grey_rather_than_zero(tables) -> None:
    table = tables["importance"]
    table = table[~((table["target"] == "liver") & (table["region"] == "kidney left"))]
    shown = cohort_figures.heat_map(table).axes[0].images[0].get_array()
    assert shown.mask.sum() == 1


def test_each_edge_is_an_arrow_as_wide_as_it_is_strong(tables) -> None:
    figure = cohort_figures.context_graph(tables["edges"], tables["importance"], tables["classes"])
    arrows = [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]
    widths = [p.get_linewidth() for p in arrows]
    assert widths == sorted(widths)  # the strongest on top
    expected = 0.8 + 4 * np.sort(tables["edges"]["mean"]) / tables["edges"]["mean"].max()
    assert widths == pytest.approx(expected.tolist())
    assert {text.get_text() for text in figure.axes[0].texts} == {"liver", "kidney left", "kidney right"}


def test_distributions_show_every_case_and_the_median(tables) -> None:
    figure = cohort_figures.distributions(tables["regions"], tables["importance"], "liver")
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[0] == "liver"
    dots = axis.lines[0].get_xdata()
    rows = tables["regions"]
    own = rows[(rows["target"] == "liver") & (rows["region"] == "liver")]["mass_fraction"]
    assert sorted(dots) == sorted(own)
    assert axis.lines[1].get_xdata()[0] == pytest.approx(own.median())


def test_the_ranking_shows_both_ends(tables) -> None:
    axis = cohort_figures.anomaly_ranking(tables["ranking"], most=3, least=2).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    cases = tables["ranking"]["case"].tolist()
    assert [label.split()[1] for label in labels] == cases[:3] + cases[-2:]
    assert any("19 more" in text.get_text() for text in axis.texts)


def test_one_class_with_a_name_that_is_mathematics_and_long_ones() -> None:
    name = "$tumour_{core}$ " + "very " * 20 + "long"
    rows = checked(cohort(12, (5, 5), names=("background", name), target=name))
    importance = analysis.importance(rows)
    figures = [
        cohort_figures.heat_map(importance, analysis.classes(importance)),
        cohort_figures.context_graph(analysis.edges(importance), importance),
        cohort_figures.distributions(rows, importance, name),
    ]
    for figure in figures:
        assert png(figure).startswith(b"\x89PNG")
        assert figure.get_size_inches().max() < 12


def test_twenty_by_twenty_is_readable() -> None:
    names = [f"organ number {i}" for i in range(20)]
    masses = np.random.default_rng(0).dirichlet(np.ones(21), 20)
    rows = [
        {"method": "m", "layer": "", "target": t, "kind": "label", "label": b, "region": r, "hemisphere": "", "mean": masses[i, b]}
        for i, t in enumerate(names)
        for b, r in enumerate(["background", *names])
    ]
    figure = cohort_figures.heat_map(pd.DataFrame(rows))
    FigureCanvasAgg(figure).draw()
    axis = figure.axes[0]
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))  # no name runs into the next
    assert not axis.texts
    inside = figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 for box in boxes)
