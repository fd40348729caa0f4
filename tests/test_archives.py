"""TorchScript, torch.export and pickled models: run only with trust, and then by every method that can."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from worlds import classifier, image

from radiolucent import BadInput, InputWarning, Logits, Volume, explain, load, predict
from radiolucent.hooks import evaluating
from radiolucent.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, SmoothGrad

SCRIPTS = ("scripted", "traced", "frozen")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def network() -> nn.Sequential:
    """Layers "0" to "8": convolution, batch norm, ReLU, dropout, ... with statistics of its own."""
    torch.manual_seed(3)
    net = classifier(3)
    net[1].running_mean.uniform_(-0.2, 0.2)
    net[1].running_var.uniform_(0.5, 2.0)
    return net.eval()


def saved(folder: Path, kind: str) -> Path:
    net, x = network(), image(3, batch=1)
    path = folder / ("model.ts" if kind in SCRIPTS else "model.pth" if kind == "pickled" else "model.pt2")
    if kind == "pickled":
        torch.save(net, path)
    elif kind in SCRIPTS:
        script = torch.jit.trace(net, x) if kind == "traced" else torch.jit.script(net)
        (torch.jit.freeze(script) if kind == "frozen" else script).save(str(path))
    else:
        net.train(kind == "in train mode")
        shapes = ({0: torch.export.Dim("batch", min=1, max=99)},) if kind == "any batch" else None
        x = image(3, batch=2) if shapes else x
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), path)
    return path


def loaded(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    with pytest.warns(InputWarning, match="SHA-256"):
        model, card = load(path, trust=True)
    return model, card.notes


@pytest.mark.parametrize(
    ("kind", "words"),
    [("scripted", "a TorchScript archive"), ("exported", "an archive of torch.export"), ("pickled", "a pickle of a model")],
)
def test_row_25_programs_are_refused_without_trust(tmp_path, monkeypatch, kind, words):
    path = saved(tmp_path, kind)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in ("torch.jit.load", "torch.export.load"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(BadInput, match=rf"a model without a program in {path.name}; got {words}.*{digest}.*--trust-model"):
        load(path)
    with pytest.raises(BadInput, match=r"card beside them|a model without a program"):
        load(str(path))


@pytest.mark.parametrize("kind", [*SCRIPTS, "exported", "any batch", "pickled"])
def test_methods_on_the_input_give_what_the_original_gives(tmp_path, kind):
    path = saved(tmp_path, kind)
    model, notes = loaded(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in notes[0]
    assert "was trusted to run code" in notes[0]
    original, x = network(), image(3, batch=1)
    torch.testing.assert_close(model(x), original(x))
    before = [getattr(m, "training", None) for m in model.modules()]
    for method in (Gradient(), IntegratedGradients(steps=5), SmoothGrad(samples=3)):
        torch.testing.assert_close(method(model, x, Logits(1, 2)), method(original, x, Logits(1, 2)))
    assert [getattr(m, "training", None) for m in model.modules()] == before


@pytest.mark.parametrize("kind", SCRIPTS)
def test_layers_of_torchscript_are_hidden_and_the_message_says_what_remains(tmp_path, kind):
    model, notes = loaded(saved(tmp_path, kind))
    assert any("layer-wise methods do not" in note for note in notes)
    remain = r"Choose a method that works on the input \(Gradient, SmoothGrad, IntegratedGradients, or one that perturbs it\)"
    with pytest.raises(BadInput, match=f"a layer whose output has spatial axes; got a model whose layers do not report.*{remain}"):
        GradCAM("auto")(model, image(3, batch=1), Logits(0))
    named = "the name of a layer; got '5'" if kind == "frozen" else f"a layer '5' that can be watched.*TorchScript.*{remain}"
    with pytest.raises(BadInput, match=named):
        GradCAM("5")(model, image(3, batch=1), Logits(0))
    with pytest.raises(BadInput, match="a network with ReLU"):
        GuidedBackprop()(model, image(3, batch=1), Logits(0))


@pytest.mark.parametrize("kind", ["exported", "any batch", "pickled"])
def test_layers_of_an_exported_model_report(tmp_path, kind):
    model, _ = loaded(saved(tmp_path, kind))
    original, x = network(), image(3, batch=1)
    for method in (GradCAM("5"), GradCAM("auto"), GuidedBackprop()):
        torch.testing.assert_close(method(model, x, Logits(1)), method(original, x, Logits(1)))


def test_what_an_export_fixed_is_noted(tmp_path):
    _, notes = loaded(saved(tmp_path, "exported"))
    assert notes[1:] == ("exported for inputs of shape 1 x 1 x 12 x 16 x 10",)
    _, notes = loaded(saved(tmp_path, "in train mode"))
    assert notes[2].startswith("exported in train mode, and stays so")
    _, notes = loaded(saved(tmp_path, "any batch"))
    assert notes[1] == "exported for inputs of shape any x 1 x 12 x 16 x 10"


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export.unflatten's own
def test_an_exported_module_given_directly_says_how_its_layers_show():
    x = image(3, batch=1)
    program = torch.export.export(network(), (x,))
    with pytest.raises(BadInput, match=r"layer '0' to run .* hide their layers: use torch.export.unflatten"):
        GradCAM("0")(program.module(), x, Logits(0))
    assert GradCAM("0")(torch.export.unflatten(program), x, Logits(0)).shape == (1, 1, 1, 12, 16, 10)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_modes_of_scripts_are_as_found(tmp_path, kind):
    model = torch.jit.load(saved(tmp_path, kind))
    if kind == "scripted":
        model.train()
    before = [getattr(m, "training", None) for m in model.modules()]
    with evaluating(model):
        assert not any(getattr(m, "training", False) for m in model.modules())
        first, second = model(image(3)[:1]), model(image(3)[:1])
    torch.testing.assert_close(first, second)
    assert [getattr(m, "training", None) for m in model.modules()] == before


def test_a_card_beside_an_archive_says_the_rest(tmp_path):
    saved(tmp_path, "exported")
    card = {
        "name": "exported",
        "task": "classification",
        "network": "archive",
        "weights": "model.pt2",
        "classes": ["a", "b", "c", "d"],
        "preprocessing": {"orientation": "RAS", "size": [12, 16, 10]},
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadInput, match=r"a model without a program in model.pt2"):
        load(tmp_path)
    with pytest.warns(InputWarning, match="model.pt2 is an archive of torch.export, and was trusted"):
        model, read = load(tmp_path, trust=True)
    scan = Volume(np.random.default_rng(0).random((1, 10, 20, 12), np.float32))
    found = explain(model, scan, GradCAM("5"), Logits(2), preprocessing=read.preprocessing, classes=read.classes)
    assert found.targets == ("c",)
    assert found.relevance[0].grid == scan.grid


def test_the_hash_goes_into_summary_and_provenance(tmp_path):
    path = saved(tmp_path, "traced")
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((12, 16, 10), np.float32))
    command = ["explain", "scan.npy", "--model", "model.ts", "--method", "gradient", "--out", "out", "--json"]
    run = [sys.executable, "-W", "ignore", "-c", "from radiolucent.cli import main; main()", *command]
    refused = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "got a TorchScript archive" in refused.stderr
    done = subprocess.run([*run, "--trust-model"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"note: model.ts is a TorchScript archive, and was trusted to run code; its SHA-256 is {digest}" in done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert digest in case["notes"][0]
    assert digest in json.loads((tmp_path / "out" / "scan" / "gradient" / "explanation.json").read_text())["provenance"]["notes"][0]


def test_a_shape_that_the_export_does_not_take_is_an_error(tmp_path):
    model, _ = loaded(saved(tmp_path, "exported"))
    with pytest.raises(BadInput, match=r"an image that the model can take; got shape \(1, 1, 8, 8, 8\)"):
        predict(model, Volume(np.ones((1, 8, 8, 8), np.float32)))


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_damaged_archives(tmp_path, kind):
    import zipfile

    path = saved(tmp_path, kind)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / f"half{path.suffix}", "w") as new:
        for name in old.namelist()[: len(old.namelist()) * 2 // 3]:
            new.writestr(name, old.read(name))
        for name in old.namelist():
            if name.endswith("archive_format") and name not in new.namelist():
                new.writestr(name, old.read(name))
    with pytest.raises(BadInput, match=r"that can be loaded in half.*Is the file whole"):
        load(tmp_path / f"half{path.suffix}", trust=True)


def test_a_pickle_of_something_else_is_no_model(tmp_path):
    torch.save({"path": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(BadInput, match=r"TypeError: it holds a dict, not a model: put a card beside the weights"):
        load(tmp_path / "x.pth", trust=True)
