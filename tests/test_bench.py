"""The scoreboard: the numbers of a world whose cause is known, shared work, kills, failures, what is refused."""

import csv
import json
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from cohorts import program
from safetensors.torch import save_file
from scipy.stats import friedmanchisquare
from typer.testing import CliRunner

from radiolucent.bench import read_recipe, run, write_results
from radiolucent.bench.board import ALL, COLUMNS, Board, not_beaten
from radiolucent.bench.presets import PRESETS
from radiolucent.bench.ranking import critical_difference, friedman, ranking
from radiolucent.bench.reporting import verdicts
from radiolucent.cli import app
from radiolucent.errors import BadInput
from radiolucent.methods import METHODS, GradCAM, Occlusion, SmoothGrad
from radiolucent.methods.naming import label_of, method_of
from radiolucent.metrics import from_text

pytestmark = pytest.mark.filterwarnings("ignore:.*no world space.*:radiolucent.errors.InputWarning")

NETWORK = '''
"""Class 1 is the sum of what is brighter than one half, class 0 its opposite; counts images, is slow on wish."""
import os, time
import torch
from torch import nn

images = 0

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.above = nn.Conv3d(1, 1, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        global images
        images += len(x)
        time.sleep(float(os.environ.get("BRIGHT_SLEEP", "0")))
        score = self.act(self.above(x)).flatten(1).sum(1)
        return torch.stack([-score, score], 1)
'''
METHODS_ASKED = ["gradient", "input-x-gradient", "random-map"]
METRICS_ASKED = ["faithfulness-correlation(cubes=4, samples=30)", "average-precision", "sparseness"]


def write_world(folder: Path, cases: int = 4, name: str = "world") -> Path:
    """What radiolucent.worlds writes: model/, cases.csv, cases/: a bright ball in noise that never reaches the threshold."""
    import torch

    world = folder / name
    (world / "model").mkdir(parents=True)
    (world / "cases").mkdir()
    (folder / "brightnet.py").write_text(NETWORK)
    card = {"name": "bright", "task": "classification", "network": "brightnet:Net", "weights": "weights.safetensors"}
    (world / "model/card.json").write_text(json.dumps(card | {"classes": ["dark", "bright"]}))
    save_file({"above.weight": torch.ones(1, 1, 1, 1, 1), "above.bias": torch.tensor([-0.5])}, world / "model/weights.safetensors")
    lines = ["file,label,truth"]
    for number in range(cases):
        random = np.random.default_rng(number)
        place = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1)
        ball = np.linalg.norm(place - random.uniform(2.5, 4.5, 3), axis=-1) < 2.2
        data = np.where(ball, random.uniform(0.7, 1, ball.shape), random.uniform(0, 0.4, ball.shape))
        save(world / f"cases/{number}.nii.gz", data.astype(np.float32))
        save(world / f"cases/{number}_truth.nii.gz", ball.astype(np.uint8))
        lines.append(f"cases/{number}.nii.gz,1,cases/{number}_truth.nii.gz")
    (world / "cases.csv").write_text("\n".join(lines) + "\n")
    return world


def save(path: Path, data: np.ndarray, spacing: float = 1.0) -> None:
    nib.save(nib.Nifti1Image(data, np.diag([spacing, 1, 1, 1])), path)


def write_recipe(folder: Path, worlds: tuple[str, ...] = ("world",), **values: Any) -> Path:
    values = {"methods": METHODS_ASKED, "metrics": METRICS_ASKED} | values
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    lines += [f'[[models]]\nworld = "{world}"\ntrust = true' for world in worlds]
    (folder / "recipe.toml").write_text("\n".join(lines) + "\n")
    return folder / "recipe.toml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brightnet", raising=False)
    write_world(tmp_path)
    return tmp_path


def filled(recipe: Path, out: str = "out", **how: Any) -> Board:
    read = read_recipe(recipe)
    return write_results(run(read, recipe.parent / out, **how).bench, read)


def values(board: Board) -> list[tuple[Any, ...]]:
    """All that a run must give again: not its times."""
    keys = ("model", "case", "target", "method", "metric", "reason", "value", "low", "high")
    return [tuple(str(row[key]) for key in keys) for row in board.scores if row["category"] != "efficiency"]


# The world's answer


def test_methods_that_know_the_cause_are_told_from_chance(folder: Path) -> None:
    board = filled(write_recipe(folder))
    found = {(row["method"], row["metric"]): row for row in board.table}
    for method in ("gradient", "input-x-gradient"):
        assert found[method, "average-precision"]["mean"] == pytest.approx(1)  # the gradient is 1 in the ball and 0 outside
        assert found[method, "average-precision"]["n"] == 4
    assert found["random-map", "average-precision"]["mean"] < 0.5
    faithful = METRICS_ASKED[0]
    assert found["input-x-gradient", faithful]["mean"] > 0.95  # what cubes lose is nearly what they hold
    assert abs(found["random-map", faithful]["mean"]) < 0.5
    assert {row["target"] for row in board.scores} == {"bright"}  # the label's class
    with (folder / "out/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 * 4  # cases, methods, metrics with seconds
    assert {"model", "case", "target", "method", "metric", "value", "low", "high", "seconds", "evaluations"} <= set(rows[0])
    page = (folder / "out/report.html").read_text()
    assert "Faithfulness against time" in page
    assert page.count("<img") >= 6
    table = (folder / "out/table.md").read_text()
    assert "| gradient |" in table
    assert "**1**" in table
    assert (folder / "out/scores.parquet").exists()
    assert not list((folder / "out").rglob("*.safetensors"))  # maps go once they are checked
    assert not list((folder / "out/running").iterdir())


def test_copies_of_the_image_run_once_for_all_methods(folder: Path) -> None:
    counts = []
    for number, methods in enumerate((["gradient"], METHODS_ASKED)):
        recipe = write_recipe(folder, methods=methods, metrics=METRICS_ASKED[:1], cases=1)
        filled(recipe, f"out{number}")
        import brightnet

        counts.append(brightnet.images)
        brightnet.images = 0
    assert counts[0] > 31
    assert counts[1] - counts[0] < 10  # two more maps, and not 60 more copies


def test_the_planted_preset_takes_a_world_as_it_is(folder: Path) -> None:
    save(folder / "world/cases/empty.nii.gz", np.zeros((8, 8, 8), np.uint8))
    lines = [f"c{n},cases/{n}.nii.gz,bright,yes,cases/{n}_truth.nii.gz" for n in range(2)]
    lines += ["c2,cases/2.nii.gz,bright,no,cases/2_truth.nii.gz", "c3,cases/3.nii.gz,dark,yes,"]
    lines += ["c4,cases/3.nii.gz,dark,yes,cases/empty.nii.gz"]
    (folder / "world/cases.csv").write_text("\n".join(["case,file,label,right,truth", *lines]) + "\n")
    methods = ["gradient", "kernel-shap(cubes=2, samples=40)", "attention-rollout", "edge-map"]
    read = read_recipe(write_recipe(folder, preset="planted", methods=methods, metrics=None))
    assert {"auroc", "deletion", "seconds", "evaluations"} <= set(read.asked)
    whole = read_recipe(write_recipe(folder, preset="planted", methods=None, metrics=None))
    assert set(METHODS) - {"times"} == {label for label in whole.labels if not label.endswith("-map")}
    assert whole.all_methods
    done = run(replace(read, all_methods=True), folder / "out")
    board = Board.of(done.bench)
    assert board.cases == {"world": 2}  # those with something to find that the model gets right
    assert done.failed == {}  # what does not suit a model is no failure, if it was not asked for by name
    assert [(row["method"], row["unfit"]) for row in board.failures] == [("attention-rollout", True)] * 2
    assert board.means_of("world", "auroc")["gradient"]["mean"] == pytest.approx(1)


def test_several_models_are_ranked_together(folder: Path) -> None:
    write_world(folder, 5, "other")
    board = filled(write_recipe(folder, ("world", "other"), metrics=["average-precision"]))
    found = {(c.model, c.metric): c for c in board.compared}
    assert found["world", "average-precision"].ranking.n == 4
    whole = found[ALL, "average-precision"]
    assert whole.ranking.n == 9
    assert whole.differ
    assert whole.ranking.methods[-1] == "random-map"
    assert set(whole.best) == {"gradient", "input-x-gradient"}
    page = (folder / "out/report.html").read_text()
    assert "worse beyond chance: random-map" in page


def test_targets_of_a_case_with_a_truth_each(folder: Path) -> None:
    save(folder / "world/cases/nowhere.nii.gz", np.zeros((8, 8, 8), np.uint8))
    (folder / "world/cases.csv").write_text(
        "file,target,truth\ncases/0.nii.gz,bright;dark,cases/0_truth.nii.gz\n"
        "cases/1.nii.gz,bright;0,cases/1_truth.nii.gz;cases/nowhere.nii.gz\n"
    )
    asked = {"methods": ["gradient"], "metrics": ["auroc"]}
    for part, of_dark in (("absolute", 1.0), ("positive", math.nan)):
        board = filled(write_recipe(folder, part=part, **asked), part)
        rows = {(row["case"], row["target"]): row for row in board.scores if row["metric"] == "auroc"}
        assert rows["0", "bright"]["value"] == pytest.approx(1)
        assert rows["0", "dark"]["value"] == pytest.approx(of_dark, nan_ok=True)  # its gradient is -1 in the ball
        assert "empty" in rows["1", "dark"]["reason"] or "no positive" in rows["1", "dark"]["reason"]
        assert rows["1", "bright"]["value"] == pytest.approx(1)
    (folder / "world/cases.csv").write_text("file,target,truth\ncases/0.nii.gz,bright,cases/0_truth.nii.gz;cases/1_truth.nii.gz\n")
    with pytest.raises(BadInput, match="one truth for all targets of 0, or one for each of 1; got 2"):
        run(read_recipe(write_recipe(folder, **asked)), folder / "out")


def test_baselines_double_what_hides_and_a_recipe_comes_back_from_toml(folder: Path) -> None:
    given = {"baselines": ["minimum", "mean"], "metrics": ["deletion", "entropy"], "cases": 3, "name": "x"}
    for values in (given, {"preset": "planted", "methods": None, "metrics": None}):
        read = read_recipe(write_recipe(folder, **values))
        (folder / "again.toml").write_text(read.to_toml())
        assert read_recipe(folder / "again.toml") == read
    assert read_recipe(write_recipe(folder, **given)).asked == ["deletion", "deletion(baseline=mean)", "entropy", "seconds"]


# Ranks


def test_friedman_and_nemenyi_are_those_of_demsar_2006() -> None:
    # Section 3.2.2: four methods over 14 data sets, mean ranks 3.143, 2.000, 2.893, 1.964.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    mean = np.array([3.143, 2.000, 2.893, 1.964])
    assert 12 * 14 / 20 * ((mean**2).sum() - 4 * 25 / 4) == pytest.approx(9.28, abs=0.02)
    table5 = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for k, q in table5.items():
        assert critical_difference(k, 6) / math.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=0.0015)


@pytest.mark.parametrize(("n", "k", "digits"), [(12, 3, 6), (15, 5, 1), (30, 7, 0)])
def test_friedman_is_scipy_s_also_with_ties(n: int, k: int, digits: int) -> None:
    random = np.random.default_rng(n)
    table = np.round(random.normal(size=(k, n)) + np.linspace(0, 1, k)[:, None], digits)
    named = {str(m): {str(c): float(v) for c, v in enumerate(row)} for m, row in enumerate(table)}
    found, known = ranking(named, higher_is_better=True), friedmanchisquare(*table)
    assert found.friedman == pytest.approx(known.statistic)
    assert found.p == pytest.approx(known.pvalue)
    assert found.methods[0] == str(k - 1)
    assert ranking(named, higher_is_better=False).methods[-1] == str(k - 1)


def test_of_few_cases_the_ranks_are_permuted() -> None:
    same = {m: {str(c): v for c in range(3)} for m, v in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    assert ranking(same, higher_is_better=True).p == pytest.approx(6 / 216)  # of all 6^3 orders, those that agree
    tied = {m: {str(c): 1.0 for c in range(5)} for m in "abc"}
    found = ranking(tied, higher_is_better=True)
    assert (found.friedman, found.p) == (0, 1)
    nearly = {"a": {"1": 1.0, "2": 1e-13}, "b": {"1": 1.0 - 1e-8, "2": 2e-13}, "c": {"1": 0.5, "2": 0.8}}
    found = ranking(nearly, higher_is_better=True)  # a and b differ by rounding alone: ranks 1.5, 1.5, 3 and 2.5, 2.5, 1
    assert dict(zip(found.methods, found.ranks, strict=True)) == {"a": 2, "b": 2, "c": 2}
    assert float(friedman(np.array([[1.0, 2.0], [1.0, 2.0]]))) == pytest.approx(2)


def test_what_has_no_value_is_left_out_and_said() -> None:
    nan = float("nan")
    table = {
        "a": {"1": 1.0, "2": 2.0, "3": 3.0, "4": 1.0},
        "b": {"1": 0.0, "2": 1.0, "3": nan, "4": 0.0},
        "c": {"1": nan, "2": nan, "3": 1.0, "4": 1.0},
    }
    found = ranking(table, higher_is_better=True)
    assert (found.methods, found.ranks, found.n) == (("a", "b"), (1.0, 2.0), 3)
    assert (found.left_out, found.incomplete) == (("c",), 1)
    assert "only 1 method has" in ranking({"a": table["a"]}, higher_is_better=True).reason
    assert "only 1 case has" in ranking({m: {"1": 1.0} for m in "ab"}, higher_is_better=True).reason


def test_what_no_other_beats_in_both() -> None:
    points = {"fast": (1.0, 0.2), "good": (9.0, 0.9), "slow": (10.0, 0.9), "bad": (2.0, 0.1), "middle": (3.0, 0.5)}
    assert not_beaten(points) == ["fast", "good", "middle"]


def board_of(skills: dict[str, dict[str, float]], cases: int) -> Board:
    """Scores of faithfulness, metric -> method -> mean, with a little noise."""
    random, methods = np.random.default_rng(0), list(next(iter(skills.values())))
    about = dict.fromkeys(COLUMNS, "") | {"model": "m", "category": "faithfulness", "better": "higher"}
    rows = [
        about | {"case": str(case), "metric": metric, "method": method, "value": skill + random.normal()}
        for metric, found in skills.items()
        for method, skill in found.items()
        for case in range(cases)
    ]
    return Board(rows, [], ["m"], methods, list(skills), {"m": cases})


def test_verdicts_say_what_is_better_and_what_is_chance() -> None:
    skill = {"good": 9.0, "fair": 8.9, "poor": 0.0, "random-map": 0.0}
    said = verdicts(board_of({"one": skill, "two": skill, "three": dict.fromkeys(skill, 0.0)}, 20))
    assert said[0].startswith("Best, or not told apart from the best, by 2 metrics of faithfulness: ")
    assert "good in 2" in said[0]
    assert "poor" not in said[0]
    assert said[1] == "Not better than random-map beyond chance by any of these: poor."
    assert said[2].endswith("worse beyond chance: poor, random-map.") or said[2].endswith("worse beyond chance: random-map, poor.")
    assert said[4].startswith("three: no method is better than another beyond chance (over 20 cases, q = ")
    many = {"one": {f"method {n}": 3.0 * n for n in range(12)}}
    (said_of_two,) = verdicts(board_of(many, 2))
    assert "the ranks as a whole are no chance" in said_of_two
    assert "no single method can be told from the best, method 11 (mean rank 1.0 of 12)" in said_of_two
    (one,) = verdicts(board_of({"one": skill}, 1))
    assert one == "one: not compared; only 1 case has values to compare: it takes two methods and two cases."


# Text


@pytest.mark.parametrize(
    "text",
    [
        "gradient",
        "smooth-grad(samples=20, noise=0.2)",
        "smooth-grad(of=grad-cam(layer=layer4.1))",
        "smooth-grad(of=hires-cam, samples=3)",
        "occlusion(window=4x6x8, stride=2)",
        "kernel-shap(regions=semantic)",
        "times(first=gradient, second=guided-grad-cam(layer=conv))",
    ],
)
def test_methods_as_text_come_back(text: str) -> None:
    method = method_of(text)
    assert label_of(method) == text
    assert method_of(label_of(method)) == method


def test_methods_as_text_are_what_they_say() -> None:
    assert method_of("smooth-grad(of=grad-cam(layer=a.b), samples=2)") == SmoothGrad(GradCAM("a.b"), samples=2)
    assert method_of("occlusion(window=(4, 6, 8))") == Occlusion(window=(4, 6, 8))
    assert method_of({"method": "smooth-grad", "samples": 2}) == SmoothGrad(samples=2)
    for bad, message in (
        ("gradeint", "a method among .*; got 'gradeint'. Did you mean gradient"),
        ("smooth-grad(20)", "settings of smooth-grad as"),
        ("smooth-grad(of=grad-cam(layer=a)", "brackets|name or name"),
        ("smooth-grad(steps=2)", "fields of smooth-grad among: of, samples"),
    ):
        with pytest.raises(BadInput, match=message):
            method_of(bad)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_methods_and_metrics_that_there_are(name: str) -> None:
    preset = PRESETS[name]
    assert all(method_of(text) for text in preset.methods())
    assert all(from_text(text) for text in preset.metrics())


# Failures


def test_what_fails_is_noted_and_the_others_go_on(folder: Path) -> None:
    truth = folder / "world/cases/1_truth.nii.gz"
    kept = truth.read_bytes()
    save(truth, np.ones((8, 8, 8), np.uint8), spacing=2.0)
    (folder / "world/cases/2.nii.gz").write_bytes(b"nothing")
    methods = ["gradient", "kernel-shap(regions=parcellation)", "random-map"]
    recipe = write_recipe(folder, methods=methods)
    asked = CliRunner().invoke(app, ["bench", str(recipe), "--out", str(folder / "out"), "--json"])
    assert asked.exit_code == 3, asked.exception
    failed = json.loads(asked.stdout)["failed"]
    assert "a truth on the grid of the scan" in failed["world, 1"]
    assert "world, 2" in failed
    assert "parcellation" in failed["world, 0, kernel-shap(regions=parcellation)"]
    board = filled(recipe)  # does nothing again, not even what failed
    assert {row["n"] for row in board.table if row["method"] == "gradient"} == {2}
    nothing = [row for row in board.scores if row["method"].startswith("kernel")]
    assert all(math.isnan(row["value"]) and row["reason"] for row in nothing)
    assert len(nothing) == 2 * 4
    page = (folder / "out/report.html").read_text()
    assert "world, 1 failed and is in no number here" in page
    assert "What could not be had" in page

    asked = CliRunner().invoke(app, ["bench", str(recipe), "--out", str(folder / "out"), "--only-report"])
    assert (asked.exit_code, "report: " in asked.stdout) == (0, True), asked.exception

    truth.write_bytes(kept)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out/cells/world/0").glob("*-gradient*.json")}
    done = run(read_recipe(recipe), folder / "out", retry=True)
    assert "world, 1" not in done.failed
    assert "world, 2" in done.failed
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_model_that_breaks_on_changed_images_gives_a_reason_for_each_number(folder: Path) -> None:
    text = (folder / "brightnet.py").read_text()
    broken = "if int((x == x.min()).sum()) > 1:\n            raise RuntimeError('broke')\n        global"
    (folder / "brightnet.py").write_text(text.replace("global", broken, 1))
    board = filled(write_recipe(folder, cases=2))
    reasons = {row["metric"]: row["reason"] for row in board.scores}
    assert "broke" in reasons[METRICS_ASKED[0]]
    assert reasons["average-precision"] == ""


REFUSED = {
    "unknown method": ({"methods": ["gradeint"]}, "a method among .*Did you mean gradient"),
    "unknown metric": ({"metrics": ["deletoin"]}, "a metric among .*Did you mean deletion"),
    "a setting that it has not": ({"metrics": ["deletion(pionts=3)"]}, "fields of deletion among"),
    "twice": ({"methods": ["gradient", "gradient"]}, "each once; got gradient twice"),
    "none": ({"methods": []}, "one or more methods"),
    "unknown key": ({"metric": ["deletion"]}, "keys of a recipe among.*metrics"),
    "preset": ({"preset": "planed"}, "a preset among .*Did you mean planted"),
    "baseline": ({"baselines": ["black"]}, "baselines among zero, minimum"),
    "part": ({"part": "negative"}, "part among positive, absolute"),
    "a preset for another task": ({"preset": "agg2exp"}, "models for segmentation.*got world, for classification"),
    "layer": ({"methods": ["grad-cam(layer=abov)"]}, "the name of a layer.*above"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_any_work(folder: Path, name: str) -> None:
    given, message = REFUSED[name]
    recipe = write_recipe(folder, **given)
    with pytest.raises(BadInput, match=message):
        run(read_recipe(recipe), folder / "out")
    assert not (folder / "out").exists()


def test_models_and_cases_that_are_not_there_are_refused(folder: Path) -> None:
    recipe = write_recipe(folder)
    text = recipe.read_text()
    for old, new, message in (
        ('world = "world"', 'world = "nowhere"', "a table .*nowhere"),
        ('world = "world"', 'name = "x"\ncases = "world/cases.csv"\nmodel = "nowhere"', "a model folder.*nowhere"),
        ('world = "world"', 'name = "x"\ncases = "world/cases.csv"', "in ..models..; got no model"),
        ("trust = true", "trust = false", "network is monai:NAME"),
        ("trust = true", 'trust = true\ntargets = ["grey"]', "a target that the model has; got 'grey'"),
    ):
        recipe.write_text(text.replace(old, new))
        with pytest.raises(BadInput, match=message):
            run(read_recipe(recipe), folder / "out")
    recipe.write_text(text)
    (folder / "world/cases.csv").write_text("file,label,truth\n")
    with pytest.raises(BadInput, match="no rows"):
        run(read_recipe(recipe), folder / "out")
    (folder / "world/cases.csv").write_text("file,label\ncases/0.nii.gz,1\n")
    with pytest.raises(BadInput, match="no cases left"):
        run(read_recipe(write_recipe(folder, preset="planted")), folder / "out")
    assert not (folder / "out").exists()


def test_another_recipe_is_refused_with_the_difference(folder: Path) -> None:
    recipe = write_recipe(folder, methods=["gradient"], metrics=["sparseness"], cases=2)
    filled(recipe)
    for change, message in (
        ({"methods": ["gradient", "edge-map"]}, "methods.edge-map: nothing, now"),
        ({"metrics": ["entropy"]}, "metrics.sparseness: .*now nothing"),
        ({"cases": 3}, "cases.world"),
        ({"part": "absolute"}, "part: positive, now absolute"),
    ):
        given = {"methods": ["gradient"], "metrics": ["sparseness"], "cases": 2} | change
        with pytest.raises(BadInput, match=message):
            run(read_recipe(write_recipe(folder, **given)), folder / "out")
    with pytest.raises(BadInput, match="which holds something else"):
        run(read_recipe(recipe), folder / "world/model")


def test_names_in_the_page_are_text(folder: Path) -> None:
    rows = (folder / "world/cases.csv").read_text().splitlines()
    (folder / "world/cases.csv").write_text("case," + rows[0] + "\n<script>alert(1)</script>," + rows[1].replace("0.nii", "no.nii"))
    (folder / "world/cases/no.nii.gz").write_bytes(b"no scan")
    filled(write_recipe(folder, name="<b>bold</b>", methods=["gradient"], metrics=["sparseness"]))
    page = (folder / "out/report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>bold" not in page


# Kills


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_that_is_stopped_goes_on_where_it_was(folder: Path, how: signal.Signals) -> None:
    recipe = write_recipe(folder)
    process = program("bench", recipe, "--out", folder / "out", BRIGHT_SLEEP="0.05")
    cells = folder / "out/cells"
    while process.poll() is None and len(list(cells.glob("*/*/*.json"))) < 3:
        time.sleep(0.005)
    process.send_signal(how)
    _, errors = process.communicate()
    assert process.returncode == (-how if how == signal.SIGKILL else 130), errors
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/*/*.json")}
    assert 3 <= len(before) < 24
    assert json.loads((folder / "out/bench.json").read_text())
    board = filled(recipe)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert values(board) == values(filled(recipe, "whole"))
    assert not list((folder / "out/cells").rglob(".*"))
    assert not list((folder / "out/running").iterdir())


@pytest.mark.slow
def test_two_processes_fill_one_folder(folder: Path) -> None:
    recipe = write_recipe(folder)
    both = [program("bench", recipe, "--out", folder / "out", "--json", BRIGHT_SLEEP="0.02") for _ in range(2)]
    ended = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    done = [case for out, _ in ended for case in json.loads(out)["done"]]
    assert sorted(done) == [f"world, {n}" for n in range(4)]
    assert values(filled(recipe)) == values(filled(recipe, "whole"))
