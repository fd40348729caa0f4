"""Rows 28 to 36, 49 and 50 of the list of bad inputs: what a model, a target or a layer may be, each by its number."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from worlds import RELU_STYLES, Bright, ByHand, ConvNet, Returns, classifier, image, relative

from radiolucent import BadInput, InputWarning, Logits, Region, Volume, explain, predict
from radiolucent.methods import GradCAM, Gradient, HiResCAM, InputXGradient, Occlusion, SmoothGrad, from_dict
from radiolucent.methods.gradient import first_order


class Around(nn.Module):
    """A network with something done to its input or output."""

    def __init__(self, network: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Any:
        x = self.before(x) if self.before else x
        x = self.network(x)
        return self.after(x) if self.after else x


SCAN = Volume(np.random.default_rng(0).random((1, 12, 14, 10), dtype=np.float32))


@pytest.mark.parametrize(
    ("kind", "came"), [("dict", "a dict with the keys 'logits', 'features'"), ("tuple", "a tuple of 2"), ("list", "a list of 2")]
)
def test_28_an_output_of_several_parts_needs_a_selector(kind: str, came: str) -> None:
    model = Returns(classifier(3), kind)
    with pytest.raises(BadInput, match=rf"a tensor as the model's output; got {came}.*Name the part to explain"):
        explain(model, SCAN, Gradient(), Logits(1))
    assert explain(model, SCAN, Gradient(), Logits(1), output="logits" if kind == "dict" else 0).relevance
    with pytest.raises(BadInput, match=r"a part 5 in the model's output; got (the keys|positions 0 to 1)"):
        explain(model, SCAN, Gradient(), Logits(1), output=5)


def test_28_deep_supervision_is_a_list_whose_head_is_named() -> None:
    model = Around(nn.Conv3d(1, 3, 1), after=lambda y: [y, y[..., ::2, ::2, ::2]])
    with pytest.raises(BadInput, match=r"a list of 2: \[\(1, 3, 12, 14, 10\), \(1, 3, 6, 7, 5\)\].*Name the part"):
        explain(model, SCAN, Gradient(), Region(1))
    assert explain(model, SCAN, InputXGradient(), Region(1, mask=torch.ones(12, 14, 10, dtype=torch.bool)), output=0).relevance


@pytest.mark.parametrize("relu", RELU_STYLES)
def test_29_in_place_relu_behind_a_layer_does_not_reach_what_was_kept(relu: str) -> None:
    net, x = ConvNet(3, relu).eval(), image(3)
    A, g = ByHand(net).split(x, "conv2", 1)
    assert relative(HiResCAM("conv2")(net, x, Logits(1))[0], (A * g).sum(1, keepdim=True)) <= 1e-6


def test_29_a_reused_layer_wants_a_run() -> None:
    net, x = ConvNet(2, "reused").eval(), image(2)
    with pytest.raises(BadInput, match=r"a layer that runs once for 'act1'; got 2 runs.*act1#0, act1#1"):
        GradCAM("act1")(net, x, Logits(1))
    A, g = ByHand(net).split(x, "relu2", 1)
    assert relative(HiResCAM("act1#1")(net, x, Logits(1))[0], (A * g).sum(1, keepdim=True)) <= 1e-6


def test_29_checkpointed_data_parallel_and_compiled_models_are_right_or_refused() -> None:
    net, x = ConvNet(2).eval(), image(2)
    truth = HiResCAM("conv1")(net, x, Logits(1))
    kept = Around(net, after=None)
    kept.forward = lambda x: checkpoint(net, x, use_reentrant=False)
    assert relative(HiResCAM("network.conv1")(kept, x, Logits(1)), truth) <= 1e-6
    kept.forward = lambda x: checkpoint(net, x, use_reentrant=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own about the reentrant kind
        with pytest.raises(BadInput, match=r"use_reentrant=False|without a gradient|reentrant"):
            HiResCAM("network.conv1")(kept, x, Logits(1))
    assert relative(HiResCAM("module.conv1")(nn.DataParallel(net), x, Logits(1)), truth) <= 1e-6
    assert relative(HiResCAM("_orig_mod.conv1")(torch.compile(net, backend="eager"), x, Logits(1)), truth) <= 1e-6


def test_30_a_model_in_train_mode_is_explained_in_eval_mode_and_left_so() -> None:
    net, x = classifier(2).train(), image(2)
    net[3].eval()
    modes = [m.training for m in net.modules()]
    found = Gradient()(net, x, Logits(1))
    assert [m.training for m in net.modules()] == modes
    with pytest.raises(BadInput):
        Gradient()(net, x, Logits(99))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(found, Gradient()(net.eval(), x, Logits(1)))


UNFOLLOWED = {
    "no_grad": Around(ConvNet(2), after=None),
    "detach": Around(ConvNet(2), after=lambda y: y.detach()),
    "argmax": Around(ConvNet(2), after=lambda y: torch.nn.functional.one_hot(y.argmax(1), 4).float()),
}
UNFOLLOWED["no_grad"].forward = torch.no_grad()(UNFOLLOWED["no_grad"].network.forward)


@pytest.mark.parametrize("why", UNFOLLOWED)
def test_31_what_autograd_cannot_follow_is_refused_and_perturbation_works(why: str) -> None:
    model, x = UNFOLLOWED[why].eval(), image(2, 1)
    with pytest.raises(BadInput, match=r"differentiable way; got scores without a gradient.*perturbation method"):
        Gradient()(model, x, Logits(1))
    assert Occlusion(window=4, stride=4)(model, x, Logits(1)).shape == (1, 1, 1, *x.shape[2:])


def test_31_labels_and_images_of_whole_numbers() -> None:
    with pytest.raises(
        BadInput, match=r"scores as the model's output; got a tensor of torch.int64 \(labels after an argmax\?\).*logits"
    ):
        Gradient()(Around(ConvNet(2), after=lambda y: y.argmax(1, keepdim=True)), image(2), Logits(0))
    embedding = Around(ConvNet(2), before=lambda x: x.float())
    whole = (image(2) * 100).long()
    with pytest.raises(BadInput, match=r"an image of floating-point numbers; got torch.int64.*perturbation method"):
        Gradient()(embedding, whole, Logits(0))
    assert GradCAM("network.conv2")(embedding, whole, Logits(0)).any()


def test_32_a_layer_that_never_ran_is_an_error_that_lists_those_that_did() -> None:
    class Aside(ConvNet):
        def __init__(self) -> None:
            super().__init__(2)
            self.spare = nn.Conv2d(1, 1, 1)

    with pytest.raises(
        BadInput, match=r"layer 'spare' to run in the forward pass; got no call of it; these ran: conv1, act1, pool"
    ):
        GradCAM("spare")(Aside().eval(), image(2), Logits(1))


def test_33_a_stochastic_model_is_announced() -> None:
    noisy = Around(classifier(3), before=lambda x: x + 0.5 * torch.randn_like(x))
    with pytest.warns(InputWarning, match=r"stochastic: two passes differ by up to .* of the largest output"):
        predict(noisy, SCAN)
    predict(Around(classifier(3), before=lambda x: x + 0 * torch.randn_like(x)), SCAN)  # draws, but to no effect
    predict(classifier(3).train(), SCAN)  # dropout is off while it is looked at


def test_34_a_map_that_says_nothing_is_no_success() -> None:
    dark = Volume(np.full((1, 4, 5, 6), 0.1, np.float32))
    with pytest.raises(BadInput, match=r"a relevance map from Gradient\(\) .*got one that is zero everywhere"):
        explain(Bright(3), dark, Gradient(), Logits(0))
    root = Around(nn.Identity(), after=lambda x: x.sqrt().flatten(1).sum(1, keepdim=True))
    with pytest.raises(BadInput, match="NaN or infinite in places"):
        explain(root, Volume(np.eye(6, dtype=np.float32)[None, None].repeat(6, 1)), InputXGradient(), Logits(0))


def test_35_half_precision_that_does_not_suffice_is_single_precision() -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer, weight in zip(net, (1e3, 1e-4, 1e-4), strict=False):
        layer.weight.data.fill_(weight)
    with pytest.warns(InputWarning, match="gradients vanish in float16: made again in float32"):
        found = Gradient()(net.half().eval(), torch.full((1, 1, 256, 256), 8.0, dtype=torch.half), Logits(0))
    assert found.abs().min() > 0


class Hungry(nn.Module):
    """Refuses batches above a size, as an accelerator without memory does."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.network, self.most, self.sizes = ConvNet(2), most, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.network(x)


def test_36_out_of_memory_halves_the_chunk_and_is_then_fatal() -> None:
    x = image(2, 1)
    truth = Occlusion(window=4, stride=2, batch=1)(Hungry(1).network.eval(), x, Logits(1))
    assert truth.any()
    hungry = Hungry(3).eval()
    with pytest.warns(InputWarning) as said:
        found = Occlusion(window=4, stride=2, batch=8)(hungry, x, Logits(1))
    assert [re.search("memory for (.) copies at once ran out .*going on with (.)", str(s.message)).groups() for s in said] == [
        ("8", "4"),
        ("4", "2"),
    ]
    assert max(hungry.sizes) == 8
    assert relative(found, Occlusion(window=4, stride=2, batch=1)(hungry.network, x, Logits(1))) <= 1e-5
    with pytest.raises(BadInput, match="memory for one forward pass of the input; got CUDA out of memory"):
        Occlusion(window=4, stride=2, batch=1)(Hungry(0).eval(), x, Logits(1))
    with pytest.raises(BadInput, match=r"memory for the model's forward and backward pass; got CUDA out of memory.*deeper layer"):
        Gradient()(Hungry(0).eval(), x, Logits(1))


def test_49_what_does_not_exist_is_refused_with_what_does() -> None:
    net, x = ConvNet(2).eval(), image(2)
    refused = {
        r"target indices from 0 to 3 for Logits\(4\); got \[4\]": lambda: Gradient()(net, x, Logits(4)),
        r"the name of a layer; got 'conv3'\. Close to it: conv": lambda: GradCAM("conv3")(net, x, Logits(1)),
        r"a method among gradient, .*got 'gradcam'.*Did you mean grad-cam": lambda: from_dict({"method": "gradcam"}),
        r"fields of grad-cam among: layer; got 'layers'": lambda: from_dict({"method": "grad-cam", "layers": "conv2"}),
        r"a run from act1#0 to act1#1; got act1#2": lambda: GradCAM("act1#2")(ConvNet(2, "reused").eval(), x, Logits(1)),
    }
    for message, ask in refused.items():
        with pytest.raises(BadInput, match=message):
            ask()


def test_50_a_layer_without_a_grid_is_refused_and_those_with_one_are_named() -> None:
    net, x = ConvNet(2).eval(), image(2)
    message = r"several cells at layer 'head'; got shape \(2, 4\)\. These have one: conv1, act1, pool, conv2, act2\."
    with pytest.raises(BadInput, match=message):
        GradCAM("head")(net, x, Logits(1))
    found = first_order(net, x, Logits(1), [GradCAM("conv1")])
    assert found[0].shape[3:] == x.shape[2:]


def test_a_model_that_changes_its_weights_is_refused() -> None:
    class Drifts(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.conv1.weight.mul_(1.001)
            return super().forward(x)

    with pytest.raises(BadInput, match=r"weights stay as they are .*got Conv2d\.weight, which the forward pass writes to"):
        Gradient()(Drifts(2).eval(), image(2), Logits(1))


def test_a_model_that_mixes_the_items_of_a_batch_gets_one_at_a_time() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(480, 3)
    )
    x = image(2, 2, size=12)
    net = nn.Sequential(*net[:4], nn.Linear(net[:4](x).shape[1], 3)).eval()
    with pytest.raises(BadInput, match="one image at a time for this model; got 2"):
        Gradient()(net, x, Logits(1))
    with pytest.raises(BadInput, match="one image at a time"):
        Occlusion(4, 4)(net, x, Logits(1))
    for several, alone in (
        (Occlusion(4, 4, batch=4), Occlusion(4, 4, batch=1)),
        (SmoothGrad(samples=4), SmoothGrad(samples=4, batch=1)),
    ):
        assert relative(several(net, x[:1], Logits(1)), alone(net, x[:1], Logits(1))) <= 1e-5


def test_a_model_that_does_not_repeat_itself_is_announced() -> None:
    class Counts(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            self.times = getattr(self, "times", 0) + 1
            return super().forward(x) * self.times

    with pytest.warns(InputWarning, match="does not repeat itself: scores"):
        explain(Counts(3).eval(), SCAN, Gradient(), Logits(1))
