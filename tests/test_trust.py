"""Trust cards: what must fail fails, what must pass passes, on worlds whose cause is known."""

import json
import math
from collections.abc import Collection
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from test_contracts import disturb, every_axes, every_task, state, world
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Bright, Returns, classifier, image, segmenter

from radiolucent import BadInput, Logits, Region, Volume, predict
from radiolucent.explanation import Explanation
from radiolucent.hooks import randomised
from radiolucent.methods import (
    EdgeMap,
    GradCAM,
    Gradient,
    GuidedBackprop,
    HiResCAM,
    IntegratedGradients,
    Occlusion,
    RandomMap,
    SmoothGrad,
)
from radiolucent.metrics.faithfulness.units import Units
from radiolucent.protocols import Method, Target
from radiolucent.targets import Select
from radiolucent.tiling import Tiled
from radiolucent.trust import LEVELS, Standards, TrustCard, as_json, judging, trust
from radiolucent.trust.faithfulness import Hidden, _elsewhere, holm
from radiolucent.trust.scene import Scene

SIZE = 24
LOGIT = Logits(1)


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
    net: nn.Module,
    methods: list[Method],
    x: Tensor | None = None,
    level: str | Standards = "quick",
    targets: Target = LOGIT,
) -> tuple[list[TrustCard], list[Explanation]]:
    x = scans(4, 2000)[0][1:2] if x is None else x
    prediction = predict(net, Volume(x[0].numpy()))
    maps = prediction.explain(methods, targets)
    return trust(prediction, maps, targets, level), maps


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


def test_the_maps_of_an_untrained_network_fail() -> None:
    """Five of them, each with a chance of 0.05 to pass: their weights are as likely in any other order."""
    failed = []
    for seed in range(5):
        (card,), _ = cards(untrained(seed + 10).eval(), [IntegratedGradients(steps=4)])
        failed.append(card["sanity"].word == "fails" and "weights shuffled" in card["sanity"].said)
    assert sum(failed) >= 4


def test_shuffled_weights_are_the_same_values_in_another_order() -> None:
    net = untrained()
    other = randomised(net, None, 3, shuffled=True)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
    assert not torch.equal(net[0].weight, other[0].weight)


def test_elsewhere_is_every_shift_and_mirror_image_but_the_map_itself() -> None:
    sums = np.arange(6.0).reshape(2, 3) ** 2
    slow = [
        np.roll(mirror, (i, j), (0, 1)).ravel()
        for mirror in (sums, sums[::-1], sums[:, ::-1], sums[::-1, ::-1])
        for i in range(2)
        for j in range(3)
    ]
    subsets = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]], float)
    hidden = Hidden(Units((2, 3), 6), (2, 3), subsets, torch.zeros(4, 1), np.zeros(6))
    found = _elsewhere(sums.ravel(), hidden)
    assert found == pytest.approx((np.array(slow[1:]) - sums.mean()) @ subsets.T)


def test_holm() -> None:
    """Against the definition: p_(i) times the number of those that are no smaller, never falling."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    found = holm([0.02, math.nan, 0.01])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.02)


@every_axes
@every_task
def test_every_map_gets_a_card_and_the_model_is_left_as_found(task: str, axes: int) -> None:
    here = world(task, axes, batch=1)
    prediction = predict(here.model, Volume(here.x[0].numpy()))
    maps = prediction.explain([Gradient(), SmoothGrad(samples=2)], here.target(1, 2))
    disturb(here.model)
    before, random = state(here.model), torch.get_rng_state()
    found = trust(prediction, maps, here.target(1, 2))
    assert state(here.model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert [(c.settings, c.target) for c in found] == [(repr(e.method), t) for e in maps for t in e.targets]
    for card in found:
        assert [v.question for v in card.verdicts] == ["sanity", "faithfulness", "stability", "agreement"]
        assert card["agreement"].word == "told"
        assert card["stability"].word in ("passes", "fails")
    again = trust(prediction, maps, here.target(1, 2))
    assert [repr(c.verdicts) for c in again] == [repr(c.verdicts) for c in found]


def test_what_cannot_be_asked_is_not_tested_and_says_why() -> None:
    class Locked(nn.Module):
        """Cannot be copied, and fails on any other image than the first."""

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.net, self.x = classifier(2), x
            self.rows = (row for row in x)  # a generator cannot be copied

        def forward(self, x: Tensor) -> Tensor:
            if not torch.equal(x[0], self.x[0]):
                raise ValueError("another image")
            return self.net(x)

    x = image(2, 1)
    (card,), _ = cards(Locked(x), [Gradient()], x)
    assert card.word == "not tested"
    assert card.stamp == ""
    said = {v.question: v.said for v in card.verdicts}
    assert "copied" in said["sanity"]
    assert "another image" in said["faithfulness"]
    assert "another image" in said["stability"]
    assert "no other method" in said["agreement"]
    assert {v.word for v in card.verdicts} == {"not tested"}


def test_a_model_that_holds_on_to_its_trained_weights_is_no_verdict_on_the_map() -> None:
    class Closure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            net = classifier(2).eval()
            self.listed = nn.Linear(3, 3)
            self.run = lambda x: net(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    (card,), _ = cards(Closure(), [Gradient()], image(2, 1))
    assert card["sanity"].word == "not tested"
    assert "trained ones" in card["sanity"].said


def test_a_check_that_fails_takes_no_map_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(judging, "_cards", broken)
    found, maps = cards(classifier(2).eval(), [Gradient(), GradCAM()], image(2, 1))
    assert [c.settings for c in found] == [repr(e.method) for e in maps]
    assert {v.said for c in found for v in c.verdicts} == {"Not tested: MemoryError: too large"}


def test_windows_are_counted_and_parts_of_an_output_are_asked() -> None:
    x = image(3, 1)
    tiled = Tiled(segmenter(3, x), 8)
    prediction = predict(tiled, Volume(x[0].numpy()))
    found = trust(prediction, prediction.explain([Gradient()], Region(1, 2)), Region(1, 2))
    assert all(c[q].word != "not tested" for c in found for q in ("sanity", "faithfulness", "stability"))
    windows = sum(1 for _ in tiled.pieces(x))
    maps = found[0].cost["maps_evaluations"]
    assert maps == 3 * windows
    assert found[0].cost["evaluations"] <= found[0].cost["limit"] == 2 * maps + 64 * windows
    wrapped = Returns(classifier(3).eval(), "dict")
    prediction, targets = predict(wrapped, Volume(x[0].numpy())), Select("logits", Logits(1))
    (card,) = trust(prediction, prediction.explain([GradCAM()], targets), targets)
    assert all(card[q].word != "not tested" for q in ("sanity", "faithfulness", "stability"))


COSTS: dict[str, tuple[list[Method], int]] = {
    "cheap": ([Gradient()], 3),
    "cheap ones": ([Gradient(), GradCAM(), EdgeMap()], 3),
    "expensive": ([SmoothGrad(samples=40)], 120),
    "expensive and cheap": ([SmoothGrad(samples=40), GradCAM()], 123),
    "as in the demo": ([HiResCAM("5"), IntegratedGradients(steps=20), SmoothGrad(samples=10)], 93),
    "by forward passes": ([Occlusion(window=4, stride=4), Gradient()], None),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("doubtful", [0.25, 0.0], ids=["as it is", "all in doubt"])
@pytest.mark.parametrize("kind", COSTS)
def test_quick_costs_what_it_says(kind: str, doubtful: float) -> None:
    methods, expected = COSTS[kind]
    found, _ = cards(classifier(2).eval(), methods, image(2, 1), Standards(doubtful=doubtful), Logits(0, 1))
    cost = found[0].cost
    taken = cost["maps_evaluations"]
    assert taken == expected or expected is None
    assert cost["evaluations"] <= cost["limit"] == max(3 * taken, 2 * taken + 64)
    assert sum(cost["by_question"].values()) == cost["evaluations"]
    assert cost["ratio"] == round(cost["evaluations"] / taken, 2)
    assert f"{cost['ratio']:.1f} times as many" in cost["said"]
    for card in found:
        assert "in one draw" not in card["sanity"].said or card["sanity"].numbers[0]["value"] < doubtful
        assert card["stability"].word != "not tested" or "random weights" in card["stability"].said
        assert card["faithfulness"].word != "not tested"


def test_a_map_in_doubt_pays_for_its_draws_with_its_noise_and_takes_nothing_from_others() -> None:
    guided = SmoothGrad(GuidedBackprop(), samples=40)
    (card,), _ = cards(trained(), [guided])
    assert card["sanity"].word == "fails"
    assert "in 2 draws" in card["sanity"].said
    assert card["stability"].word == "not tested"
    assert card.cost["evaluations"] <= card.cost["limit"] == 3 * card.cost["maps_evaluations"]
    (true, same), _ = cards(trained(), [IntegratedGradients(steps=20), guided])
    assert (true.word, same.word) == ("passes", "fails")
    assert true["stability"].word == "passes"


def test_only_the_targets_in_doubt_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, ...]] = []
    again = Scene.again

    def noted(self: Scene, measure: object, numbers: object, names: Collection[str], **how: object) -> object:
        found = again(self, measure, numbers, names, **how)  # type: ignore[arg-type]
        if "model" in how:
            drawn.append(tuple(sorted(names)))
            return {(0, "logit 0"): 0.5, (0, "logit 1"): 0.1}
        return found

    monkeypatch.setattr(Scene, "again", noted)
    (one, other), _ = cards(trained(), [SmoothGrad(samples=60)], targets=Logits(0, 1))
    assert drawn == [("logit 0", "logit 1"), ("logit 0",)]
    assert one["stability"].word == "not tested"
    assert (other["sanity"].word, other["stability"].word) == ("passes", "passes")
    assert "in one draw" in other["sanity"].said


def test_agreement_is_the_rank_correlation_of_sizes() -> None:
    (one, other), (a, b) = cards(classifier(2).eval(), [Gradient(), SmoothGrad(samples=3)], image(2, 1))
    sizes = [np.abs(e.relevance[0].data.sum(0)).ravel() for e in (a, b)]
    expected = spearmanr(*sizes).statistic
    assert one["agreement"].numbers[0]["value"] == pytest.approx(expected)
    assert other["agreement"].numbers[0]["value"] == pytest.approx(expected)


def test_full_asks_more_and_adds_numbers() -> None:
    own = Standards(draws=2, most_draws=2, models=3, subsets=10, most_subsets=10, noisy=2, times=0, further=True)
    (card,), _ = cards(classifier(2).eval(), [HiResCAM("5")], image(2, 1), own)
    assert {r["metric"] for r in card.further} >= {"deletion", "road", "completeness", "repeatability"}
    change = card["stability"].numbers[0]
    assert change["low"] < change["value"] < change["high"]
    assert LEVELS["full"].further
    assert not LEVELS["quick"].further


def test_cards_as_json_have_no_nan() -> None:
    found, _ = cards(classifier(2).eval(), [Gradient()], image(2, 1))
    values = json.loads(as_json(found), parse_constant=pytest.fail)
    (card,) = values["cards"]
    assert card["verdicts"][0]["question"] == "sanity"
    assert {"method", "target", "settings", "verdict", "stamp", "cost"} <= set(card)


def test_what_is_no_level_is_refused() -> None:
    with pytest.raises(BadInput, match="quick, full"):
        cards(Bright(2), [Gradient()], image(2, 1), "slow")
    with pytest.raises(BadInput, match="between 0 and 1"):
        Standards(subset=1.0)
    with pytest.raises(BadInput, match="baseline among"):
        Standards(baseline="grey")
