"""The questions to the morphometry models: worlds in which the answers are known."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
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
from radiolucent.statistics import intraclass_correlation

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


PAIR = ["box (left)", "box (right)"]
OUTPUTS = DataFrame({"target": PAIR, "mean": [4.0, 5.0], "spread": [1.0, 1.0], "source": "the training data", "unit": "mm3"})


def asked(example: Any, model: nn.Module, heads: Sequence[str] = ("a",)) -> tuple[list[dict[str, Any]], dict[str, DataFrame]]:
    """Rows of all metrics and the package's tables, of one gradient and a scan for each entry of `heads`."""
    own = {"box (left)": [1], "box (right)": [2]}
    task = SimpleNamespace(own=own, mirror={"box (left)": [2], "box (right)": [1]}, tolerance_mm=1.0)
    names = {1: Name("box", "left"), 2: Name("box", "right"), 3: Name("rest")}
    card = SimpleNamespace(classes=tuple(own), spread=(1.0, 1.0))
    asking, findings = example("asking").Asking(model, card, task, {"gradient": Gradient()}), example("findings")
    rows, attention, said = [], [], []
    for i, head in enumerate(heads):
        image = rl.Volume(np.random.default_rng(i).random((1, 12, 12, 12), np.float32))
        held = example("held_out").Held(str(i), head, image, rl.Parcellation(image.like(labels()), names), [1.0, 2.0])
        found, where = asking(held)
        rows, attention = rows + found, attention + where
        said += [(held.name, head, output, true, true) for output, true in zip(own, held.truth, strict=True)]
    measured = DataFrame(said, columns=["case", "patient", "target", "true", "score"])
    table = findings.structures(DataFrame(attention), measured, OUTPUTS)
    return [*rows, *findings.shares(table["own"], {str(i): head for i, head in enumerate(heads)})], table


def test_shares_sides_and_pointing_of_a_model_that_looks_at_both_sides(example: Any) -> None:
    """The gradient of output 2 is 1 on its own box and 0.2 on its mirror: shares of 5/6 and 1/6."""
    rows, table = asked(example, Sums())
    found = {(row["output"], row["metric"]): row["value"] for row in rows if row["method"] == "gradient"}
    labelled = 10 * 8 * 8
    assert found["box (left)", "share"] == pytest.approx(1)
    assert found["box (left)", "density"] == pytest.approx(labelled / 32)
    assert found["box (left)", "index"] == 1
    assert found["box (right)", "share"] == pytest.approx(5 / 6)
    assert found["box (right)", "mirror"] == pytest.approx(1 / 6)
    assert found["box (right)", "index"] == pytest.approx(2 / 3)
    assert found["box (right)", "pointing-game"] == 1
    assert found["box (right)", "no map"] == 0
    assert found["box (right)", "unlabelled"] == 0
    controls = {row["method"] for row in rows if row["metric"] == "deletion"}
    assert controls == {"gradient", "random voxels", "random patches", "own structure first", "mirror first"}
    density = table["density"].set_index(["target", "label"])["density"]
    assert density["box (right)", 1] == pytest.approx(labelled / 32 / 6)
    assert density["box (right)", 3] == 0


def test_a_map_that_is_even_also_where_nothing_is_labelled_has_the_density_of_chance(example: Any) -> None:
    even = Sums()
    nn.init.ones_(even.weights)
    rows, table = asked(example, even)
    found = {(row["output"], row["metric"]): row["value"] for row in rows if row["method"] == "gradient"}
    assert found["box (left)", "density"] == pytest.approx(1)
    assert found["box (left)", "share"] == pytest.approx(32 / 640)
    assert found["box (left)", "unlabelled"] == pytest.approx(1 - 640 / 12**3)
    assert np.allclose(table["density"]["density"], 1)


@pytest.mark.parametrize(("patients", "counts"), [(6, "2 | 0 | 0 | 0 | 0"), (3, "0 | 0 | 0 | 0 | 2")])
def test_scans_of_one_head_count_once(example: Any, patients: int, counts: str) -> None:
    """Six scans are enough for a side (p = 2 / 2^6) where they are of six heads, but not where they are of three."""
    rows, table = asked(example, Sums(), [f"head {i % patients}" for i in range(6)])
    assert set(table["mirror"]["n"]) == {patients}
    findings = example("findings")
    overall, by_output = findings.means_of(rows)
    assert {row["n"] for row in overall} == {patients}
    agreed = [{"output": output, "ICC(2,1)": 0.5, "variation": 0.2} for output in PAIR]
    text = findings.tables({"overall": overall, "by_output": by_output, "agreement": agreed}, table, 1.0)
    compared, outputs, sides = text.split("\n\n")  # no mask, no variability of two outputs, no asymmetry of six scans
    assert compared.startswith("| method | share | density | mirror | index | unlabelled | pointing | pointing@1 mm | deletion |")
    assert "| gradient | 0.917 (0.917 to 0.917) | 18.333 (18.333 to 18.333) | 0.083 (0.083 to 0.083) |" in compared
    assert "| box (right) | 0.50 | 0.20 | 16.67 |" in outputs
    assert f"| gradient | 0.83 | {counts} |" in sides
    assert text.endswith({6: "| 0.031 | 1 | 6 |", 3: "|  |  | 3 |"}[patients])  # least q, least q of equality, heads


def measured(scores: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray]) -> DataFrame:
    rows = [(str(i), str(i % 3), o, t, s) for o in truths for i, (t, s) in enumerate(zip(truths[o], scores[o], strict=True))]
    return DataFrame(rows, columns=["case", "patient", "target", "true", "score"])


def test_an_asymmetry_that_is_halved_has_slope_one_half(example: Any) -> None:
    """In mm3, over scans: of the three heads they are of, nothing could be said."""
    rng = np.random.default_rng(0)
    size, d = 100 + 10 * rng.standard_normal(40), 20 * rng.standard_normal(40)
    truth, said = ({"x (left)": size - a / 2, "x (right)": size + a / 2} for a in (d, d / 2))
    outputs = OUTPUTS.assign(target=list(truth))
    table = example("findings").structures(regions(dict.fromkeys(truth, 1.0)), measured(said, truth), outputs)
    (row,) = table["asymmetry"].to_dict("records")
    assert row["pair"] == "x"
    assert row["slope"] == pytest.approx(0.5)
    assert (row["r"], row["r_total"]) == pytest.approx((1, 1))
    assert (row["n"], row["unit"], row["source"]) == (40, "mm3", "columns of the manifest")
    assert not {"p", "q", "verdict"} & set(row)
    per_scan = table["asymmetries"]
    assert np.allclose(per_scan["true"], d[per_scan["case"].astype(int)])
    assert "| x | 0.50 (0.50 to 0.50) | 1.00 |" in example("findings")._asymmetry(table["asymmetry"])


def test_agreement_with_the_truth_by_hand(example: Any) -> None:
    truth = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([1.0, 2, 3, 4])}
    a, b = example("findings").agreement(measured({"a": truth["a"], "b": truth["b"] + 2}, truth))
    assert a == {"output": "a", "ICC(2,1)": pytest.approx(1), "error_mm3": 0}
    # between 10/3, raters 8, rest 0: (10/3) / (10/3 + 2 * 8 / 4), squares of the mean of both doubled
    assert b == {"output": "b", "ICC(2,1)": pytest.approx((10 / 3) / (10 / 3 + 4)), "error_mm3": 2}


def regions(own: Mapping[str, float]) -> DataFrame:
    """Rows as of by_region: regions of 1 voxel called like the outputs, and a rest; a mass of `own` in the output's, of 1 else."""
    rows = []
    names = [*own, "rest"]
    for target in own:
        mass = dict.fromkeys(names, 1.0) | {target: own[target]}
        for label, name in enumerate(names, 1):
            about = {"case": "0", "method": "m", "layer": "", "target": target, "kind": "label", "label": label, "region": name}
            share = mass[name] / sum(mass.values())
            about |= {"hemisphere": "", "mass_fraction": share, "density": share, "enrichment": 1.0, "voxels": 1}
            rows.append(about | {"volume_mm3": 1.0})
    return DataFrame(rows)


def test_both_sides_of_a_structure_count_once_in_variability(example: Any) -> None:
    """Twelve outputs of six structures whose attention grows with their variation: rho is over six."""
    names = [f"{stem} ({side})" for stem in "abcdef" for side in ("left", "right")]
    spread = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2)
    outputs = DataFrame({"target": names, "mean": 1.0, "spread": spread, "source": "the training data", "unit": "mm3"})
    rng = np.random.default_rng(0)
    truth = {name: rng.random(12) for name in names}
    attention = regions({name: 1 + 10 * s for name, s in zip(names, spread, strict=True)})
    table = example("findings").structures(attention, measured(truth, truth), outputs)
    (row,) = table["variability"].to_dict("records")
    assert (row["n"], row["targets"]) == (6, 12)
    assert row["rho"] == pytest.approx(1)
    assert row["q"] == row["p"]
    text = example("findings")._variability(table["variability"])
    assert text.endswith(f"| {row['p']:.2g} | {row['q']:.2g} | 6 |")


def test_the_pictures_are_the_packages_own_and_those_that_would_be_empty_are_left_out(example: Any, tmp_path: Path) -> None:
    _, table = asked(example, Sums())
    for name in example("findings").TABLES:
        table[name].to_csv(tmp_path / f"{name}.csv", index=False)
    part = example("figures")
    found = part.tables_in(tmp_path)
    assert set(found["density"]["hemisphere"]) == {"L", "R", ""}, "empty text is no missing number"
    drawn = part.of_package(found, ["gradient"])
    assert list(drawn) == ["structures-1", "mirror-1", "asymmetry"], "two outputs are too few for variability"
    found["mirror"]["opposite"] = ""
    assert "mirror-1" not in part.of_package(found, ["gradient"])
    assert list(part.of_package(found | {"asymmetry": found["asymmetry"][:0]}, [])) == []


@pytest.mark.parametrize(("name", "folder"), [("hippocampus", "hippocampus"), ("brains", "brain_labels")])
def test_shipped_weights_measure_as_their_card_says(example: Any, data_folder: Path, name: str, folder: str) -> None:
    """To the card's digits, which were made with another number of threads."""
    model, card = rl.load(PLACES / "weights" / name)
    task = example("held_out").HELD_OUT[name](data_folder / folder)
    measured = example("questions").measured(model, task)
    found = {
        target: intraclass_correlation(rows[["true", "score"]].to_numpy(), "ICC(2,1)")
        for target, rows in measured.groupby("target")
    }
    assert found == pytest.approx(card.about["test"]["ICC(2,1)"], abs=2e-3)
