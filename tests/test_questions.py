"""The questions to the morphometry models: worlds in which the answers are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pandas import DataFrame
from torch import Tensor, nn

import radiolucent as rl
from radiolucent.baselines import blur
from radiolucent.io.tables import Name
from radiolucent.methods import Gradient

PLACES = Path(__file__).parents[1] / "examples" / "morphometry"
LEFT, RIGHT = (slice(2, 4), slice(4, 8), slice(4, 8)), (slice(8, 10), slice(4, 8), slice(4, 8))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PLACES))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


class Sums(nn.Module):
    """Two outputs: the sum over the left box, and that over the right one with a fifth of the left one's."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, 12, 12, 12))
        with torch.no_grad():
            self.weights[0][LEFT] = 1.0
            self.weights[1][RIGHT] = 1.0
            self.weights[1][LEFT] = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bcxyz,oxyz->bo", x, self.weights)


def labels() -> np.ndarray:
    data = np.zeros((1, 12, 12, 12), np.int32)
    data[0, 1:11, 2:10, 2:10] = 3
    data[0][LEFT], data[0][RIGHT] = 1, 2
    return data


def test_the_area_under_the_deletion_curve_is_that_of_a_sum_by_hand(example: Any) -> None:
    """In a linear model the output moves by what the blur takes from the voxels that are taken away."""
    deletion = example("deletion").Deletion(shares=(0.01, 0.04))
    net, x = Sums(), torch.rand(1, 1, 12, 12, 12)
    first = np.zeros((1, 12, 12, 12))
    first[0][LEFT] = 2 + np.arange(32).reshape(2, 4, 4)
    n, lost = 12**3, (x - blur(x))[0, 0]
    order = np.argsort(-first[0].reshape(-1))[: round(0.01 * n)]
    weights = net.weights.detach().flatten(1)
    one = (weights[:, order] * lost.reshape(-1)[order]).sum(1).abs()
    four = (weights * (lost * (torch.from_numpy(first[0]) > 0)).reshape(-1)).sum(1).abs()
    sigma = torch.tensor([2.0, 5.0])
    found = deletion(net, x, first, sigma)[0]
    # 4 % are 69 voxels: the 32 of the box, and 37 with no relevance, of which those in the right box count too
    of_left = float((one[0] / 2 * 0.01 / 2 + (one[0] + four[0]) / 2 / 2 * 0.03) / 0.04)
    assert found[0] == pytest.approx(of_left, rel=1e-5)
    assert found.shape == (2,)


def test_taking_away_what_counts_moves_the_output_more_than_chance(example: Any) -> None:
    part = example("deletion")
    net, x = Sums(), torch.rand(1, 1, 12, 12, 12)
    own = part.nearest_first(labels()[0] == 1, (12, 12, 12), (1.0, 1.0, 1.0))
    area = part.Deletion()(net, x, own[None], torch.ones(2))[0, 0]
    for firsts in part.random_orders((12, 12, 12)).values():
        assert area > 2 * part.Deletion()(net, x, firsts, torch.ones(2)).mean(0)[0]


def test_a_structure_is_taken_from_its_inside_outwards_in_mm(example: Any) -> None:
    inside = np.zeros((8, 8, 8), bool)
    inside[2:5, 2:4, 2:4] = True  # of the voxels of 2: one whole, and half of its neighbour
    order = example("deletion").nearest_first(inside, (4, 4, 4), (4.0, 1.0, 1.0))
    assert order[1, 1, 1] == 1.0
    assert order[2, 1, 1] == 0.5
    assert order[1, 2, 1] == -1.0
    assert order[0, 1, 1] == -4.0
    assert order[3, 1, 2] == pytest.approx(-(17**0.5))


def test_a_map_on_a_finer_grid_keeps_its_shares(example: Any) -> None:
    coarse = rl.Volume(np.random.default_rng(0).random((1, 3, 4, 2)), np.diag([4.0, 4, 4, 1]))
    fine = example("held_out").finer(coarse, rl.Volume(np.zeros((1, 6, 8, 4)), np.diag([2.0, 2, 2, 1])))
    assert fine.data.shape == (1, 6, 8, 4)
    assert np.array_equal(fine.data[:, ::2, ::2, ::2], coarse.data)
    assert np.array_equal(fine.data[:, 1::2, 1::2, 1::2], coarse.data)


def test_shares_sides_and_pointing_of_a_model_that_looks_at_both_sides(example: Any) -> None:
    """The gradient of output 2 is 1 on its own box and 0.2 on its mirror: shares of 5/6 and 1/6."""
    own = {"box (left)": [1], "box (right)": [2]}
    task = SimpleNamespace(own=own, mirror={"box (left)": [2], "box (right)": [1]}, tolerance_mm=1.0)
    names = {1: Name("box", "left"), 2: Name("box", "right"), 3: Name("rest")}
    image = rl.Volume(np.random.default_rng(0).random((1, 12, 12, 12), np.float32))
    held = example("held_out").Held("a", image, rl.Parcellation(image.like(labels()), names), [1.0, 2.0])
    card = SimpleNamespace(classes=tuple(own), spread=(1.0, 1.0))
    rows, attention = example("asking").Asking(Sums(), card, task, {"gradient": Gradient()})(held)
    found = {(row["output"], row["metric"]): row["value"] for row in rows if row["method"] == "gradient"}
    labelled = 10 * 8 * 8
    assert found["box (left)", "share"] == pytest.approx(1)
    assert found["box (left)", "density"] == pytest.approx(labelled / 32)
    assert found["box (left)", "own side"] == 1
    assert found["box (right)", "share"] == pytest.approx(5 / 6)
    assert found["box (right)", "mirror"] == pytest.approx(1 / 6)
    assert found["box (right)", "own side"] == pytest.approx(2 / 3)
    assert found["box (right)", "pointing-game"] == 1
    assert found["box (right)", "no map"] == 0
    assert found["box (right)", "unlabelled"] == 0
    controls = {row["method"] for row in rows if row["metric"] == "deletion"}
    assert controls == {"gradient", "random voxels", "random patches", "own structure first", "mirror first"}
    table = example("findings").by_structure(DataFrame(attention))
    densities = dict(zip(zip(table["target"], table["label"], strict=True), table["density"], strict=True))
    assert densities["box (right)", 1] == pytest.approx(labelled / 32 / 6)
    assert densities["box (right)", 3] == 0


def test_an_asymmetry_that_is_halved_has_slope_one_half(example: Any) -> None:
    rng = np.random.default_rng(0)
    true = 0.2 * rng.standard_normal(40)
    truth, said = (np.stack([100 * (1 - a / 2), 100 * (1 + a / 2)], 1) for a in (true, true / 2))
    (row,) = example("findings").asymmetry(["x (left)", "x (right)"], [("x (left)", "x (right)")], truth, said)
    assert row["pair"] == "x"
    assert row["slope"] == pytest.approx(0.5)
    assert row["r"] == pytest.approx(1)
    assert np.allclose(row["true"], true)


def test_attention_that_grows_with_variation_is_found_and_three_outputs_are_too_few(example: Any) -> None:
    rows = [{"method": "m", "output": str(i), "metric": "density", "mean": float(i)} for i in range(12)]
    about = {str(i): float(i) for i in range(12)}, {str(i): float(-i) for i in range(12)}
    found = {(r["attention"], r["with"]): r for r in example("findings").relations(rows, *about)}
    assert found["density", "coefficient of variation"]["rho"] == pytest.approx(1)
    assert found["density", "ICC"]["rho"] == pytest.approx(-1)
    few = example("findings").relations(rows[:3], *about)
    assert all(row["reason"] for row in few)
