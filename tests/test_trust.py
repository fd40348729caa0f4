"""Trust cards: what must fail fails, what must pass passes, on worlds whose cause is known."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contracts import disturb, every_axes, every_task, state, world
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Breaks, Bright, Mean, classifier, image

from radiolucent import BadInput, Logits, Volume, predict
from radiolucent.explanation import Explanation
from radiolucent.hooks import randomised
from radiolucent.methods import (
    EdgeMap,
    GradCAM,
    Gradient,
    GuidedBackprop,
    HiResCAM,
    IntegratedGradients,
    RandomMap,
    SmoothGrad,
)
from radiolucent.protocols import Method
from radiolucent.trust import LEVELS, Standards, TrustCard, as_json, trust
from radiolucent.trust.faithfulness import _elsewhere, holm

SIZE = 24


def scans(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth noise around 1; every other scan has a bright square of 4 x 4 somewhere: the cause."""
    generator = torch.Generator().manual_seed(seed)
    x = 1 + 2 * F.avg_pool2d(torch.randn(count, 1, SIZE + 2, SIZE + 2, generator=generator), 3, 1)
    y = torch.arange(count) % 2
    for i in range(1, count, 2):
        r, c = torch.randint(3, SIZE - 7, (2,), generator=generator).tolist()
        x[i, :, r : r + 4, c : c + 4] += 2
    return x, y


def untrained(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 2))


@cache
def trained() -> nn.Sequential:
    net = untrained()
    descent = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(60):
        x, y = scans(32, step)
        descent.zero_grad()
        F.cross_entropy(net(x), y).backward()
        descent.step()
    x, y = scans(64, 1000)
    assert float((net.eval()(x).argmax(1) == y).float().mean()) > 0.9
    return net


def cards(
    net: nn.Module, methods: list[Method], x: Tensor | None = None, level: str | Standards = "quick"
) -> tuple[list[TrustCard], list[Explanation]]:
    x = scans(4, 2000)[0][1:2] if x is None else x
    prediction = predict(net, Volume(x[0].numpy()))
    maps = prediction.explain(methods, Logits(1))
    return trust(prediction, maps, Logits(1), level), maps


def test_integrated_gradients_of_a_trained_network_pass_and_what_knows_nothing_fails() -> None:
    methods = [IntegratedGradients(steps=20), RandomMap(), EdgeMap(), GuidedBackprop()]
    (true, chance, edges, guided), _ = cards(trained(), methods)
    assert (true.word, true.failed, true.stamp) == ("passes", [], "")
    assert true["faithfulness"].numbers[0]["value"] > 0.8
    assert {"sanity", "faithfulness", "stability"} <= set(chance.failed)
    assert {"sanity", "faithfulness"} <= set(edges.failed)
    assert edges["sanity"].numbers[0]["value"] == 1
    assert guided["sanity"].word == "fails"  # Adebayo et al., 2018
    assert 0.45 < guided["sanity"].numbers[0]["value"] < 1
    assert guided.stamp.startswith("FAILS: sanity")
