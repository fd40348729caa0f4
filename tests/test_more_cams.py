"""Respond-CAM, Saliency Tubes and Eigen-CAMs: their defining properties, and a reference library."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import ByHand, ConvNet, Mean, Spy, convolution, image, relative

from radiolucent import BadInput, Logits
from radiolucent.methods import EigenCAM, EigenGradCAM, GradCAM, RespondCAM, SaliencyTubes

both_axes = pytest.mark.parametrize("axes", [2, 3])


@both_axes
def test_respond_cam_from_its_equation(axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes)
    for layer, place in {"act2": "relu2", "conv2": "conv2"}.items():
        A, g = ByHand(net).split(x, place, 2)
        for b in range(len(x)):
            truth = sum(A[b, c] * (A[b, c] * g[b, c]).sum() / A[b, c].sum() for c in range(8) if A[b, c].sum() != 0)
            assert relative(RespondCAM(layer)(net, x, Logits(2))[0, b, 0], truth) <= 1e-4


@both_axes
def test_respond_cam_sums_to_the_score(axes: int) -> None:
    conv = convolution(axes)
    deep = [conv(1, 6, 3, bias=False), nn.ReLU(), conv(6, 8, 3, bias=False), nn.ReLU(), Mean(), nn.Linear(8, 5, bias=False)]
    net, x = nn.Sequential(*deep, nn.LeakyReLU(), nn.Linear(5, 4, bias=False)), image(axes)
    scores = net(x).T.detach()
    for layer in ("1", "3"):
        relevance = RespondCAM(layer)(net, x, Logits(0, 1, 2, 3))
        assert relative(relevance.flatten(2).sum(-1), scores) <= 1e-4
    assert relevance.min() < 0 < relevance.max()
    shallow = nn.Sequential(*deep[:5], nn.Linear(8, 4))
    found = RespondCAM("3")(shallow, x, Logits(0, 1, 2, 3)).flatten(2).sum(-1)
    assert relative(found, (shallow(x).T - shallow[5].bias[:, None]).detach()) <= 1e-4


def test_respond_cam_of_a_silent_feature_map_is_zero_there_and_not_nan() -> None:
    A, g = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    A[0, 1] = 2
    assert torch.equal(RespondCAM().combine(A, g), torch.full((1, 1, 3, 3), 2.0))


@both_axes
def test_saliency_tubes_are_cam_where_the_network_ends_in_a_mean_and_a_linear_layer(axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes)
    A, _ = ByHand(net).split(x, "relu2", 0)
    for t in range(4):
        cam = torch.einsum("c,bc...->b...", net.head.weight[t].detach(), A)[:, None]
        assert relative(SaliencyTubes("act2")(net, x, Logits(t))[0], cam) <= 1e-4
    tubes = SaliencyTubes("act2")(net, x, Logits(0, 1, 2, 3))
    assert relative(tubes.flatten(2).mean(-1), (net(x).T - net.head.bias[:, None]).detach()) <= 1e-4
    assert relative(tubes.clamp(min=0) / (x[0].numel() // 2**axes), GradCAM("act2")(net, x, Logits(0, 1, 2, 3))) <= 1e-4


def test_saliency_tubes_weigh_by_what_a_constant_added_to_a_map_would_change() -> None:
    net, x = ConvNet(3).double().eval(), image(3).double()
    A, _ = ByHand(net).split(x, "pool", 1)

    def score(A: Tensor) -> Tensor:
        return net.head(F.relu(net.conv2(A)).flatten(2).mean(-1))[:, 1]

    step = 1e-6
    shifts = [torch.zeros(1, 6, 1, 1, 1, dtype=torch.double).index_fill_(1, torch.tensor(c), step) for c in range(6)]
    w = torch.stack([(score(A + s) - score(A - s)) / (2 * step) for s in shifts], 1).detach()
    assert relative(SaliencyTubes("pool")(net, x, Logits(1))[0, :, 0], torch.einsum("bc,bc...->b...", w, A)) <= 1e-5


@both_axes
@pytest.mark.parametrize("layer", ["conv1", "act2"])
def test_eigen_cam_from_the_covariance_of_the_channels(axes: int, layer: str) -> None:
    net, x = ConvNet(axes).eval(), image(axes)
    A, _ = ByHand(net).split(x, {"act2": "relu2"}.get(layer, layer), 0)
    found = EigenCAM(layer)(net, x, Logits(0))[0]
    for b in range(len(x)):
        rows = A[b].flatten(1).double().numpy()
        values, vectors = np.linalg.eigh(np.cov(rows))
        v = vectors[:, -1] * np.sign(vectors[:, -1].sum())
        truth = v @ (rows - rows.mean(1, keepdims=True))
        assert relative(found[b].flatten().double(), torch.from_numpy(truth)) <= 1e-5
        assert np.isclose(found[b].double().var(), values[-1])  # the largest variance that a direction has
        assert np.corrcoef(found[b].flatten(), rows.sum(0))[0, 1] > 0  # high where the features are strong


def test_eigen_cam_with_more_channels_than_cells() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(1, 40, 4, stride=4), nn.ReLU(), Mean(), nn.Linear(40, 2)), image(2)
    A = net[:2](x).detach().flatten(2).double()
    X = (A - A.mean(2, keepdim=True)).transpose(1, 2)
    u, s, _ = torch.linalg.svd(X)
    found = EigenCAM("1")(net, x, Logits(0))[0].flatten(1).double()
    truth = u[:, :, 0] * s[:, :1]
    truth = truth * (truth * found).sum(1, keepdim=True).sign()
    assert relative(found, truth) <= 1e-5
    assert (torch.einsum("bp,bpc->b", found, X) > 0).all()


def test_eigen_cam_is_blind_to_the_target_and_needs_no_gradient() -> None:
    spy = Spy()
    net, x = nn.Sequential(spy, nn.Conv2d(1, 3, 3), nn.ReLU(), Mean(), nn.Linear(3, 4), Spy()), image(2)
    found = EigenCAM("2")(net, x, Logits(3, 1))
    assert torch.equal(found[0], found[1])
    assert found.shape == (2, 2, 1, 10, 14)
    assert not any(any(wanted) for module in (net[0], net[5]) for wanted in module.wanted)
    assert torch.equal(EigenCAM()(net, x, Logits(0))[0], found[0])
    with pytest.raises(BadInput, match="a grid of 2 axes and several cells at layer '4'"):
        EigenCAM("4")(net, x, Logits(0))


def test_eigen_grad_cam_is_the_component_of_features_times_gradients() -> None:
    net, x = ConvNet(3).eval(), image(3)
    A, g = ByHand(net).split(x, "conv2", 1)
    fake = nn.Sequential(nn.Identity(), Mean())
    truth = torch.cat([EigenCAM("0")(fake, (A * g)[b : b + 1], Logits(0))[0] for b in range(2)])
    assert relative(EigenGradCAM("conv2")(net, x, Logits(1))[0], truth) <= 1e-5


@pytest.mark.parametrize("layer", ["conv1", "act2"])
@pytest.mark.parametrize("ours", [EigenCAM, EigenGradCAM])
def test_eigen_cams_agree_with_grad_cam_up_to_sign(ours: type, layer: str) -> None:
    pytest.importorskip("sklearn")
    package = find_spec("pytorch_grad_cam")
    if package is None or package.origin is None:
        pytest.skip("grad-cam is not installed")
    # Its package imports torchvision, which fails beside a CPU-only torch; this file of it does not.
    spec = spec_from_file_location("svd_on_activations", Path(package.origin).parent / "utils" / "svd_on_activations.py")
    assert spec is not None
    assert spec.loader is not None
    peers = module_from_spec(spec)
    spec.loader.exec_module(peers)
    net, x = ConvNet(2).eval(), image(2)
    A, g = ByHand(net).split(x, {"act2": "relu2"}.get(layer, layer), 1)
    peer = torch.from_numpy(peers.get_2d_projection((A if ours is EigenCAM else A * g).numpy()))
    found = ours(layer)(net, x, Logits(1))[0, :, 0]
    sign = (found * peer).flatten(1).sum(1).sign()
    assert relative(found * sign[:, None, None], peer) <= 1e-4
