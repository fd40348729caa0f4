"""Expected Gradients: its draws replayed by hand, completeness, and the reference sets that it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import ConvNet, Linear, image, relative

from radiolucent import BadInput, Logits, Outputs
from radiolucent.methods import ExpectedGradients, IntegratedGradients

both_axes = pytest.mark.parametrize("axes", [2, 3])


def reference_file(folder: Path, x: Tensor, n: int = 5) -> tuple[str, Tensor]:
    images = torch.rand(n, *x.shape[1:], generator=torch.Generator().manual_seed(9))
    np.save(folder / "references.npy", images.numpy())
    return str(folder / "references.npy"), images


@both_axes
def test_expected_gradients_replayed_draw_by_draw(axes: int, tmp_path: Path) -> None:
    net, x = ConvNet(axes, channels=2).eval(), image(axes, channels=2, size=8)
    path, images = reference_file(tmp_path, x)
    draws, drawn = torch.Generator().manual_seed(4), []
    truth = torch.zeros(2, *x.shape)
    for _ in range(6):
        drawn.append(int(torch.randint(5, (), generator=draws)))
        a = torch.rand((), generator=draws)
        for b in range(len(x)):
            for t in (0, 1):
                place = (images[drawn[-1]] + a * (x[b] - images[drawn[-1]])).requires_grad_()
                (gradient,) = torch.autograd.grad(net(place[None])[0, t], place)
                truth[t, b] += (x[b] - images[drawn[-1]]) * gradient / 6
    assert len(set(drawn)) > 2
    assert relative(ExpectedGradients(path, samples=6, seed=4)(net, x, Logits(0, 1)), truth) <= 1e-4


def test_a_linear_model_gets_its_exact_share_of_the_drawn_references(tmp_path: Path) -> None:
    x = image(3, size=6)
    net = Linear(x.shape[1:])
    path, images = reference_file(tmp_path, x)
    draws = torch.Generator().manual_seed(0)
    mean = torch.zeros_like(images[0])
    for _ in range(8):
        mean += images[int(torch.randint(5, (), generator=draws))] / 8
        torch.rand((), generator=draws)
    found = ExpectedGradients(path, samples=8)(net, x, Outputs())
    assert relative(found, ((x - mean) * net.weight[:, None]).detach()) <= 1e-4


def test_it_is_complete_on_average(tmp_path: Path) -> None:
    x = 3 * image(2, size=3)[:, :, :3, :]
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 8), nn.Tanh(), nn.Linear(8, 2))
    path, images = reference_file(tmp_path, x)
    with torch.no_grad():
        change = net(x).T - net(images).mean(0)[:, None]
    sums = torch.stack([ExpectedGradients(path, 100, seed)(net, x, Outputs()).flatten(2).sum(-1) for seed in range(12)])
    error = sums.std(0) / len(sums) ** 0.5
    assert (change.abs() > 5 * error).any(), "this world must tell"
    assert ((sums.mean(0) - change).abs() <= 4 * error).all()


def test_one_reference_is_integrated_gradients_by_random_points() -> None:
    net, x = ConvNet(2).eval(), image(2, size=8)
    truth = IntegratedGradients(100, "mean")(net, x, Logits(1))
    assert relative(ExpectedGradients("mean", 400)(net, x, Logits(1)), truth) <= 0.1


def test_references_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    net, x = ConvNet(2), image(2, size=8)
    good = np.random.default_rng(0).random((3, 1, 8, 12), np.float32)
    bad = {
        "float32 of shape (3, 1, 8, 11)": good[..., 1:],
        "float32 of shape (0, 1, 8, 12)": good[:0],
        "complex64 of shape (3, 1, 8, 12)": good.astype(np.complex64),
        "NaN or infinity in image": good * np.nan,
        "Python objects in dtype": np.array([{}], object),
    }
    for came, values in bad.items():
        np.save(tmp_path / "bad.npy", values)
        with pytest.raises(BadInput) as error:
            ExpectedGradients(str(tmp_path / "bad.npy"))(net, x, Logits(0))
        assert came in str(error.value)
    with pytest.raises(BadInput, match=r"as references a .npy file \(n, 1, 8, 12\), or a baseline among zero.*got 'mena'"):
        ExpectedGradients("mena")(net, x, Logits(0))
