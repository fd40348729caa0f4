"""M3d-CAM's scripts with their import line changed."""

import csv
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from openpyxl import load_workbook
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from worlds import ConvNet, Segmenter, image, relative, segmenter

from radiolucent import BadInput, InputWarning, Logits
from radiolucent.compat import medcam
from radiolucent.methods import GradCAM, GradCAMPlusPlus, GuidedBackprop, GuidedGradCAM


def scaled(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low)).reshape(maps.shape)


def test_the_papers_listing_on_a_2d_classifier_and_a_3d_segmenter(tmp_path: Path) -> None:
    for axes, model in ((2, ConvNet(2)), (3, segmenter(3, image(3, 3)))):
        data_loader = DataLoader(list(image(axes, 3)), batch_size=1, shuffle=False)
        folder = tmp_path / str(axes)

        model = medcam.inject(model, output_dir=str(folder), save_maps=True)
        model.eval()
        with torch.no_grad():
            truth = [model._guest(batch) for batch in data_loader]
        for batch, expected in zip(data_loader, truth, strict=True):
            output = model(batch)
            assert torch.equal(output, expected)

        files = sorted(p.relative_to(folder) for p in folder.rglob("attention_map_*"))
        assert len(files) == 3
        suffix = ".png" if axes == 2 else ".nii.gz"
        assert [p.name for p in files] == [f"attention_map_{i}_0_0{suffix}" for i in range(3)]
        assert files[0].parent.name == {2: "act2", 3: "act#1"}[axes]
        if axes == 2:
            with Image.open(folder / files[0]) as picture:
                assert picture.size[0] > 500
        else:
            saved = nib.load(folder / files[0])
            assert saved.shape == tuple(image(3).shape[2:])
            assert saved.get_data_dtype() == np.float32


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("backend", ["gcam", "gcampp", "gbp", "ggcam"])
def test_each_backend_is_the_method_of_its_name(backend: str, axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes, 2)
    method = {
        "gcam": GradCAM("conv2"),
        "gcampp": GradCAMPlusPlus("conv2"),
        "gbp": GuidedBackprop(),
        "ggcam": GuidedGradCAM("conv2"),
    }[backend]
    model = medcam.inject(net, backend=backend, layer="conv2", label=2, return_attention=True)
    output, attention = model(x)
    assert torch.equal(output, net(x))
    truth = torch.nn.functional.interpolate(
        method(net, x, Logits(2))[0], x.shape[2:], mode={2: "bilinear", 3: "trilinear"}[axes], align_corners=False
    )
    if backend in ("gbp", "ggcam"):
        truth = truth.abs() / truth.abs().flatten(1).amax(1).reshape(-1, *[1] * (axes + 1))
        assert relative(attention, truth) <= 1e-5
    else:
        assert relative(attention, scaled(truth)) <= 1e-5
    assert np.array_equal(model.get_attention_map(), attention.numpy())


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_grad_cam_agrees_with_m3d_cam_where_that_is_right(task: str, axes: int) -> None:
    peer = pytest.importorskip("medcam.medcam", reason="M3d-CAM itself is not installed: pip install medcam")
    x = image(axes, 2)
    net = ConvNet(axes).eval() if task == "classification" else segmenter(axes, x)
    layer = "conv2" if task == "classification" else "norm"
    if task == "segmentation":
        net.act = nn.ReLU()  # in place, M3d-CAM reads what the layer before did not say
    theirs = peer.inject(net, backend="gcam", layer=layer, label=1)
    theirs(x.clone())
    ours = medcam.inject(net, backend="gcam", layer=layer, label=1, data_shape=theirs.get_attention_map().shape[2:])
    ours(x)
    assert relative(torch.from_numpy(ours.get_attention_map()), torch.from_numpy(theirs.get_attention_map())) <= 1e-4


def test_a_label_may_be_a_class_a_function_or_what_is_predicted() -> None:
    net, x = ConvNet(2).eval(), image(2, 2)
    by_number = medcam.inject(net, layer="conv2", label=1, return_attention=True)(x)[1]
    model = medcam.inject(net, layer="conv2", return_attention=True)
    best = net(x).argmax(1)
    assert torch.equal(model(x, label=1)[1], by_number)
    assert torch.equal(model(x, label=lambda y: torch.tensor([0.0, 1, 0, 0]).expand_as(y))[1], by_number)
    assert torch.equal(model(x)[1], model(x, label="best")[1])
    for i, k in enumerate(best.tolist()):
        assert relative(model(x)[1][i : i + 1], model(x[i : i + 1], label=k)[1]) <= 1e-5
    x = image(3, 1)
    net = segmenter(3, x)
    model = medcam.inject(net, backend="gbp", return_attention=True)
    labels = net(x).argmax(1)
    front = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    front[:, 0] = 0
    assert torch.equal(model(x)[1], model(x, label=lambda y: front)[1])
    with pytest.raises(BadInput, match=r"a label from 0 to 2, a function, 'best' or None; got 7"):
        model(x, label=7)
    with pytest.raises(BadInput, match=r"a mask of shape .*Return a mask like"):
        model(x, label=lambda y: y[:, 0] > 0)


def test_maps_are_scored_against_masks_and_written_as_tables(tmp_path: Path) -> None:
    x = image(3, 2)
    net = segmenter(3, x)
    mask = (net(x).argmax(1, keepdim=True) == 1).long()
    model = medcam.inject(
        net, tmp_path, layer=["norm", "second"], label=1, evaluate=True, save_scores=True, save_pickle=True, return_score=True,
        metric="ioa", threshold=0.4,
    )  # fmt: skip
    output, scores = model(x, mask=mask)
    assert torch.equal(output, net(x))
    assert list(scores) == ["norm", "second"]
    relevance = model._injected.maps.on_input("grad-cam at second")[0, 1, 0].numpy()
    above = (relevance - relevance.min()) / (relevance.max() - relevance.min()) >= 0.4
    truth = (above & (mask[1, 0].numpy() > 0)).sum() / above.sum()
    assert scores["second"][1] == pytest.approx(truth)
    assert medcam.compute_score(relevance, mask[1, 0], "ioa", 0.4) == pytest.approx(truth)
    model(x, mask=mask)
    model.dump()
    book = load_workbook(tmp_path / "scores.xlsx")
    rows = list(book["scores"].iter_rows(values_only=True))
    assert len(rows) == 1 + 2 * 2 * 2
    columns = next(book["means"].iter_rows(values_only=True))
    table = [dict(zip(columns, r, strict=True)) for r in list(book["means"].iter_rows(values_only=True))[1:]]
    assert next(r for r in table if r["layer"] == "second")["mean"] == pytest.approx(np.mean(scores["second"]))
    assert len(pickle.loads((tmp_path / "attention_maps.pkl").read_bytes())) == 8
    assert (tmp_path / "scores.png").exists()
    with pytest.raises(BadInput, match="a mask, since evaluate=True"):
        model(x)
    with pytest.raises(BadInput, match=r"a mask of 0 and 1; got values such as \[0, 3\]"):
        model(x, mask=mask * 3)


def test_a_function_may_be_the_metric(tmp_path: Path) -> None:
    def share(attention: Any, mask: Any) -> float:
        return float(attention[mask > 0].sum() / attention.sum())

    evaluator = medcam.Evaluator(tmp_path, metric=share)
    mask = np.zeros((4, 4))
    mask[:2] = 1
    assert evaluator.comp_score(np.ones((4, 4)), mask, layer="a") == 0.5
    assert np.isnan(medcam.compute_score(np.eye(4), mask * 0))
    evaluator.dump()
    assert "share" in (tmp_path / "scores.csv").read_text()


def test_it_is_switched_and_asked_as_m3d_cam_is(tmp_path: Path) -> None:
    net, x = ConvNet(2).eval(), image(2)
    model = medcam.inject(net, tmp_path, enabled=False)
    model(x)
    assert model.get_attention_map() is None
    model.enable_medcam()
    model(x)
    assert model.get_attention_map().shape == (2, 1, *x.shape[2:])
    assert model.current_layer == "act2"
    model.disable_medcam()
    model.replace_output(True)
    assert torch.equal(model(x), net(x))
    model.enable_medcam()
    assert np.array_equal(model(x).numpy(), model.get_attention_map())
    again = medcam.inject(model, backend="gbp")  # begins anew
    assert again._guest is net
    again(x)
    assert again.current_layer == ""
    assert medcam.get_layers(nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.ReLU())) == ["0.0", "0.1", "0", "1"]
    assert model.get_layers(reverse=True)[0] == "head"
    assert model.test_run(x) == ["conv1", "act1", "pool", "conv2", "act2"]
    assert (tmp_path / "registered_layers.txt").read_text().split() == model.test_run(x)
    model.save_attention_map(model.get_attention_map()[0, 0])
    assert list(tmp_path.rglob("attention_map_*.png"))
    assert list(model.state_dict()) == list(net.state_dict())


def test_full_has_a_map_for_every_layer_and_cannot_return_one(tmp_path: Path) -> None:
    net, x = Segmenter(3).eval(), image(3, 1)
    model = medcam.inject(net, tmp_path, layer="full", label=1, save_maps=True)
    model(x)
    assert {p.name for p in tmp_path.iterdir()} == {"first", "norm", "act#0", "act#1", "second", "head"}
    assert model.get_attention_map() is None
    model.replace_output(True)
    with pytest.raises(BadInput, match="one layer, whose map can be returned; got 6"):
        model(x)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(BadInput, match="a backend among gbp, gcam, ggcam, gcampp; got 'cam'"):
        medcam.inject(ConvNet(2), backend="cam")
    with pytest.raises(BadInput, match="an output_dir, since something is to be saved"):
        medcam.inject(ConvNet(2), save_maps=True)


@pytest.mark.parametrize("shape", [None, 8, "large", (), (8, 0), (8.5, 8), ("8", "8"), 2.5, object()])
def test_a_data_shape_that_is_none_is_refused_when_the_model_is_injected(shape: object) -> None:
    with pytest.raises(BadInput, match="'default' or the shape of a map as data_shape"):
        medcam.inject(ConvNet(2), data_shape=shape)


def test_a_data_shape_may_be_of_numpy_and_has_the_input_s_axes() -> None:
    model = medcam.inject(ConvNet(2), layer="conv2", data_shape=np.array([5, 7]))
    model(image(2))
    assert model.get_attention_map().shape == (2, 1, 5, 7)
    model = medcam.inject(ConvNet(2), layer="conv2", data_shape=(5, 7, 9))
    with pytest.raises(BadInput, match=r"a data_shape of 2 axes, as the input has; got \(5, 7, 9\)"):
        model(image(2))


@pytest.mark.parametrize("label", [1.5, "worst", [], [1, "x"], {}, object(), (None,)])
def test_a_label_that_is_none_is_refused_when_the_model_is_injected_or_called(label: object) -> None:
    with pytest.raises(BadInput, match="a class, several, a function, 'best' or None as label"):
        medcam.inject(ConvNet(2), label=label)
    with pytest.raises(BadInput, match="a class, several, a function, 'best' or None as label"):
        medcam.inject(ConvNet(2))(image(2), label=label)


def test_a_label_may_be_of_numpy_or_torch() -> None:
    net, x = ConvNet(2).eval(), image(2)
    truth = medcam.inject(net, layer="conv2", label=1, return_attention=True)(x)[1]
    for label in (np.int64(1), torch.tensor(1), np.array([1]), torch.tensor([1]), [np.int64(1)]):
        assert torch.equal(medcam.inject(net, layer="conv2", label=label, return_attention=True)(x)[1], truth)
    with pytest.raises(BadInput, match=r"a tensor from label\(output\); got NoneType"):
        medcam.inject(net, layer="conv2")(x, label=lambda y: None)
    with pytest.raises(BadInput, match=r"an output \(batch, classes, ...\); got shape \(4,\)"):
        medcam.inject(nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0)))(x)


def test_the_tables_say_the_method(tmp_path: Path) -> None:
    model = medcam.inject(ConvNet(2), tmp_path, backend="gcampp", layer="conv2", evaluate=True, save_scores=True)
    x = image(2)
    model(x, mask=torch.ones(2, 1, *x.shape[2:]))
    model.dump()
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"grad-cam++"}


def test_a_warning_points_at_the_caller_s_line() -> None:
    model = medcam.inject(Segmenter(2), layer="norm", label=lambda y: torch.zeros_like(y))
    with pytest.warns(InputWarning) as caught:
        model(image(2))
    assert {w.filename for w in caught} == {__file__}
