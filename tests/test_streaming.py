"""Many layers in one pass: each gradient becomes its map at once, and copies cost nothing until they must."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from worlds import ByHand, ConvNet, Segmenter, image, relative

from radiolucent import BadInput, InputWarning, Logits, Region
from radiolucent.hooks import look
from radiolucent.methods import GradCAM, Gradient, HiResCAM
from radiolucent.methods.gradient import first_order, shared_pass


@pytest.mark.parametrize("axes", [2, 3])
def test_many_layers_together_are_layers_alone(axes: int) -> None:
    net, x = ConvNet(axes, "inplace"), image(axes)
    names = [layer.name for layer in look(net, x)[1] if layer.is_spatial]
    assert len(names) == 5
    methods = [HiResCAM(name) for name in names] + [Gradient()]
    together = first_order(net, x, Logits(0, 2), methods)
    for method, found in zip(methods, together, strict=True):
        assert relative(found, first_order(net, x, Logits(0, 2), [method])[0]) <= 1e-6
    A, g = ByHand(net).split(x, "conv2", 2)
    assert relative(together[names.index("conv2")][1], (A * g).sum(1, keepdim=True)) <= 1e-6


def test_a_layer_that_cannot_serve_does_not_take_the_others_along() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.used, self.aside = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)
            self.flat = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            x = self.trunk(x)
            self.aside(x)
            return self.flat(self.used(x).mean((2, 3)))

    methods = [GradCAM("trunk"), GradCAM("aside"), GradCAM("flat"), GradCAM("used")]
    trunk, aside, flat, used = shared_pass(TwoHeads(), image(2), Logits(0, 1), methods)
    assert isinstance(trunk, Tensor)
    assert isinstance(used, Tensor)
    assert "no path" in str(aside)
    assert "a grid of 2 axes" in str(flat)
    with pytest.raises(BadInput, match="no path"):
        first_order(TwoHeads(), image(2), Logits(0), [GradCAM("trunk"), GradCAM("aside")])


def test_no_gradient_is_kept_longer_than_its_map() -> None:
    earlier: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    class Watching(GradCAM):
        def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
            alive.append(sum(gradient() is not None for gradient in earlier))
            earlier.append(weakref.ref(gradient))
            return super().combine(activation, gradient)

    net, x = Segmenter(2), image(2, 1)
    target = Region(1, mask=torch.ones(1, *x.shape[2:], dtype=torch.bool))
    first_order(net, x, target, [Watching(name) for name in ("first", "norm", "act#0", "second", "act#1")])
    assert len(alive) == 5
    assert max(alive) <= 1  # where a skip connection waits for its other branch


def test_what_is_handed_on_costs_no_memory_until_it_is_written_to() -> None:
    """A layer's output and what follows share their storage (copy on write) unless an in-place operation needs its own."""
    from radiolucent.hooks import tap

    seen: dict[str, Tensor] = {}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen["a"] = self.a(x)
            seen["b"] = self.b(seen["a"])
            seen["after"] = seen["b"].relu_()
            return seen["after"].mean((2, 3))

    x = image(2)
    with tap(Net(), ["a", "b"]) as taps:
        Net.__call__(taps._model, taps.input(x))
        assert torch._C._is_cow_tensor(taps["a"])
        assert torch._C._is_cow_tensor(seen["a"])
        assert not torch._C._is_cow_tensor(seen["b"])
        assert (taps["b"] < 0).any()
        assert not (seen["b"] < 0).any()


def test_gradients_that_vanish_in_half_precision_are_made_again_in_single() -> None:
    """Row 35: the forward pass stays within float16, the gradient on its way does not, even enlarged."""
    net = nn.Sequential(*(nn.Conv3d(1, 1, 1, bias=False) for _ in range(3)), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    for layer, weight in zip(net, (1e3, 1e-4, 1e-4), strict=False):
        layer.weight.data.fill_(weight)
    net, x = net.half().eval(), torch.full((1, 1, 32, 32, 32), 8.0, dtype=torch.half)
    assert net(x) > 0
    with pytest.warns(InputWarning, match="vanish in float16: made again in float32"):
        (found,) = first_order(net, x, Logits(0), [Gradient()])
    weights = [float(layer.weight.detach()) for layer in net[:3]]
    assert relative(found, torch.full_like(found, weights[0] * weights[1] * weights[2] / 32**3)) <= 1e-3
    assert net[0].weight.dtype == torch.half
    assert found.dtype == torch.float32
