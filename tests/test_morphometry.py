"""The morphometry network, as a module, from a card, and under the methods that explain it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model

from radiolucent import BadInput, load
from radiolucent.models import Morphometry
from radiolucent.statistics import intraclass_correlation


def test_the_outputs_are_the_papers_equation_by_hand() -> None:
    torch.manual_seed(0)
    network = Morphometry(2, (9, 8), channels=(3, 4), pool=(2, 2), hidden=(5,), convolutions=1)
    network.standardise(torch.tensor([[10.0, 300.0], [14.0, 400.0], [12.0, 800.0]]))
    x = torch.randn(2, 1, 9, 8)
    y = x
    for number in (0, 1):
        conv = network.blocks[number][0]
        y = torch.conv2d(y, conv.weight, conv.bias, padding=1).clamp(min=0)
        h, w = y.shape[2] // 2, y.shape[3] // 2
        y = y[:, :, : 2 * h, : 2 * w].reshape(2, -1, h, 2, w, 2).amax((3, 5))
    first, last = network.head[2], network.head[4]
    y = ((y.flatten(1) @ first.weight.T + first.bias).clamp(min=0)) @ last.weight.T + last.bias
    expected = torch.tensor([12.0, 500.0]) + torch.tensor([2.0, 70000.0**0.5]) * y
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("size", [(16, 20), (16, 20, 12)])
def test_a_mean_can_be_learnt_in_its_own_unit(size: tuple[int, ...]) -> None:
    """The brightness of the image is the measurement: after 120 steps the error is small beside the spread."""
    torch.manual_seed(1)
    network = Morphometry(1, size, channels=(4, 4), hidden=(16, 16))
    level = torch.rand(64, 1)
    x = level.reshape(-1, *[1] * (len(size) + 1)) + 0.1 * torch.randn(64, 1, *size)
    truth = 1000 + 500 * level
    network.standardise(truth)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        (((network(x) - truth) / network.spread) ** 2).mean().backward()
        optimiser.step()
    error = (network(x) - truth).abs().mean().item()
    assert error < 0.2 * float(network.spread)
    assert float(network.spread) == pytest.approx(float(truth.std()))


def test_a_card_names_it_without_trust(tmp_path: Path) -> None:
    arguments = {"outputs": 2, "size": [8, 8, 8], "channels": [2, 3], "hidden": [4], "norm": True, "dropout": 0.1}
    network = Morphometry(**arguments).eval()
    network.standardise(torch.tensor([[1.0, 5.0], [3.0, 9.0]]))
    save_model(network, str(tmp_path / "weights.safetensors"))
    card = {"name": "m", "task": "regression", "network": "radiolucent:Morphometry", "arguments": arguments}
    card |= {"weights": "weights.safetensors", "classes": ["left", "right"], "spread": [1.4, 2.8]}
    (tmp_path / "card.json").write_text(json.dumps(card))
    loaded, read = load(tmp_path)
    x = torch.randn(3, 1, 8, 8, 8)
    assert torch.equal(loaded(x), network(x))
    assert read.classes == ("left", "right")
    assert read.spread == (1.4, 2.8)
    (tmp_path / "card.json").write_text(json.dumps(card | {"network": "radiolucent:Nothing"}))
    with pytest.raises(BadInput, match=r"a network of radiolucent: AnatomyNet, Morphometry, .*got Nothing"):
        load(tmp_path)


def test_the_papers_sizes() -> None:
    """164 x 172 x 202 voxels, pooled by 3, 2 and 2: the layers that SMOCAM's masks lie on, without running it."""
    with torch.device("meta"):
        network = Morphometry(165, (164, 172, 202), channels=(16, 32, 64), pool=(3, 2, 2))
        x = torch.empty(1, 1, 164, 172, 202)
        cells = []
        for block in network.blocks:
            x = block(x)
            cells.append(tuple(x.shape[2:]))
        assert cells == [(54, 57, 67), (27, 28, 33), (13, 14, 16)]
        assert network(torch.empty(1, 1, 164, 172, 202)).shape == (1, 165)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": (8,)}, "a size of 2 or 3 axes"),
        ({"size": (3, 8)}, "a size that can be pooled"),
        ({"pool": (2, 2, 2)}, "`pool`: one number, or one for each of 2 blocks"),
        ({"convolutions": (1,)}, "`convolutions`: one number, or one"),
        ({"outputs": 0}, "whole numbers above 0"),
        ({"dropout": 1.0}, "whole numbers above 0"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Morphometry(**{"outputs": 2, "size": (8, 8), "channels": (2, 2), "hidden": (3,)} | change)  # type: ignore[arg-type]


def test_another_image_and_a_constant_output_are_refused() -> None:
    network = Morphometry(2, (8, 8), channels=(2,), hidden=(3,))
    with pytest.raises(BadInput, match=r"an input \(b, 1, 8, 8\); got \(1, 1, 8, 9\)"):
        network(torch.zeros(1, 1, 8, 9))
    with pytest.raises(BadInput, match=r"without a spread: outputs \[1\]"):
        network.standardise(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    assert network.mean.tolist() == [0, 0]  # nothing was changed


class Boxes:
    """Two measurements that a small network can learn: the brightness of either half, in four cells each."""

    name, outputs, located, epochs, learning_rate = "boxes", ["left", "right"], 3, 6, 3e-3
    arguments: dict[str, Any] = {"outputs": 2, "size": [8, 8, 8], "channels": [2, 2], "hidden": [8], "pool": [4, 1], "norm": True}  # noqa: RUF012
    preprocessing: dict[str, Any] = {"size": [8, 8, 8]}  # noqa: RUF012
    about: dict[str, Any] = {"data": "none"}  # noqa: RUF012

    def draw(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(100 * epoch + number)
        truth = torch.rand(2, generator=generator)
        sides = torch.where(torch.arange(8) < 4, truth[0], truth[1])
        cells = torch.zeros(2, 2, 2, 2)
        cells[0, :, :, 0], cells[1, :, :, 1] = 25 * truth[:, None, None]
        return sides + 0.1 * torch.randn((1, 8, 8, 8), generator=generator), cells

    def fixed(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        scans, truths = zip(*(self.draw({"validation": 90, "test": 91}[part], n) for n in range(9)), strict=True)
        return torch.stack(scans), torch.stack(truths).sum((2, 3, 4))

    def truths(self) -> torch.Tensor:
        return torch.stack([self.draw(80, n)[1] for n in range(20)])

    def __len__(self) -> int:
        return 18


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples" / "morphometry"))
    return importlib.import_module("train")


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, train: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train.Training(Boxes(), tmp_path / "a", 6)
    whole.run(0, 10)
    for done in (2, 3, 5):  # among the cells, between cells and volumes, among the volumes
        part = train.Training(Boxes(), tmp_path / "b", 6)
        while part.done < done:
            part.advance(0, *part.task.fixed("validation"))
    second = train.Training(Boxes(), tmp_path / "b", 6)
    assert second.done == 5
    second.run(0, 10)
    ended = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in "ab"]
    assert ended[0]["done"] == ended[1]["done"] == 6
    for key, value in ended[0]["learnt"].items():
        assert torch.equal(value, ended[1]["learnt"][key]), key


def test_fully_connected_layers_begin_as_the_sum_over_the_cells(train: Any) -> None:
    torch.manual_seed(0)
    network = Morphometry(2, (8, 8, 8), channels=(2, 3), pool=(4, 1), hidden=(8, 5)).eval()
    network.standardise(torch.tensor([[1.0, 20.0], [3.0, 50.0]]))
    where = train.CellMap(network, torch.tensor([0.3, 4.0]))
    torch.nn.init.uniform_(where.weight)
    train.begin_as_sum(network, where)
    scans = torch.rand(3, 1, 8, 8, 8)
    summed = where(network.blocks(scans)).sum((2, 3, 4)) * where.unit
    assert summed.std(0).min() > 0.01
    torch.testing.assert_close(network(scans), summed)


def test_amounts_in_cells_are_counted_by_hand(train: Any) -> None:
    located = importlib.import_module("located")  # beside train
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    labels[0, 0, 0, :3], labels[0, 3, 3, 3] = 7, 2
    cells = located.amounts(labels, [2, 7], 2)
    assert cells.shape == (2, 2, 2, 2)
    assert cells[1, 0, 0].tolist() == [2, 1]
    assert cells[0, 1, 1].tolist() == [0, 1]
    assert cells.sum() == 4


def test_the_best_epoch_is_kept_and_the_card_tells_its_agreement(tmp_path: Path, train: Any) -> None:
    training = train.Training(Boxes(), tmp_path, 6)
    training.run(0, 10)
    task = training.task
    reached = train.agreement(training.network, *task.fixed("validation"))
    assert sum(reached) / 2 == pytest.approx(training.best)
    told = train.card(training)
    save_model(training.network, str(tmp_path / "weights.safetensors"))
    (tmp_path / "card.json").write_text(json.dumps(told))
    network, card = load(tmp_path)
    scans, truths = task.fixed("test")
    with torch.inference_mode():
        pairs = torch.stack([truths[:, 1], network(scans)[:, 1]], 1)
    assert card.about["test"]["ICC(2,1)"]["right"] == pytest.approx(intraclass_correlation(pairs.numpy(), "ICC(2,1)"), abs=1e-3)
    assert card.spread == pytest.approx(task.truths().sum((2, 3, 4)).std(0).tolist(), rel=1e-3)
