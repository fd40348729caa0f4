"""From a scan to a map on the scan's own grid, saved and read back, in worlds where the relevant place is known."""

import copy
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from torch import Tensor, nn
from worlds import Bright, ConvNet, Returns, classifier, convolution, segmenter

from radiolucent import BadInput, Explanation, Logits, Outputs, Preprocessing, Region, Volume, explain, predict, read
from radiolucent.methods import (
    ExpectedGradients,
    GradCAM,
    Gradient,
    GuidedBackprop,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    Times,
)
from radiolucent.protocols import Method
from radiolucent.provenance import weights_hash

PLACE = np.array([12.0, -31.0, 18.0])  # of the bright voxel, in world mm


def scan(orientation: str = "RAS", turn: float = 0.0) -> nib.Nifti1Image:
    """Dark but for one voxel at PLACE, stored in an orientation, and turned by an angle around PLACE."""
    spacing, voxel, shape = np.array([1.0, 1.5, 2.0]), np.array([3, 9, 2]), (8, 12, 6)
    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = PLACE - affine[:3, :3] @ voxel
    data = np.full(shape, 0.1, np.float32)
    data[tuple(voxel)] = 1.0
    image = nib.Nifti1Image(data, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(orientation)))


def peak(path: Path) -> np.ndarray:
    """World mm of the largest value, by nibabel alone."""
    image = nib.load(path)
    voxel = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
    return nib.affines.apply_affine(image.affine, voxel)


METHODS_AT_THE_VOXEL: list[Method] = [Gradient(), HiResCAM("above"), SmoothGrad(GradCAM("act"), samples=2, noise=0.01)]


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "LPI", "AIL"])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_the_saved_map_has_its_peak_where_the_lesion_is(orientation: str, turn: float, tmp_path: Path) -> None:
    nib.save(scan(orientation, turn), tmp_path / "scan.nii.gz")
    volume = read(tmp_path / "scan.nii.gz")
    for number, found in enumerate(
        predict(Bright(3), volume, Preprocessing(orientation="RAS", size=(10, 10, 8))).explain(METHODS_AT_THE_VOXEL, Logits(0))
    ):
        found.save(tmp_path / str(number))
        written = tmp_path / str(number) / "target_0.nii.gz"
        assert np.allclose(peak(written), PLACE, atol=1e-3)
        given, image = nib.load(tmp_path / "scan.nii.gz"), nib.load(written)
        assert image.shape == given.shape
        assert np.allclose(image.affine, given.affine, atol=1e-4)
        dark = given.get_fdata() < 0.5
        assert np.abs(image.get_fdata()[dark]).max() <= 0.02 * image.get_fdata().max()


@pytest.mark.parametrize("orientation", ["RAS", "PSR"])
def test_the_peak_stays_within_a_voxel_when_the_grid_is_another(orientation: str, tmp_path: Path) -> None:
    nib.save(scan(orientation, 0.2), tmp_path / "scan.nii.gz")
    preprocessing = Preprocessing(orientation="RAS", spacing=(1.0, 1.0, 1.0), size=(12, 20, 14))
    explain(Bright(3), read(tmp_path / "scan.nii.gz"), Gradient(), Logits(0), preprocessing=preprocessing).save(tmp_path / "out")
    assert (np.abs(peak(tmp_path / "out" / "target_0.nii.gz") - PLACE) <= 2).all()


def test_a_map_on_coarse_cells_is_centred_on_what_it_shows() -> None:
    class Coarse(Bright):
        def __init__(self) -> None:
            super().__init__(3)
            self.cells = nn.AvgPool3d(2)

        def forward(self, x: Tensor) -> Tensor:
            score = self.cells(self.act(self.above(x))).flatten(1).sum(1)
            return score[:, None]

    data = np.zeros((1, 8, 8, 8), np.float32)
    data[0, 2:4, 4:6, 6:8] = 1  # exactly one cell
    found = explain(Coarse(), Volume(data, np.diag([2.0, 2, 2, 1])), HiResCAM("cells"), Logits(0))
    weights = found.relevance[0].data[0]
    places = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"))
    assert np.allclose((places * weights).reshape(3, -1).sum(1) / weights.sum(), [2.5, 4.5, 6.28], atol=0.3)
    assert found.provenance["cells"] == [4, 4, 4]
    assert found.provenance["cell_mm"] == [4, 4, 4]


def test_a_real_scan_in_psr_is_overlaid_voxel_for_voxel(data_folder: Path, tmp_path: Path) -> None:
    given = next((data_folder / "ixi" / "t1").glob("*.nii*"))
    image = nib.load(given)
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R")
    data = np.asarray(image.get_fdata(), np.float32)
    voxel = (data.shape[0] // 3, data.shape[1] // 2, data.shape[2] // 4)
    data[voxel] = 3 * data.max()
    nib.save(nib.Nifti1Image(data, image.affine), tmp_path / "planted.nii")
    net = Bright(3, threshold=float(np.sort(data.ravel())[-2]) + 1)
    explain(net, read(tmp_path / "planted.nii"), InputXGradient(), Logits(0), preprocessing=Preprocessing(orientation="RAS")).save(
        tmp_path / "out"
    )
    written = nib.load(tmp_path / "out" / "target_0.nii.gz")
    assert np.allclose(written.affine, image.affine, atol=1e-4)
    assert np.argwhere(written.get_fdata()).tolist() == [list(voxel)]
    assert np.isclose(written.get_fdata()[voxel], data[voxel])


# ---- saving and loading

GRIDS = {
    "3D": Volume(np.random.default_rng(0).random((1, 8, 10, 6), np.float32), np.diag([2.0, 1, 3, 1])),
    "3D, two channels": Volume(np.random.default_rng(1).random((2, 8, 10, 6), np.float32), np.diag([-1.0, -1, 1, 1])),
    "2D": Volume(np.random.default_rng(2).random((1, 12, 10), np.float32), np.diag([0.5, 0.5, 1, 1])),
    "2D, three channels": Volume(np.random.default_rng(3).random((3, 12, 10), np.float32)),
    "one slice": Volume(np.random.default_rng(4).random((1, 8, 10, 2), np.float32)),
    "no world": Volume(np.random.default_rng(5).random((1, 8, 10, 6), np.float32), np.diag([2.0, 2, 2, 1]), has_world=False),
    "2D, no world": Volume(np.random.default_rng(6).random((1, 12, 10), np.float32), has_world=False),
    "turned": Volume(np.random.default_rng(7).random((1, 8, 10, 6), np.float32), scan("PSR", 0.4).affine),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_what_is_loaded_equals_what_was_saved(kind: str, tmp_path: Path) -> None:
    volume = GRIDS[kind].noted("a remark")
    axes = volume.data.ndim - 1
    net = ConvNet(axes, channels=len(volume.data)).eval()
    methods = [InputXGradient(), Times(SmoothGrad(samples=2), HiResCAM("auto"))]
    for number, found in enumerate(predict(net, volume).explain(methods, Logits(0, 2), classes=("air", "bone"))):
        folder = found.save(tmp_path / str(number))
        loaded = Explanation.load(folder)
        assert loaded == found
        assert loaded.targets == ("air", "logit 2")
        assert [np.array_equal(a.data, b.data) for a, b in zip(loaded.relevance, found.relevance, strict=True)] == [True, True]
        assert loaded.relevance[0].has_world == volume.has_world
        assert loaded.provenance["notes"] == ["a remark"]
        assert (folder / "target_1.tiff").exists() == (axes == 2 and len(volume.data) == 1)


def test_explanations_that_differ_are_not_equal() -> None:
    net, volume = ConvNet(3).eval(), GRIDS["3D"]
    one = explain(net, volume, Gradient(), Logits(0))
    assert one == copy.deepcopy(one)
    changed = copy.deepcopy(one)
    changed.relevance[0].data[0, 0, 0, 0] += 1
    assert one != changed
    assert one != explain(net, volume, InputXGradient(), Logits(0))


def test_a_2d_map_is_a_picture_too(tmp_path: Path) -> None:
    found = explain(ConvNet(2).eval(), GRIDS["2D"], Gradient(), Logits(0))
    found.save(tmp_path / "out")
    with Image.open(tmp_path / "out" / "target_0.tiff") as picture:
        assert np.array_equal(np.asarray(picture), found.relevance[0].data[0])


def test_an_explanation_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    net = ConvNet(3).eval()
    first, other = (explain(net, GRIDS["3D"], Gradient(), Logits(i)) for i in (0, 1))
    first.save(tmp_path / "out")
    with pytest.raises(BadInput, match=r"no folder yet at .*out"):
        other.save(tmp_path / "out")
    assert Explanation.load(tmp_path / "out") == first
    other.save(tmp_path / "out", overwrite=True)
    assert Explanation.load(tmp_path / "out") == other
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_loading_from_elsewhere_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"explanation.json in .*Is it a folder that Explanation.save wrote"):
        Explanation.load(tmp_path)
    for text in ("{", "[]", "{}", '{"grid": {}}'):
        (tmp_path / "explanation.json").write_text(text)
        with pytest.raises(BadInput, match=r"explanation.json in .*Is it a folder"):
            Explanation.load(tmp_path)
    folder = explain(ConvNet(3).eval(), GRIDS["3D"], Gradient(), Logits(0)).save(tmp_path / "out")
    (folder / "target_0.nii.gz").unlink()
    with pytest.raises(BadInput, match=r"a file at .*target_0.nii.gz; got nothing there"):
        Explanation.load(folder)


# ---- what is said about a run


def test_scores_and_names_are_the_models() -> None:
    net, volume = ConvNet(3).eval(), GRIDS["3D"]
    found = explain(net, volume, Gradient(), Outputs(), classes=("age", "volume"))
    with torch.no_grad():
        assert np.allclose(found.scores, net(torch.from_numpy(volume.data)[None])[0].tolist(), atol=1e-6)
    assert found.targets == ("age", "volume", "output 2", "output 3")
    assert len(found.relevance) == 4


def test_provenance_tells_models_and_images_apart() -> None:
    torch.manual_seed(0)
    net, volume = ConvNet(3).eval(), GRIDS["3D"]
    preprocessing = Preprocessing(size=(8, 8, 8))
    found = explain(net, volume, HiResCAM(), Logits(0), preprocessing=preprocessing)
    story = found.provenance
    assert found.method == HiResCAM("act2")
    assert (story["device"], story["dtype"], story["model"]) == ("cpu", "float32", "ConvNet")
    assert story["preprocessing"] == {"size": [8, 8, 8], "fit": "centre"}
    assert {"radiolucent", "torch", "numpy", "python", "seconds", "peak_memory_mib", "shared_by_methods"} <= set(story)
    assert json.loads(json.dumps(dict(story))) == story
    again = explain(net, volume, HiResCAM(), Logits(0)).provenance
    assert (again["weights_sha256"], again["input_sha256"]) == (story["weights_sha256"], story["input_sha256"])
    brighter = explain(net, volume.like(volume.data + 1), HiResCAM(), Logits(0)).provenance
    moved = explain(net, Volume(volume.data, 2 * volume.affine @ np.diag([1, 1, 1, 0.5])), HiResCAM(), Logits(0)).provenance
    assert len({p["input_sha256"] for p in (story, brighter, moved)}) == 3
    with torch.no_grad():
        net.head.bias[1] += 1e-6
    assert explain(net, volume, HiResCAM(), Logits(0)).provenance["weights_sha256"] != story["weights_sha256"]


def test_the_weights_hash_sees_names_shapes_types_and_buffers() -> None:
    nets = [nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.BatchNorm1d(2))]
    nets += [nn.Sequential(nn.Identity(), copy.deepcopy(nets[0][0])), copy.deepcopy(nets[0]).half(), copy.deepcopy(nets[2])]
    nets[-1][0].num_batches_tracked += 1
    assert len({weights_hash(net) for net in nets}) == len(nets)
    assert weights_hash(copy.deepcopy(nets[0])) == weights_hash(nets[0])


def test_several_methods_share_one_pass_and_equal_each_alone() -> None:
    volume, net = GRIDS["3D"], ConvNet(3).eval()
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    methods = [InputXGradient(), HiResCAM("conv1"), IntegratedGradients(2, batch=1), HiResCAM()]
    found = predict(net, volume).explain(methods, Logits(0, 1))
    assert len(calls) == 1 + 1 + 2  # the look, the shared pass, the two steps
    assert [e.method for e in found] == [*methods[:3], HiResCAM("act2")]
    assert [e.provenance["shared_by_methods"] for e in found] == [3, 3, 1, 3]
    assert [(e.provenance["forwards"], e.provenance["backwards"]) for e in found] == [(1, 2), (1, 2), (2, 4), (1, 2)]
    for method, together in zip(methods, found, strict=True):
        alone = explain(net, volume, method, Logits(0, 1))
        assert together.scores == alone.scores
        for a, b in zip(together.relevance, alone.relevance, strict=True):
            assert np.abs(a.data - b.data).max() <= 1e-6 * np.abs(b.data).max()


def test_a_method_that_fails_does_not_take_the_others_along() -> None:
    prediction = predict(Bright(3), Volume(np.asarray(scan().dataobj)[None]))
    failures: list[tuple[Method, BadInput]] = []
    methods: list[Method] = [Gradient(), HiResCAM("nowhere"), ExpectedGradients("nowhere.npy"), GuidedBackprop(), GradCAM("act")]
    found = prediction.explain(methods, Logits(0), failed=lambda method, error: failures.append((method, error)))
    assert [e.method for e in found] == [Gradient(), GuidedBackprop(), GradCAM("act")]
    assert {method for method, _ in failures} == {HiResCAM("nowhere"), ExpectedGradients("nowhere.npy")}
    assert all(isinstance(error, BadInput) for _, error in failures)
    with pytest.raises(BadInput, match="the name of a layer; got 'nowhere'"):
        prediction.explain([Gradient(), HiResCAM("nowhere"), GuidedBackprop()], Logits(0))


def test_the_same_method_twice_is_two_explanations() -> None:
    found = predict(ConvNet(3).eval(), GRIDS["3D"]).explain([HiResCAM("conv1"), HiResCAM("conv1")], Logits(0))
    assert len(found) == 2
    assert found[0].relevance == found[1].relevance


# ---- what is refused


def test_a_map_of_zeros_is_no_success() -> None:
    dark = Volume(np.full((1, 4, 5, 6), 0.1, np.float32))
    for method in (Gradient(), HiResCAM("above"), SmoothGrad(samples=2)):
        with pytest.raises(BadInput, match="for the target logit 0; got one that is zero everywhere"):
            explain(Bright(3), dark, method, Logits(0))
    bright = Volume(np.asarray(scan().dataobj)[None])
    with pytest.raises(BadInput, match=r"for the target logit 1; got one that is zero everywhere.*HiResCAM keeps its sign"):
        explain(Bright(3), bright, GradCAM("act"), Logits(0, 1))


def test_a_map_that_lies_wholly_off_the_scan_is_no_success() -> None:
    class Edge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :, 0] * 2).flatten(1).sum(1, keepdim=True)  # only what was padded

    volume = Volume(np.ones((1, 4, 4, 4), np.float32))
    with pytest.raises(BadInput, match="for the target logit 0; got one that is zero everywhere"):
        explain(Edge(), volume, Gradient(), Logits(0), preprocessing=Preprocessing(size=(8, 4, 4)))


def test_a_map_with_nan_is_no_success() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt().flatten(1).sum(1, keepdim=True)

    data = np.ones((1, 4, 5, 6), np.float32)
    data[0, 1, 2, 3] = 0
    with pytest.raises(BadInput, match="for the target logit 0; got one that is NaN or infinite in places"):
        explain(Root(), Volume(data), InputXGradient(), Logits(0))


def test_a_2d_image_is_not_given_to_a_3d_model_nor_the_reverse() -> None:
    with pytest.raises(BadInput, match=r"a 3D image for this 3D model; got 2 axes of shape \(12, 10\)"):
        predict(ConvNet(3), GRIDS["2D"])
    with pytest.raises(BadInput, match=r"an image that the model can take; got shape \(1, 1, 8, 10, 6\)"):
        predict(ConvNet(2), GRIDS["3D"])


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error", [AssertionError("odd size"), KeyError("odd size"), AttributeError("odd size"), NotImplementedError("odd size")]
)
def test_whatever_the_model_raises_names_the_shape(error: Exception) -> None:
    with pytest.raises(BadInput, match=rf"got shape \(1, 1, 8, 10, 6\) .*{type(error).__name__}.*odd size"):
        predict(Raises(error), GRIDS["3D"])


def test_a_wrong_number_of_channels_names_the_shape() -> None:
    with pytest.raises(BadInput, match=r"got shape \(1, 2, 8, 10, 6\).*expected input.*to have 1 channels.*Check channels"):
        predict(ConvNet(3), GRIDS["3D, two channels"])


def test_what_is_said_about_the_model_is_said_once() -> None:
    lazy = nn.Sequential(nn.LazyConv3d(2, 3))
    with pytest.raises(BadInput, match=r"^expected a model with weights; got lazy layers"):
        predict(lazy, GRIDS["3D"])


def test_a_layer_is_chosen_only_where_one_is_wanted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(480, 2))
    assert explain(net, GRIDS["3D"], Gradient(), Logits(0)).relevance[0].data.any()
    with pytest.raises(BadInput, match="a layer whose output has spatial axes"):
        explain(net, GRIDS["3D"], SmoothGrad(GradCAM()), Logits(0))


@pytest.mark.parametrize(("kind", "key"), [("dict", "logits"), ("tuple", 0), ("list", 0)])
def test_a_part_of_the_output_is_named_at_the_door(kind: str, key: str | int) -> None:
    volume = GRIDS["2D"]
    net = segmenter(2, torch.from_numpy(volume.data)[None])
    alone = explain(net, volume, HiResCAM("second"), Region(1, 2))
    wrapped = explain(Returns(net, kind), volume, HiResCAM("network.second"), Region(1, 2), output=key)
    assert wrapped.scores == alone.scores
    assert wrapped.relevance == alone.relevance
    with pytest.raises(BadInput, match="Name the part to explain"):
        explain(Returns(net, kind), volume, HiResCAM("network.second"), Region(1, 2))


# ---- labels


def test_labels_lie_on_the_scans_own_grid() -> None:
    class Threshold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0.5 - x, x - 0.5], 1)

    image = scan("PSR")
    volume = Volume(np.asarray(image.dataobj, np.float32)[None], image.affine)
    for net in (Threshold(), nn.Sequential(convolution(3)(1, 1, 1))):
        if isinstance(net, nn.Sequential):
            nn.init.ones_(net[0].weight)
            nn.init.constant_(net[0].bias, -0.5)
        labels = predict(net, volume, Preprocessing(orientation="RAS")).labels()
        assert np.array_equal(labels.data, (volume.data > 0.5).astype(np.int32))
        assert labels.data.dtype == np.int32
        assert labels.grid == volume.grid
    with pytest.raises(BadInput, match="a segmentation output"):
        predict(classifier(3), volume).labels()


def test_full_is_one_explanation_per_layer_that_has_a_map() -> None:
    net = ConvNet(3).eval()
    failures: list[tuple[Method, BadInput]] = []
    prediction = predict(net, GRIDS["3D"])
    found = prediction.explain([HiResCAM("full"), InputXGradient()], Logits(1), failed=lambda m, e: failures.append((m, e)))
    assert [e.method for e in found] == [*map(HiResCAM, ("conv1", "act1", "pool", "conv2", "act2")), InputXGradient()]
    assert [e.provenance["depth"] for e in found[:5]] == [0, 1, 2, 3, 4]
    assert not failures
    assert np.allclose(found[3].relevance[0].data, explain(net, GRIDS["3D"], HiResCAM("conv2"), Logits(1)).relevance[0].data)


def test_one_target_without_a_map_does_not_take_the_others_along() -> None:
    bright = Volume(np.asarray(scan().dataobj)[None])
    failures: list[BadInput] = []
    (found,) = predict(Bright(3), bright).explain([GradCAM("act")], Logits(1, 0), failed=lambda m, e: failures.append(e))
    assert found.targets == ("logit 0",)
    assert found.scores == (explain(Bright(3), bright, Gradient(), Logits(0)).scores[0],)
    assert len(found.relevance) == 1
    assert "the target logit 1; got one that is zero everywhere" in str(failures[0])
