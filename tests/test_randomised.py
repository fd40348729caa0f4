"""A guest with random weights, and what a run of it costs: the guest itself is never touched."""

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from test_contracts import disturb, state
from torch import Tensor, nn
from worlds import ConvNet, Segmenter, Transformer, classifier, image, segmenter

from radiolucent import BadInput, Logits, Region
from radiolucent.hooks import costing, groups, randomised, weighted
from radiolucent.methods import AttentiveResponse, GradCAM, Gradient, IntegratedGradients, Occlusion, SmoothGrad
from radiolucent.tiling import Tiled


@pytest.mark.parametrize("axes", [2, 3])
def test_the_guest_is_untouched_and_its_copy_is_another_network(axes: int) -> None:
    net, x = classifier(axes), image(axes, 1, size=8)
    disturb(net)
    before = state(net)
    other = randomised(net, seed=3)
    assert state(net) == before
    assert not {id(p) for p in net.parameters()} & {id(p) for p in other.parameters()}
    assert (other.eval()(x) - net.eval()(x)).abs().max() > 1e-3
    for (name, mine), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        assert not torch.equal(mine, theirs) or name.startswith("1."), name  # a batch norm of ones and zeros begins anew as it was


def test_only_the_named_layers_change_and_what_they_get_depends_on_their_name_and_the_seed_alone() -> None:
    net = ConvNet(2)
    one, two = randomised(net, ["head"]), randomised(net, ["conv2", "head"])
    assert torch.equal(one.conv1.weight, net.conv1.weight)
    assert torch.equal(one.conv2.weight, net.conv2.weight)
    assert not torch.equal(one.head.weight, net.head.weight)
    assert torch.equal(one.head.weight, two.head.weight)  # a cascade keeps what it drew
    assert torch.equal(two.conv2.weight, randomised(net).conv2.weight)
    assert not torch.equal(randomised(net, ["head"], seed=1).head.weight, one.head.weight)
    twins = randomised(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert not torch.equal(twins[0].weight, twins[1].weight)  # layers of one shape do not get one draw


def test_weights_without_a_beginning_of_their_own_are_shuffled() -> None:
    net = Transformer(2)
    with torch.no_grad():
        net.token.copy_(torch.arange(8.0))
    token = randomised(net, [""]).token
    assert not torch.equal(token, net.token)
    assert torch.equal(token.flatten().sort().values, torch.arange(8.0))


def test_running_statistics_begin_anew() -> None:
    net = segmenter(2, image(2, 1, size=8))
    other = randomised(net, ["norm"])
    assert torch.equal(other.norm.running_mean, torch.zeros(5))
    assert torch.equal(other.norm.running_var, torch.ones(5))
    assert not torch.equal(net.norm.running_mean, torch.zeros(5))


def test_weights_that_are_shared_stay_shared() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    other = randomised(net, ["0"])
    assert other[2].weight is other[0].weight
    assert not torch.equal(other[2].weight, net[2].weight)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "parametrised"])
def test_weights_that_are_made_of_others(norm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older two are on their way out of PyTorch, not out of people's models
        make = nn.utils.parametrizations.weight_norm if norm == "parametrised" else getattr(nn.utils, norm)
        net = nn.Sequential(make(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)).eval()
        x = torch.rand(1, 4)
        first = [name for name in weighted(net, x) if name.startswith("0")]
        before = net(x)  # with a graph, of which the made weights are a part
        assert not torch.equal(randomised(net, first)(x), before)
        assert torch.equal(net(x), before)


def test_a_model_in_windows_is_copied_with_its_windows() -> None:
    x = image(3, 1, size=8)
    tiled = Tiled(segmenter(3, x), 6)
    other = randomised(tiled)
    assert isinstance(other, Tiled)
    assert other.settings == tiled.settings
    assert other.head.weight is other._guest.head.weight
    assert not torch.equal(other(x), tiled(x))
    assert weighted(tiled, x) == ["first", "norm", "second", "head"]


def test_a_scripted_model() -> None:
    net, x = classifier(2).eval(), image(2, 1, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(net, x)
    assert weighted(scripted, x) == ["0", "1", "5", "8"]
    assert not torch.equal(randomised(scripted, ["5"])(x), scripted(x))
    assert torch.equal(scripted(x), net(x))


def test_what_cannot_be_copied_and_names_that_do_not_exist_are_refused() -> None:
    net = classifier(2)
    with pytest.raises(BadInput, match="names of modules with weights; got 2"):
        randomised(net, ["2"])  # a ReLU
    net.lock = threading.Lock()
    with pytest.raises(BadInput, match=r"a model that can be copied.*Sequential: cannot pickle"):
        randomised(net)


def test_layers_come_in_the_order_in_which_they_ran() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.never = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.attention = nn.Linear(4, 2), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0])

    # attention uses the weights of out_proj without calling it
    assert weighted(Attends(), torch.rand(1, 3, 4)) == ["attention", "attention.out_proj", "head"]
    x = image(2, 1, size=8)
    assert weighted(Backwards(), x) == ["first", "last", "never"]
    assert weighted(Segmenter(2), x) == ["first", "norm", "second", "head"]
    net = classifier(3)
    disturb(net)
    before = state(net)
    assert weighted(net, image(3, 1, size=8)) == ["0", "1", "5", "8"]
    assert state(net) == before
    assert groups(list("abcde"), 2) == [["a", "b"], ["c", "d", "e"]]
    assert groups(list("abc"), 0) == groups(list("abc"), 9) == [["a"], ["b"], ["c"]]
    assert groups([], 3) == []


COUNTS = {  # forward, backward, for two targets
    Gradient(): (1, 2),
    GradCAM("0"): (1, 2),
    IntegratedGradients(steps=7): (7, 14),
    SmoothGrad(samples=5): (5, 10),
    Occlusion(4, 4): (1 + 2 * 3 * 2, 0),  # the image itself, then each place of the window on 8 x 12 x 6
}


@pytest.mark.parametrize("method", COUNTS, ids=str)
def test_evaluations_are_counted(method: object) -> None:
    net, x = classifier(3), image(3, 1, size=8)
    disturb(net)
    before = state(net)
    with costing(net) as cost:
        method(net, x, Logits(0, 1))  # type: ignore[operator]
    assert (cost.forwards, cost.backwards) == COUNTS[method]  # type: ignore[index]
    assert state(net) == before
    assert cost.seconds > 0


def test_windows_batches_and_copies_are_counted() -> None:
    x = image(3, 1, size=8)
    net = segmenter(3, x)
    tiled = Tiled(net, 8, overlap=0)
    with costing(tiled) as cost, torch.no_grad():
        tiled(x)
    assert cost.forwards == 2  # 8 x 12 x 6 voxels
    with costing(net) as cost, torch.no_grad():
        net(torch.cat([x, x, x]))
        randomised(net)(x)
    assert cost.forwards == 4
    with costing([net, other := segmenter(3, x)]) as cost:
        Gradient()(net, x, Region(1).fix(net(x)))
        Gradient()(other, x, Region(1).fix(net(x)))
    assert (cost.forwards, cost.backwards) == (4, 2)


def test_what_cannot_be_counted_is_not_zero() -> None:
    net, x = classifier(2).eval(), image(2, 1, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(net, x)
    with costing(scripted) as cost:
        Gradient()(scripted, x, Logits(0))
    assert cost.forwards is None
    assert cost.backwards is None
    with costing(net) as cost:
        pass
    assert cost.forwards == 0


def test_a_batched_backward_pass_from_a_layer_is_left_alone() -> None:
    net, x = classifier(2), image(2, 1, size=8)
    method = AttentiveResponse("0", n=3)
    truth = method(net, x, Logits(0))
    with costing(net):
        assert torch.equal(method(net, x, Logits(0)), truth)


def test_an_error_leaves_no_hook() -> None:
    net, x = classifier(2), image(2, 1, size=8)
    before = state(net)
    with pytest.raises(BadInput), costing(net) as cost:
        Gradient()(net, x, Logits(99))
    assert state(net) == before
    assert cost.forwards == 1


HELD = """
import gc
import torch
from radiolucent.hooks import costing

net, filled = torch.nn.Linear(2, 2), lambda mib: torch.ones(mib * 2**18).sum()
for mib in (200, 50, 100):  # the process's own peak would stay at the first
    with costing(net, memory=True) as cost:
        filled(mib)
        filled(mib // 2)
    print(cost.peak_mib)
circle = [torch.ones(24 * 2**18)]
circle.append(circle)
del circle
with costing(net, memory=True) as cost:
    gc.collect()  # garbage that goes meanwhile does not hide the peak
    filled(50)
print(cost.peak_mib)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_is_what_was_held_at_once_and_not_what_is_left() -> None:
    """In a process of its own: in one that has run a thousand tests, freed memory may be used again without a rise."""
    told = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    assert [float(line) for line in told.split()] == pytest.approx([200, 50, 100, 50], abs=8)
