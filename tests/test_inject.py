"""inject: the model's own output, and the right maps on the side."""

import copy
import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from test_contracts import disturb, state
from torch import Tensor, nn
from worlds import RELU_STYLES, Bright, ConvNet, Returns, Segmenter, Spy, classifier, image, relative, segmenter

import radiolucent as rl
from radiolucent import BadInput, InputWarning, Logits, Region
from radiolucent.methods import GradCAM, Gradient, HiResCAM, InputXGradient, Occlusion, SmoothGrad
from radiolucent.targets import Predicted


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other)


class Counting(nn.Module):
    """Counts its forward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.network(*args, **kwargs)


class TwoInputs(nn.Module):
    """score = a network of `scan`, plus a weighted mean of `other`, for one of them doubled by a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = ConvNet(2), ConvNet(2, outputs=4)

    def forward(self, other: Tensor, scan: Tensor, double: bool = False) -> Tensor:
        return self.one(scan) * (2 if double else 1) + self.two(other)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("relu", RELU_STYLES)
def test_the_output_is_the_models_own_and_the_maps_are_the_methods(relu: str, axes: int) -> None:
    torch.manual_seed(0)
    net, x = ConvNet(axes, relu).eval(), image(axes, 3)
    injected = rl.inject(net, ["hires-cam", InputXGradient()], layer="conv2", target=[1, 3])
    with torch.no_grad():
        truth = net(x)
        for _ in range(3):
            assert torch.equal(injected(x), truth)
    assert list(injected.maps.relevance) == ["hires-cam at conv2", "input-x-gradient"]
    assert torch.equal(injected.maps.relevance["hires-cam at conv2"], HiResCAM("conv2")(net, x, Logits(1, 3)))
    assert relative(injected.maps.relevance["input-x-gradient"], InputXGradient()(net, x, Logits(1, 3))) <= 1e-6
    assert torch.equal(injected.maps.scores, truth[:, [1, 3]].T)
    assert injected.maps.targets == ("logit 1", "logit 3")
    assert injected.maps.on_input("hires-cam at conv2").shape == (2, 3, 1, *x.shape[2:])


@pytest.mark.parametrize("kind", ["dict", "tuple", "list"])
def test_outputs_of_every_kind_come_back_as_they_are(kind: str) -> None:
    net, x = Returns(classifier(2), kind).eval(), image(2)
    injected = rl.inject(net, output="logits" if kind == "dict" else 0)
    with torch.no_grad():
        assert same(injected(x), net(x))
        assert same(injected(x), net(x))
    assert injected.maps.scores.shape == (1, 2)
    with pytest.raises(BadInput, match=f"a {kind} .*Name the part"):
        rl.inject(net)(x)


def test_training_goes_on_as_without_it() -> None:
    """Same losses, weights, statistics and random numbers over some steps, with dropout and batch norm."""
    x, truth = image(3, 4), torch.tensor([0, 1, 2, 3])
    trained = []
    for wrapped in (False, True):
        torch.manual_seed(1)
        net = classifier(3).train()
        model = rl.inject(net, ["hires-cam", "gradient"], layer="full") if wrapped else net
        optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(4):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x), truth)
            loss.backward()
            optimiser.step()
        assert model.training
        trained.append({**net.state_dict(), "loss": loss.detach(), "random": torch.rand(3)})
    assert trained[0].keys() == trained[1].keys()
    for name in trained[0]:
        assert torch.equal(trained[0][name], trained[1][name]), name


def test_the_guest_is_left_as_found_and_its_gradients_too() -> None:
    net, x = classifier(2), image(2)
    disturb(net)
    before = state(net)
    injected = rl.inject(net, ["grad-cam", "smooth-grad"], layer="5")
    with torch.no_grad():
        net_output = copy.deepcopy(net)
        injected.eval()
        injected(x)
    after = state(net)
    changed = {k for k in before if before[k] != after[k]}
    assert all(k.endswith("training") for k in changed)  # .eval() was ours
    assert same(net_output.state_dict(), net.state_dict())


def test_it_behaves_as_the_model_itself() -> None:
    net, x = ConvNet(2).eval(), image(2)
    injected = rl.inject(net)
    assert list(injected.state_dict()) == list(net.state_dict())
    assert [n for n, _ in injected.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert [n for n, _ in injected.named_modules()] == [n for n, _ in net.named_modules()]
    assert injected.head is net.head
    assert injected.style == "module"
    with pytest.raises(AttributeError, match="nothing"):
        _ = injected.nothing
    injected.train()
    assert net.training
    injected.eval()
    assert not net.training
    assert not net.conv1.training
    injected.head = nn.Linear(8, 2)
    assert net.head.out_features == 2
    injected.load_state_dict({k: v * 2 for k, v in net.state_dict().items()})
    injected.double()
    assert net.conv1.weight.dtype == torch.float64
    assert injected(x.double()).dtype == torch.float64
    again = copy.deepcopy(injected)
    again.head.weight.data.zero_()
    assert again._guest.head.weight.abs().max() == 0
    assert net.head.weight.abs().max() > 0


def test_it_can_be_saved_whole(tmp_path: Path) -> None:
    injected, x = rl.inject(ConvNet(2).eval(), target=1), image(2)
    torch.save(injected, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(again(x), injected(x))
    assert torch.equal(again.maps.on_input(), injected.maps.on_input())


def test_paused_runs_the_model_alone() -> None:
    net = Counting(ConvNet(2)).eval()
    injected, x = rl.inject(net), image(2)
    with injected.paused():
        injected(x)
    assert net.count == 1
    assert injected.maps is None
    with pytest.raises(BadInput), injected.paused():
        raise BadInput("", "", "")
    injected(x)
    assert injected.maps is not None
    with injected.paused(), injected.paused():
        pass
    assert injected.side.enabled


def test_full_is_one_forward_and_one_backward_per_target() -> None:
    net, x = nn.Sequential(*classifier(2)[:7], Spy(), *classifier(2)[7:]).eval(), image(2)
    injected = rl.inject(net, "grad-cam", layer="full", target=[0, 1, 2])
    injected(x)
    spy = net[7]
    spy.wanted.clear()
    injected(x)
    assert len(spy.wanted) == 2  # the maps' pass, then the caller's own
    assert spy.wanted[0] == (True, False)
    assert len(injected.maps.relevance) == 8


def test_without_a_target_each_item_has_its_own_class() -> None:
    net = ConvNet(2, outputs=3).eval()
    x = image(2, 6)
    net.head.bias.data -= net(x).mean(0).detach()
    mixed = rl.inject(net, "gradient")
    output = mixed(x)
    assert len(set(output.argmax(1).tolist())) > 1
    assert mixed.maps.targets == ("predicted class",)
    assert mixed.maps.items == (tuple(f"logit {k}" for k in output.argmax(1).tolist()),)
    for i, k in enumerate(output.argmax(1).tolist()):
        alone = Gradient()(mixed._guest, x[i : i + 1], Logits(k))
        assert relative(mixed.maps.relevance["gradient"][:, i : i + 1], alone) <= 1e-5


def test_a_segmentation_explains_each_predicted_label_where_it_is() -> None:
    x = image(3, 2)
    net = segmenter(3, x)
    x[1] = 20  # so bright that one label is everywhere but at the borders
    with torch.no_grad():
        labels = net(x).argmax(1)
    absent = [label for label in (1, 2) if not (labels[1] == label).any()]
    assert len(absent) == 1
    injected = rl.inject(net, "hires-cam", layer="second")
    with pytest.warns(InputWarning, match="item 1: .*at least one voxel"):
        injected(x)
    assert injected.maps.targets == ("label 1", "label 2")
    found = injected.maps.relevance["hires-cam at second"]
    for t, label in enumerate((1, 2)):
        alone = HiResCAM("second")(net, x[:1], Region(label).fix(net(x[:1]).detach()))
        assert relative(found[t : t + 1, :1], alone) <= 1e-5
        assert found[t, 1].isnan().all() == (label in absent)
        assert injected.maps.scores[t, 1].isnan() == (label in absent)


def test_one_of_several_inputs_is_explained_and_the_others_stay() -> None:
    net, scan, other = TwoInputs().eval(), image(2, 2), image(2, 2, seed=4)
    for args, kwargs, where in (
        ((other, scan), {}, 1),
        ((other, scan, True), {}, 1),
        ((), {"scan": scan, "other": other, "double": True}, "scan"),
    ):
        injected = rl.inject(net, ["grad-cam", "gradient"], layer="one.conv2", target=2, target_input=where)
        with torch.no_grad():
            for _ in range(2):
                assert torch.equal(injected(*args, **kwargs), net(*args, **kwargs))
        factor = 1 if len(args) == 2 else 2
        assert relative(injected.maps.relevance["gradient"], factor * Gradient()(net.one, scan, Logits(2))) <= 1e-5
        assert (
            relative(injected.maps.relevance["grad-cam at one.conv2"], factor * GradCAM("conv2")(net.one, scan, Logits(2))) <= 1e-5
        )
    with pytest.raises(BadInput, match=r"the input 2, as target_input says.*2 positional"):
        rl.inject(net, target_input=2)(other, scan)
    with pytest.raises(BadInput, match="a tensor as the input"):
        rl.inject(net, target_input="double")(other, scan, double=True)


def test_methods_that_run_many_copies_repeat_the_other_inputs() -> None:
    from radiolucent.hooks import OneInput

    net, scan, other = TwoInputs().eval(), image(2, 2), image(2, 2, seed=4)
    alone = OneInput(net, (other, scan), {"double": True}, 1)
    copies = torch.cat([scan, scan * 2, scan * 3])
    with torch.no_grad():
        truth = torch.cat([net(other, scan * k, True) for k in (1, 2, 3)])
        assert relative(alone(copies), truth) <= 1e-6


def test_data_parallel_is_looked_into() -> None:
    net, x = ConvNet(2).eval(), image(2)
    injected = rl.inject(nn.DataParallel(net), layer="conv2", target=1)
    assert torch.equal(injected(x), net(x))
    assert next(iter(injected.state_dict())).startswith("module.")
    assert relative(injected.maps.relevance["grad-cam at conv2"], GradCAM("conv2")(net, x, Logits(1))) <= 1e-6


def test_a_method_that_is_not_first_order_works_too() -> None:
    net, x = ConvNet(2).eval(), image(2)
    injected = rl.inject(net, SmoothGrad(samples=3), target=0)
    with torch.no_grad():
        injected(x)
        injected(x)
    assert torch.equal(injected.maps.relevance["smooth-grad(gradient)"], SmoothGrad(samples=3)(net, x, Logits(0)))
    assert torch.equal(injected.maps.scores[0], net(x)[:, 0])  # of the image itself, not of a noisy copy
    assert Predicted().fix(net(x)).names(("a", "b", "c", "d"))


def test_maps_are_written_on_the_inputs_grid_with_a_table(tmp_path: Path) -> None:
    monai = pytest.importorskip("monai.data")
    x = image(3, 2)
    net = segmenter(3, x)
    affine = np.array([[0, 0, 2.0, -9], [-1.5, 0, 0, 11], [0, 3, 0, -1], [0, 0, 0, 1]])
    injected = rl.inject(net, ["grad-cam", "gradient"], layer="second", target=[1, 2], output_dir=tmp_path / "maps")
    with injected.named("case a", "case/b"):
        injected(monai.MetaTensor(x, affine=torch.from_numpy(affine)))
    rows = list(csv.DictReader((tmp_path / "maps/maps.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert {row["name"] for row in rows} == {"case a", "case/b"}
    row = next(r for r in rows if (r["name"], r["map"], r["target"]) == ("case/b", "grad-cam at second", "label 2"))
    saved = nib.load(tmp_path / "maps" / row["file"])
    assert np.allclose(saved.affine, affine)
    assert np.array_equal(np.asarray(saved.dataobj), injected.maps.on_input("grad-cam at second")[1, 1, 0].numpy())
    assert float(row["score"]) == pytest.approx(float(injected.maps.scores[1, 1]))
    injected(x)  # a plain tensor has no world; the next call has names of its own
    plain = nib.load(tmp_path / "maps/grad-cam_at_second/00001_0_label_1.nii.gz")
    assert plain.header["sform_code"] == 0
    assert len(list(csv.DictReader((tmp_path / "maps/maps.csv").read_text().splitlines()))) == 16


def test_in_2d_there_is_a_picture_beside_each_map(tmp_path: Path) -> None:
    from PIL import Image

    injected = rl.inject(ConvNet(2).eval(), "hires-cam", layer="conv2", target=1, output_dir=tmp_path)
    injected(image(2, 1))
    with Image.open(tmp_path / "hires-cam_at_conv2/00000_0_logit_1.png") as picture:
        assert picture.size[0] > 500
    with pytest.raises(BadInput, match=r"no maps yet.*overwrite=True"):
        rl.inject(ConvNet(2), output_dir=tmp_path)
    rl.inject(ConvNet(2), output_dir=tmp_path, overwrite=True)
    assert not (tmp_path / "maps.csv").exists()


def test_what_cannot_be_explained_says_why() -> None:
    net, x = ConvNet(2).eval(), image(2)
    refused = {
        "name of a layer; got 'conv3'.*Close to it": {"layer": "conv3"},
        "target indices from 0 to 3 for Logits.*99": {"target": 99},
        "a method among .*got 'grad-cm'": {"method": "grad-cm"},
    }
    for message, settings in refused.items():
        with pytest.raises(BadInput, match=message):
            rl.inject(net, **settings)(x)
    with pytest.raises(BadInput, match=r"target indices from 0 to 2 for Region\(7\)"):
        rl.inject(Segmenter(2), target=7)(x)
    with pytest.raises(BadInput, match="several cells at layer 'head'"):
        rl.inject(net, layer="head", target=1)(x)
    injected = rl.inject(net, layer="conv2")
    injected(x)
    with pytest.raises(BadInput, match="a map among grad-cam at conv2; got 'other'"):
        injected.maps.on_input("other")


def test_masks_measure_the_maps_of_each_call(tmp_path: Path) -> None:
    x = image(3, 2)
    net = segmenter(3, x)
    labels = net(x).argmax(1)
    injected = rl.inject(net, "hires-cam", layer=["norm", "second"], target=[1, 2], metrics=["energy-pointing-game", "iou@0.3"])
    with torch.no_grad(), injected.named("a", "b"):
        assert torch.equal(injected(x, mask=labels), net(x))
    rows = injected.scores.rows()
    assert len(rows) == 2 * 2 * 2 * 2  # layers, targets, items, metrics: each target at its own label
    assert all(row["target"] == f"label {row['label']}" for row in rows)
    found = {(r["case"], r["layer"], r["target"], r["label"]): r["value"] for r in rows if r["metric"] == "energy-pointing-game"}
    relevance = injected.maps.on_input("hires-cam at norm")[1, 1, 0].relu()
    share = relevance[labels[1] == 2].sum() / relevance.sum()
    assert found["b", "norm", "label 2", 2] == pytest.approx(float(share), rel=1e-5)
    again = injected.measure(labels[:, None].numpy())
    assert [r["value"] for r in again] == [r["value"] for r in rows]
    means = injected.scores.means()
    assert [m["layer"] for m in means if m["metric"] == "iou@0.3" and m["target"] == "label 1" and m["label"] == 1] == [
        "norm",
        "second",
    ]
    pairs = rl.inject(net, "hires-cam", layer="norm", target=[1, 2], metrics=["iou"], all_pairs=True)
    pairs(x, mask=labels)
    assert {(row["target"], row["label"]) for row in pairs.scores.rows()} == {(f"label {t}", l) for t in (1, 2) for l in (1, 2)}
    other = rl.inject(net, "hires-cam", layer="norm", target=rl.Region(2), metrics=["iou"])
    other(x, mask=labels)
    assert {row["label"] for row in other.scores.rows()} == {2}
    injected.scores.save(tmp_path)
    assert (tmp_path / "scores.xlsx").exists()
    assert (tmp_path / "scores.png").exists()
    with pytest.raises(BadInput, match=r"a mask of shape \(2, 12, 16, 10\); got \(2, 4, 4\)"):
        injected.measure(torch.ones(2, 4, 4))
    with pytest.raises(BadInput, match="maps to measure; got none of the last call"):
        rl.inject(net).measure(labels)


def test_a_model_with_a_mask_of_its_own_gets_it() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = ConvNet(2)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.network(x if mask is None else x * mask)

    net, x = Masked().eval(), image(2)
    mask = (x > 0.5).float()
    injected = rl.inject(net, "gradient", target=1)
    assert torch.equal(injected(x, mask=mask), net(x, mask))
    assert not injected.scores.rows()
    assert relative(injected.maps.relevance["gradient"], Gradient()(net.network, x * mask, Logits(1)) * mask) <= 1e-6
    assert injected.measure(mask.long())


def test_where_there_is_nothing_to_explain_the_output_comes_all_the_same() -> None:
    x = image(2, 2)
    cases = {
        "zero everywhere": (Bright(2, threshold=5.0), {"method": "gradient", "target": 0}),
        "background everywhere": (Segmenter(2).eval(), {"layer": "second"}),
        "at least one voxel in each target region": (Segmenter(2).eval(), {"layer": "second", "target": Region(1)}),
    }
    for message, (net, settings) in cases.items():
        if message != "zero everywhere":
            net.head.bias.data[0] += 1000
        injected = rl.inject(net, **settings)
        with pytest.warns(InputWarning, match=f"no map of call 0: .*{message}"):
            output = injected(x)
        assert torch.equal(output, net(x))
        assert injected.maps is None
    empty = rl.inject(ConvNet(2).eval())
    assert empty(x[:0]).shape == (0, 4)
    assert empty.maps is None


def test_maps_that_cannot_be_written_do_not_end_a_training(tmp_path: Path) -> None:
    injected, x = rl.inject(ConvNet(2).eval(), "hires-cam", layer="conv2", output_dir=tmp_path / "maps"), image(2)
    (tmp_path / "maps").rmdir()
    (tmp_path / "maps").write_text("in the way")
    with pytest.warns(InputWarning, match="the maps could not be written"):
        assert torch.equal(injected(x), injected._guest(x))
    assert injected.maps is not None
    with pytest.raises(BadInput, match="a folder for the maps"):
        rl.inject(ConvNet(2), output_dir=tmp_path / "maps")


def test_the_guests_own_names_are_its_own() -> None:
    """Parts and attributes that are called like ours stay; what is set on the wrapper reaches the guest."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps, self.scores, self.side = nn.Conv2d(1, 2, 3), nn.Linear(2, 3), nn.ReLU()
            self.depth, self.calls = 12, "mine"

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(self.side(self.maps(x)).mean((2, 3))) * self.depth

    net, x = Named().eval(), image(2)
    injected = rl.inject(net, "gradient", target=1)
    assert isinstance(net.maps, nn.Conv2d)
    assert torch.equal(injected(x), net(x))
    assert isinstance(net.maps, nn.Conv2d)
    assert injected.depth == 12
    assert injected.calls == "mine"
    injected.depth = 3
    assert net.depth == 3
    assert torch.equal(injected(x), net(x))


def test_what_a_model_keeps_from_its_forward_is_the_callers() -> None:
    """An auxiliary loss on stored features: they belong to the graph of the output that came back."""

    class Stores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.count = nn.Conv2d(1, 3, 3), nn.Linear(3, 2), 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.features = self.conv(x)
            self.seen += 1
            return self.head(self.features.relu().mean((2, 3)))

    net, x = Stores().train(), image(2)
    injected = rl.inject(net, "hires-cam", layer="conv", target=0)
    for _ in range(3):
        loss = injected(x).sum() + net.features.square().mean()
        loss.backward()
    assert net.conv.weight.grad.abs().max() > 0
    assert net.seen == 3
    net.eval()
    with torch.no_grad():
        injected(x)
        injected(x)
    assert net.seen == 5
    assert not net.features.requires_grad


def test_methods_that_differ_in_settings_or_inner_layers_keep_their_own_maps() -> None:
    net, x = ConvNet(2).eval(), image(2)
    injected = rl.inject(net, [SmoothGrad(samples=2), SmoothGrad(samples=3)], target=1)
    injected(x)
    assert len(injected.maps.relevance) == 2
    for name, relevance in injected.maps.relevance.items():
        assert torch.equal(relevance, injected.maps.methods[name](net, x, Logits(1)))
    injected = rl.inject(net, SmoothGrad(HiResCAM(), samples=2), layer=["conv1", "conv2"], target=1)
    injected(x)
    assert list(injected.maps.relevance) == ["smooth-grad(hires-cam) at conv1", "smooth-grad(hires-cam) at conv2"]


def test_one_method_that_fails_does_not_take_the_others_along() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    injected = rl.inject(net, ["gradient", "guided-backprop"], target=1)
    with pytest.warns(InputWarning, match="no map for guided-backprop: .*a network with ReLU"):
        injected(image(2))
    assert list(injected.maps.relevance) == ["gradient"]


def test_the_target_is_decided_in_eval_mode() -> None:
    class Deep(nn.Module):
        """A list of outputs in training, one at the end."""

        def __init__(self) -> None:
            super().__init__()
            self.network = Segmenter(2)

        def forward(self, x: Tensor) -> Any:
            output = self.network(x)
            return [output, output[..., ::2, ::2]] if self.training else output

    x = image(2)
    net = Deep()
    net.network = segmenter(2, x)
    injected = rl.inject(net.train(), "hires-cam", layer="network.second", target=[1, 2])
    assert isinstance(injected(x), list)
    assert injected.maps.relevance["hires-cam at network.second"].isfinite().all()


def test_scores_and_maps_are_plain_tensors_for_a_tensor_of_another_kind() -> None:
    """Such as MONAI's MetaTensor."""

    class Meta(Tensor):
        pass

    net, x = ConvNet(2).eval(), image(2).as_subclass(Meta)
    for method in ("hires-cam", SmoothGrad(samples=2), Occlusion(8, 8)):
        injected = rl.inject(net, method, layer="conv2", target=1)
        assert type(injected(x)) is Meta
        assert type(injected.maps.scores) is Tensor
        assert {type(relevance) for relevance in injected.maps.relevance.values()} == {Tensor}


def test_scores_can_begin_anew_with_each_epoch() -> None:
    x = image(3, 2)
    net = segmenter(3, x)
    injected = rl.inject(net, "hires-cam", layer=["norm", "second"], target=1, metrics=["iou"])
    labels = net(x).argmax(1)
    for _ in range(2):
        injected.scores.clear()
        injected(x, mask=labels)
        assert len(injected.scores.rows()) == 4  # layers, items
        assert injected.scores.layers == ["norm", "second"]


def test_warnings_point_at_the_caller_s_line() -> None:
    nowhere = Region(2, mask=torch.zeros(12, 16, dtype=torch.long))
    injected = rl.inject(Segmenter(2), "hires-cam", layer="norm", target=nowhere)
    for model in (injected, nn.Sequential(injected)):
        with pytest.warns(InputWarning, match="no map of call") as caught:
            model(image(2))
        assert {w.filename for w in caught} == {__file__}
