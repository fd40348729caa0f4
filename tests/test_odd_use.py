"""What one may well give by mistake, from Python and on the command line: each is answered in three parts."""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from worlds import ConvNet, Returns, classifier, segmenter

import radiolucent as rl
from radiolucent import BadInput, Explanation, Logits, Volume
from radiolucent.methods import AblationCAM, EigenCAM, GradCAM, Gradient, GuidedBackprop, Occlusion, ScoreCAM
from radiolucent.models import Card

SCAN = Volume(np.random.default_rng(0).random((1, 16, 12), np.float32))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"scan": torch.rand(1, 1, 16, 12)}, r"a Volume as the scan; got Tensor. Wrap an array .*Volume\(array, affine\)"),
        ({"scan": "scan.nii.gz"}, r"a Volume as the scan; got str.*radiolucent.read\(path\) reads a file"),
        ({"model": ("net", "card")}, r"a PyTorch model; got tuple. .*radiolucent.load gives \(model, card\)"),
        ({"method": "grad-cam"}, r"a method with its settings; got 'grad-cam'. Make one, as GradCAM\(\)"),
        ({"method": GradCAM}, r"a method with its settings; got <class .*GradCAM.>"),
        ({"targets": 1}, r"a target; got 1. For example Logits\(1\)"),
        ({"targets": Logits}, r"a target; got <class .*Logits.>"),
    ],
)
def test_explain_names_what_is_of_the_wrong_kind(given: dict[str, object], match: str) -> None:
    whole = {"model": ConvNet(2), "scan": SCAN, "method": Gradient(), "targets": Logits(0)} | given
    with pytest.raises(BadInput, match=match):
        rl.explain(**whole)


@pytest.mark.parametrize("methods", [GradCAM(), "grad-cam", []])
def test_explain_takes_a_list_of_methods(methods: object) -> None:
    with pytest.raises(BadInput, match="a list of methods; got"):
        rl.predict(ConvNet(2), SCAN).explain(methods, Logits(0))


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "3",
        '{"targets": ["a"], "scores": []}',
        '{"targets": 3, "scores": 3}',
        '{"grid": 1}',
        '{"grid": {"shape": [16, 12], "affine": [[1]]}}',
        '{"grid": {"shape": ["x"]}}',
        '{"grid": {"shape": [99, 99, 99]}}',
        '{"method": 7}',
        '{"method": {"method": ["a"]}}',
        '{"method": null, "provenance": 2}',
    ],
)
def test_a_broken_explanation_is_refused(tmp_path: Path, body: str) -> None:
    (explanation,) = rl.predict(ConvNet(2), SCAN).explain([Gradient()], Logits(0))
    folder = explanation.save(tmp_path / "saved")
    file = folder / "explanation.json"
    values = json.loads(file.read_text())
    change = json.loads(body)
    file.write_text(json.dumps({**values, **change} if isinstance(change, dict) else change))
    with pytest.raises(BadInput):
        Explanation.load(folder)
    for name in values:
        file.write_text(json.dumps({key: value for key, value in values.items() if key != name}))
        with pytest.raises(BadInput, match=f"explanation.json in .*{name}"):
            Explanation.load(folder)
    file.write_text(json.dumps(values))
    assert Explanation.load(folder) == explanation


@pytest.mark.parametrize("name", ["a" * 300, "ö" * 200, "a\0b", "a\ud800b"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (explanation,) = rl.predict(ConvNet(2), SCAN).explain([Gradient()], Logits(0))
    calls = [
        lambda: rl.read(f"{name}.nii.gz"),
        lambda: rl.load(name),
        lambda: rl.load(f"nnunet:{name}"),
        lambda: rl.load(f"bundle:{name}"),
        lambda: rl.load("module:factory", f"{name}.pt"),
        lambda: rl.write(tmp_path / f"{name}.nii.gz", SCAN),
        lambda: explanation.save(tmp_path / name),
        lambda: Explanation.load(tmp_path / name),
        lambda: rl.inject(ConvNet(2), output_dir=tmp_path / name),
    ]
    for call in calls:
        with pytest.raises(BadInput):
            call()
    assert not list(tmp_path.iterdir())


def test_odd_names_that_files_can_have(tmp_path: Path) -> None:
    for name in ("-a.nii.gz", "a b\n.nii.gz", "ä" * 100 + ".nii.gz", "$(x);'\".nii.gz"):
        assert np.array_equal(rl.read(rl.write(tmp_path / name, SCAN)).data[..., 0], SCAN.data)


@pytest.mark.parametrize("folder", ["", " "])
def test_an_empty_output_folder_is_not_the_current_one(folder: str) -> None:
    with pytest.raises(BadInput, match="a folder for the maps; got an empty name"):
        rl.inject(ConvNet(2), output_dir=folder)


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.conv, self.relu, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.relu(self.conv(self.quant(x)))
        return self.dequant(self.head(h.mean((2, 3))))


def quantised(kind: str) -> nn.Module:
    from torch.ao import quantization

    engines = [e for e in ("fbgemm", "x86", "qnnpack") if e in torch.backends.quantized.supported_engines]
    if not engines:
        pytest.skip("this PyTorch cannot quantise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own about its older way
        torch.manual_seed(0)
        if kind == "dynamic":
            return quantization.quantize_dynamic(ConvNet(2).eval(), {nn.Linear})
        net = Static().eval()
        net.qconfig = quantization.get_default_qconfig(engines[0])
        prepared = quantization.prepare(copy.deepcopy(net))
        prepared(torch.rand(4, 1, 16, 12))
        return quantization.convert(prepared)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*[Qq]uantized.*:UserWarning")
def test_quantised_models_are_for_perturbation_methods(kind: str) -> None:
    net = quantised(kind)
    layer = "conv" if kind == "static" else "conv1"
    for method in (GradCAM(layer), GradCAM(), Gradient(), GuidedBackprop()):
        with pytest.raises(
            BadInput, match=r"autograd can follow; got quantised layers \(.*Linear.*\). Explain the model as it was"
        ):
            rl.explain(net, SCAN, method, Logits(1))
    if kind == "static":
        for method in (ScoreCAM(layer), AblationCAM(layer), EigenCAM(layer)):
            with pytest.raises(BadInput, match=r"as the output of layer 'conv'; got a .*qu"):
                rl.explain(net, SCAN, method, Logits(1))
    with torch.no_grad():
        x = torch.from_numpy(SCAN.data)[None]
        hidden = x.clone()
        hidden[:, :, :8] = 0
        drop = (net(x) - net(hidden))[0, 1]
    (found,) = rl.explain(net, SCAN, Occlusion((8, 12), (8, 12), batch=1), Logits(1)).relevance
    assert found.data[0, :8].mean() == pytest.approx(float(drop), abs=1e-5)


@pytest.mark.parametrize(("kind", "do"), [("dict", "output=KEY or .*--part KEY"), ("tuple", "output=0 or Select.0.*--part 0")])
def test_the_part_to_explain_is_asked_for_by_key_or_by_position(kind: str, do: str) -> None:
    with pytest.raises(BadInput, match=f"Name the part to explain.*{do}"):
        rl.explain(Returns(ConvNet(2), kind), SCAN, Gradient(), Logits(0))


@pytest.mark.parametrize(
    ("task", "names", "match"),
    [
        ("classification", 4, None),
        ("classification", 0, None),
        ("classification", 3, "3 outputs, as Net names classes; got 4 from the model. Correct `classes`"),
        ("regression", 5, "5 outputs, as Net names classes; got 4"),
        ("segmentation", 3, None),
        ("segmentation", 2, "2 outputs, as Net names classes; got 3"),
    ],
)
def test_class_names_are_as_many_as_outputs(tmp_path: Path, task: str, names: int, match: str | None) -> None:
    from radiolucent.case import explain_case
    from radiolucent.plan import Plan

    x = torch.from_numpy(SCAN.data)[None]
    net = segmenter(2, x) if task == "segmentation" else classifier(2).eval()
    card = Card("Net", task, "archive", "net.pt", classes=tuple("abcdefg"[:names]))
    np.save(tmp_path / "scan.npy", SCAN.data[0])
    if match is None:
        explain_case(tmp_path / "scan.npy", tmp_path / "out", net, card, Plan((Gradient(),)))
        return
    with pytest.raises(BadInput, match=match):
        explain_case(tmp_path / "scan.npy", tmp_path / "out", net, card, Plan((Gradient(),)))
    assert not (tmp_path / "out").exists()


def test_one_channel_may_have_two_names() -> None:
    Card("Net", "segmentation", "archive", "net.pt", classes=("background", "lesion")).check_outputs(torch.rand(1, 1, 4, 4))
    with pytest.raises(BadInput, match="2 outputs, as Net names classes; got 1"):
        Card("Net", "classification", "archive", "net.pt", classes=("no", "yes")).check_outputs(torch.rand(1, 1))
