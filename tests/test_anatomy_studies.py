"""A regression studied from images to page: rows of every output, the card's facts, pictures that say what the tables say."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from cohorts import change, run
from matplotlib.patches import Rectangle
from pandas import DataFrame
from safetensors.torch import save_file
from test_analysis_anatomy import TARGETS, audited, looks, varied
from typer.testing import CliRunner

from radiolucent import analysis
from radiolucent.analysis.sides import keys
from radiolucent.cli import app
from radiolucent.errors import BadInput
from radiolucent.models import Morphometry, read_card
from radiolucent.report import anatomy_figures as draw
from radiolucent.report.figures import png
from radiolucent.report.matrix import column_keys
from radiolucent.study.analysing import outputs_of, read_analysis
from radiolucent.study.anatomy import anatomy_panels

RECIPE = """
[cohort]
manifest = "cases.csv"
[model]
model = "model"
[explain]
targets = ["right ball", "left ball"]
methods = [{ method = "gradient" }]
[regions]
parcellation = "label"
names = "names.tsv"
[keep]
thumbnails = false
[analysis]
trees = 2
"""
OUTPUTS = ("left ball", "right ball", "age")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Ten images with a ball on each side, and an untrained regressor with a card."""
    folder = tmp_path_factory.mktemp("balls")
    (folder / "model").mkdir()
    torch.manual_seed(0)
    network = Morphometry(3, (8, 6, 6), channels=(4,), hidden=(6,))
    save_file(network.state_dict(), folder / "model" / "weights.safetensors")
    arguments = {"outputs": 3, "size": [8, 6, 6], "channels": [4], "hidden": [6]}
    card = {"name": "balls", "task": "regression", "network": "radiolucent:Morphometry", "weights": "weights.safetensors"}
    card |= {"arguments": arguments, "classes": list(OUTPUTS), "spread": [2.0, 3.0, 9.0], "mean": [10, 10.5, 60]}
    (folder / "model" / "card.json").write_text(json.dumps(card | {"about": {"unit": "mm3"}}))
    (folder / "names.tsv").write_text("index\tname\themisphere\n1\tBall\tleft\n2\tBall\tright\n")
    lines = ["case,image,label"]
    random = np.random.default_rng(0)
    for number in range(10):
        labels = np.zeros((8, 6, 6), np.uint8)
        labels[1 : 2 + random.integers(1, 3), 2:4, 2:4] = 1
        labels[5 : 6 + random.integers(1, 3), 2:4, 2:4] = 2
        image = labels + 0.1 * random.random(labels.shape)
        for part, data in (("image", image.astype(np.float32)), ("label", labels)):
            nib.save(nib.Nifti1Image(data, np.diag([2.0, 1, 1, 1])), folder / f"{part}{number}.nii.gz")
        lines.append(f"c{number},image{number}.nii.gz,label{number}.nii.gz")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    done = run(folder / "recipe.toml")
    assert not done.failed
    return done.study


def test_every_output_has_a_row_whichever_are_explained(study) -> None:
    cases = study.cases()
    assert set(cases["target"]) == set(OUTPUTS)
    assert len(cases) == 30
    assert np.isfinite(cases["score"]).all()
    assert set(study.rows()["target"]) == set(OUTPUTS[:2])


def test_the_analysis_knows_the_card_and_the_regions(study) -> None:
    outputs = outputs_of(study, study.cases())
    assert outputs["target"].tolist() == list(OUTPUTS)
    assert outputs["mean"].tolist() == [10, 10.5, 60]
    assert outputs["spread"].tolist() == [2, 3, 9]
    assert set(outputs["unit"]) == {"mm3"}
    result = CliRunner().invoke(app, ["study", "analyse", str(study.folder)])
    assert result.exit_code == 0, result.output
    assert "asymmetry: " in result.output
    tables = read_analysis(study)
    assert set(tables["mirror"]["structure"]) == {"Ball (left)", "Ball (right)"}
    volumes = tables["asymmetries"].set_index("case")["true"].to_dict()
    label = nib.load(study.folder.parent / "label3.nii.gz").get_fdata()
    assert volumes["c3"] == 2 * ((label == 2).sum() - (label == 1).sum())  # mm3
    assert tables["variation"].set_index("target")["cv"].to_dict() == pytest.approx({"left ball": 0.2, "right ball": 3 / 10.5})
    page = (study.folder / "report.html").read_text()
    for title in ("Attention per structure", "Target and mirror", "Attention and variability", "Asymmetry"):
        assert f">{title}</h2>" in page
    assert "of 2 targets with a mirror" in page
    assert "two one-sided tests of equality within a laterality index of ±0.1" in page


def test_the_training_table_goes_before_the_card(study) -> None:
    folder = study.folder.parent
    wide = folder / "training.csv"
    wide.write_text("subject,left ball,right ball\na,1,5\nb,2,5\nc,3,8\n")
    text = (study.folder / "recipe.toml").read_text()
    try:
        for content in (wide.read_text(), "target,mean,spread\nleft ball,2,1\nright ball,6,1.7320508\n"):
            wide.write_text(content)
            (study.folder / "recipe.toml").write_text(text + f"\ntraining = '{wide}'\n")
            found = outputs_of(study, study.cases()).set_index("target")
            assert found.loc["left ball", ["mean", "spread"]].tolist() == [2, 1]
            assert found.loc["right ball", "spread"] == pytest.approx(math.sqrt(3))
            assert found.loc["age", ["mean", "spread"]].isna().all()
            assert set(found["source"]) == {"the table training.csv"}
        for wrong, match in (("a,b\n1,2\n", "one called like each output"), ("target,mean,spread\nage,1,1\nage,2,2\n", "twice")):
            wide.write_text(wrong)
            with pytest.raises(BadInput, match=match):
                outputs_of(study, study.cases())
    finally:
        (study.folder / "recipe.toml").write_text(text)


def test_a_card_with_another_spread_is_another_study(study, tmp_path: Path) -> None:
    """SMOCAM's maps depend on it."""
    card = study.folder.parent / "model" / "card.json"
    before = card.read_text()
    try:
        card.write_text(before.replace("9.0]", "8.0]"))
        with pytest.raises(BadInput, match=r"model\.spread"):
            run(study.folder.parent / "recipe.toml")
        card.write_text(before.replace('"mean": [10,', '"mean": ["ten",'))
        with pytest.raises(BadInput, match="numbers as mean"):
            read_card(card)
    finally:
        card.write_text(before)


def test_a_parcellation_that_names_nothing_of_the_outputs_is_no_error(study) -> None:
    recipe = study.folder / "recipe.toml"
    text = recipe.read_text()
    try:
        change(recipe, "[analysis]", '[analysis]\nstructures = [["left ball", "Ball (right)"], ["right ball", "Ball (left)"]]')
        result = CliRunner().invoke(app, ["study", "analyse", str(study.folder)])
        assert result.exit_code == 0, result.output
        assert set(read_analysis(study)["own"].query("target == 'left ball'")["structure"]) == {"Ball (right)"}
        change(recipe, "Ball (right)", "Spleen")
        result = CliRunner().invoke(app, ["study", "analyse", str(study.folder)])
        assert "structures as (target, region)" in result.output + str(result.exception)
    finally:
        recipe.write_text(text)


# Pictures.


def density(**options: float):
    rows = looks(0.6, 0.1, **options)
    return analysis.density(rows, analysis.matches(rows, TARGETS))


def test_the_density_map_holds_doublings_and_frames_own_and_mirror() -> None:
    table = density()
    figure = draw.density_map(table)
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    known = table.set_index("region")["density"]
    regions = [label.get_text().replace("\n", " ") for label in axis.get_xticklabels()]
    top = np.log2(known[known > 0]).abs().max()
    expected = [np.clip(np.log2(known[name]) if known[name] else -top, -top, top) for name in regions]
    assert shown[0].tolist() == pytest.approx(expected)
    frames = {p.get_x() + 0.5: p.get_linestyle() for p in axis.patches if isinstance(p, Rectangle)}
    assert frames == {regions.index("Hippocampus (left)"): "solid", regions.index("Hippocampus (right)"): "dotted"}
    assert "0" in {text.get_text() for text in axis.texts}
    assert "log scale" in figure.axes[1].get_ylabel()
    nowhere = table.assign(density=table["density"].where(table["region"] != "Stem"))
    assert draw.density_map(nowhere).axes[0].images[0].get_array().mask.sum() == 1  # grey, rather than none


def test_two_labels_of_one_name_are_two_columns_but_one_structure() -> None:
    table = density()
    twice = table.replace({"region": {"Ventricle (left)": "Stem"}}).assign(hemisphere="")
    assert len(set(column_keys(twice))) == 5
    assert len(draw.density_map(twice).axes[0].get_xticks()) == 5
    assert len(set(keys(twice))) == 4


def test_the_bars_are_sorted_and_always_hold_own_and_mirror() -> None:
    table = density()
    axis = draw.density_bars(table, "left hippocampus", most=1).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["Hippocampus (left)", "Hippocampus (right)"]
    dots = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "D")]
    assert dots == pytest.approx([0.6 * 7, 0.1 * 7])
    assert "root scale" in axis.get_xlabel()


def test_mirror_shares_have_what_volumes_would_give_and_a_word() -> None:
    rows = looks(0.6, 0.1)
    table = analysis.mirror(analysis.own(rows, analysis.matches(rows, TARGETS)))
    axis = draw.mirror_shares(table, 0.05).axes[0]
    dots = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "D")]
    assert dots == pytest.approx([0.6, 0.1])
    even = [line.get_xdata()[0] for line in axis.lines if line.get_color() == "black"]
    assert even == pytest.approx([1 / 7, 1 / 7])
    assert [text.get_text() for text in axis.texts] == ["itself"]
    found = [{"p": 1, "q": 0.01, "effect": -1, "q_equal": 1}, {"p": 1, "q": 0.01, "effect": 1, "q_equal": 0.01}]
    found += [{"p": 1, "q": 0.9, "q_equal": 0.9}, {"p": math.nan}]
    words = [draw._found(row | {"opposite": "x"}, 0.05) for row in found]
    assert words == ["mirror", "equal", "undecided", "few cases"]


def test_the_mirror_panel_says_what_the_table_says_at_the_studys_alpha() -> None:
    rows = looks(0.5, 0.1, n=8, noise=0.1)
    for alpha, word, verdict in ((0.05, "itself", "more in the target itself"), (0.001, "undecided", "no evidence of a side")):
        settings = analysis.Settings(alpha=alpha)
        outputs = DataFrame({"target": TARGETS[:1], "mean": math.nan, "spread": math.nan, "source": "", "unit": ""})
        nothing = DataFrame(columns=["case"])
        tables = analysis.anatomy(rows, nothing, nothing, outputs, settings).tables
        assert tables["mirror"]["verdict"].iloc[0].startswith(verdict)
        mirror = next(panel for panel in anatomy_panels(tables, alpha) if panel.title == "Target and mirror")
        ((figure, _),) = mirror.groups[0].figures
        axis = figure.axes[0]
        assert [text.get_text() for text in axis.texts] == [word]


def test_the_scatter_has_a_dot_and_a_name_per_structure() -> None:
    points = varied(np.array([1.0, 2, 4, 3, 8, 5, 0.5]), np.array([0.1, 0.2, 0.1, 0.3, 0.5, 0.4, 0.2]))
    axis = draw.variability_scatter(points, analysis.variability(points)).axes[0]
    assert sorted(axis.lines[0].get_xdata()) == pytest.approx([10, 10, 20, 20, 30, 40, 50])
    assert {text.get_text() for text in axis.texts} == set(points["unit"])
    assert "from the model card" in axis.get_xlabel()
    assert "rho" in axis.get_title()
    few = points[:3].assign(density=[0.0, 1, 1])
    assert draw.variability_scatter(few, analysis.variability(few)).axes[0].get_title().startswith("not enough structures")


def test_asymmetry_is_drawn_on_equal_axes_with_its_slope() -> None:
    rows = audited(0.4, noise=50)
    table = analysis.asymmetry(rows, unit="mm3")
    figure = draw.asymmetry_panels(rows, table)
    axis = figure.axes[0]
    assert axis.get_xlim() == axis.get_ylim()
    fit = axis.lines[-1]
    (x0, x1), (y0, y1) = fit.get_xdata(), fit.get_ydata()
    assert (y1 - y0) / (x1 - x0) == pytest.approx(table["slope"].iloc[0])
    assert figure.get_supxlabel() == "true right minus left in mm³"


@pytest.mark.parametrize("n", [0, 1, 3])
def test_pictures_of_next_to_nothing_are_pictures(n: int) -> None:
    rows = audited(0.0, n=max(n, 1))[:n].assign(true=0.0)
    assert png(draw.asymmetry_panels(rows, analysis.asymmetry(rows))).startswith(b"\x89PNG")
    table = density(n=max(n, 1))
    for figure in (draw.density_map(table.assign(density=0.0)), draw.density_bars(table[:n], "left hippocampus")):
        assert png(figure).startswith(b"\x89PNG")
    points = varied(np.arange(n) * 0.0, np.zeros(n) + 0.5)
    if n:
        assert png(draw.variability_scatter(points, analysis.variability(points))).startswith(b"\x89PNG")
