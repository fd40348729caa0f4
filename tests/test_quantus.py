"""Faithfulness against Quantus 0.6.0 and captum on images in the plane, with the same random draws."""

from typing import Any

import numpy as np
import pytest
import torch
from quantuses import quantus as reference
from torch import Tensor, nn
from worlds import ConvNet, image

from radiolucent import Logits
from radiolucent.methods import Gradient
from radiolucent.metrics import (
    Deletion,
    FaithfulnessCorrelation,
    Infidelity,
    Monotonicity,
    MonotonicityCorrelation,
    ask,
)
from radiolucent.metrics.faithfulness import Asked
from radiolucent.metrics.faithfulness.findings import Check
from radiolucent.metrics.faithfulness.imputation import impute
from radiolucent.metrics.faithfulness.infidelity import Noisy

try:
    quantus = reference()
except ImportError:
    pytest.skip("Quantus is a reference for tests only", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False, "normalise": False}


@pytest.fixture
def world() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, an image and a map of class 1 with values of both signs, none of them equal."""
    torch.manual_seed(0)
    return ConvNet(2).eval(), image(2, 1, size=10), torch.randn(1, 1, 1, 10, 14)


def ours(world: tuple[nn.Module, Tensor, Tensor], metric: Check, *, positive: bool = False) -> Any:
    net, x, R = world
    return ask(net, x, {"map": R.abs() if positive else R}, Logits(1), [metric])[0]


def theirs(world: tuple[nn.Module, Tensor, Tensor], metric: Any) -> Any:
    net, x, R = world
    return metric(net, x.numpy(), np.array([1]), a_batch=R[0].numpy(), softmax=False, device="cpu")[0]


def test_faithfulness_correlation(world: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    metric = FaithfulnessCorrelation("voxels", subset=30, samples=40, baseline="minimum", seed=3)
    units = Asked(*world[:2], Logits(1)).units("voxels", 8)
    draws = iter([d.members(units).numpy() for d in metric.drawn(units)])
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(draws))
    found = theirs(
        world,
        quantus.FaithfulnessCorrelation(nr_runs=40, subset_size=30, perturb_baseline=float(world[1].amin()), abs=False, **QUIET),
    )
    assert ours(world, metric).value == pytest.approx(found, abs=1e-5)


def test_deletion_is_pixel_flipping(world: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Quantus leaves out the image itself, and its area counts steps; its "black" is the minimum."""
    found = theirs(world, quantus.PixelFlipping(features_in_step=7, perturb_baseline="black", abs=False, **QUIET))
    curve = ours(world, Deletion("voxels", points=20, baseline="minimum", relative=False))
    assert curve.scores[1:] == pytest.approx(found, abs=1e-5)
    area = np.trapezoid(found)  # its own calculate_auc wants np.trapz, which numpy no longer has
    assert curve.value == pytest.approx((area + (curve.scores[0] + curve.scores[1]) / 2) / 20, abs=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_monotonicity_is_one_where_quantus_says_yes(sign: int) -> None:
    """A network that grows with every voxel, and one that does not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(140, 2)).eval()
    with torch.no_grad():
        net[1].weight[1] = torch.rand(140) * torch.where(torch.rand(140) < 0.02, sign, 1)
    world = net, image(2, 1, size=10), torch.rand(1, 1, 1, 10, 14)
    found = theirs(world, quantus.Monotonicity(features_in_step=7, perturb_baseline="black", **QUIET))
    assert (ours(world, Monotonicity("voxels", points=20, baseline="minimum")).value == 1) == bool(found)


def test_monotonicity_correlation(world: tuple[nn.Module, Tensor, Tensor]) -> None:
    found = theirs(world, quantus.MonotonicityCorrelation(nr_samples=1, features_in_step=1, perturb_baseline="black", **QUIET))
    metric = MonotonicityCorrelation("voxels", samples=140, baseline="minimum")
    assert ours(world, metric).value == pytest.approx(found, abs=1e-5)


def test_infidelity_of_one_patch(world: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Quantus hides patch after patch and never gives one back: with one patch, the whole image, it is the paper's."""
    net, _, _ = world
    x, R = torch.rand(1, 1, 12, 12), torch.randn(1, 1, 1, 12, 12)
    square = net, x, R
    found = theirs(square, quantus.Infidelity(perturb_patch_sizes=[12], n_perturb_samples=1, perturb_baseline="black", **QUIET))
    with torch.no_grad():
        drop = (net(x) - net(torch.full_like(x, x.min())))[0, 1]
    assert float((((x - x.min()) * R[0]).sum() - drop) ** 2) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_infidelity_is_captum_s(world: tuple[nn.Module, Tensor, Tensor], scaled: bool, noise: float) -> None:
    captum = pytest.importorskip("captum.metrics")
    net, x, _ = world
    R = Gradient()(net, x, Logits(1))
    metric = Infidelity(cubes=4, subset=3, samples=50, noise=noise, scaled=scaled, seed=2)
    asked = Asked(net, x, Logits(1))
    units = asked.units("cubes", 4)
    changed = [Noisy(noise, 2, i) for i in range(50)] if noise else metric.drawn(units)
    copies = torch.cat([c.of(asked) for c in changed])
    expected = captum.infidelity(
        net, lambda inputs: (inputs - copies, copies), x, R[0], target=1, n_perturb_samples=50, normalize=scaled
    )
    found = ask(net, x, {"map": R}, Logits(1), [metric], slopes=["map"])[0]
    assert found.value == pytest.approx(float(expected), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation(world: tuple[nn.Module, Tensor, Tensor], share: float) -> None:
    _, x, R = world
    top = R.flatten().argsort(descending=True)[: int(share * R.numel())]
    expected = quantus.functions.perturb_func.noisy_linear_imputation(x[0].numpy(), top.numpy(), noise=0.0)
    gone = torch.zeros(140, dtype=torch.bool)
    gone[top] = True
    assert np.abs(impute(x, gone.reshape(10, 14), tolerance=1e-7)[0].numpy() - expected).max() < 1e-5
