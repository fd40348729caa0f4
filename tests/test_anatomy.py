"""The anatomy networks of Kumar et al.: by hand, from a card, and where the response maps look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch.nn import functional as F

from radiolucent import BadInput, layers, load
from radiolucent.hooks import last_layer
from radiolucent.models import AnatomyNet
from radiolucent.models.anatomy import DEEPER, SHALLOW


@pytest.mark.parametrize("axes", [2, 3])
def test_the_output_by_hand(axes: int) -> None:
    network = AnatomyNet(3, channels=(4, 5), convolutions=1, kernel=5, in_channels=2, axes=axes).eval()
    for block in network.blocks:  # statistics that show
        norm = next(m for m in block if "BatchNorm" in type(m).__name__)
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
    conv, pool = {2: (F.conv2d, F.max_pool2d), 3: (F.conv3d, F.max_pool3d)}[axes]
    x = torch.randn(2, 2, *(9, 8, 10)[:axes])
    first, second = network.blocks[0], network.blocks[1]
    h = conv(x, first[0].weight, first[0].bias, padding=2)
    h = F.batch_norm(h, first[1].running_mean, first[1].running_var, first[1].weight, first[1].bias).clamp(min=0)
    h = conv(pool(h, 2), second[1].weight, second[1].bias, padding=2)
    h = F.batch_norm(h, second[2].running_mean, second[2].running_var, second[2].weight, second[2].bias).clamp(min=0)
    truth = h.flatten(2).mean(2) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), truth)


@pytest.mark.parametrize(("sizes", "convolutions", "least"), [(SHALLOW, 2, 2), (DEEPER, 8, 8)])
def test_its_two_sizes_look_from_the_last_relu(sizes: dict[str, object], convolutions: int, least: int) -> None:
    network = AnatomyNet(4, **sizes).eval()
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == convolutions
    found = layers(network, torch.rand(1, 1, 24, 32))
    assert last_layer(found) == "blocks", "all blocks together end in the last one's ReLU"
    end = next(layer for layer in found if layer.name == "blocks")
    assert end.shape[0] >= 25, "the paper looks at 25 units of it"
    assert sum(p.numel() for p in network.parameters()) * 4 < 10e6, "weights of at most 10 MB"
    with pytest.raises(BadInput, match=f"axes of {least} or more; got shape"):
        network(torch.rand(1, 1, least - 1, 32))


def test_a_card_names_it_without_trust(tmp_path: Path) -> None:
    arguments = {"outputs": 2, "channels": [3, 4], "convolutions": 1, "norm": False, "dropout": 0.5}
    network = AnatomyNet(**arguments).eval()
    save_model(network, str(tmp_path / "weights.safetensors"))
    card = {"name": "a", "task": "classification", "network": "radiolucent:AnatomyNet", "arguments": arguments}
    (tmp_path / "card.json").write_text(json.dumps(card | {"weights": "weights.safetensors", "classes": ["hand", "leg"]}))
    loaded, read = load(tmp_path)
    x = torch.randn(3, 1, 10, 12)
    assert torch.equal(loaded(x), network(x))
    assert read.classes == ("hand", "leg")


@pytest.mark.parametrize(
    "change", [{"channels": ()}, {"kernel": 4}, {"dropout": 1.0}, {"axes": 1}, {"outputs": 0}, {"convolutions": 0}]
)
def test_sizes_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="whole numbers above 0, an odd kernel"):
        AnatomyNet(**{"outputs": 2} | change)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 16, 16, 16), (1, 16, 16)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"images \(b, 1, \*grid\) with 2 axes"):
        AnatomyNet(2)(torch.zeros(shape))
