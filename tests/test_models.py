"""Models from what people have: cards, weights, factories, and no code that came along."""

import json
import math
import os
import pickle
import socket
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from radiolucent import geometry, io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Grid
from radiolucent.models import Card, Percentile, Preprocessing, Window, ZScore, load, read_card
from radiolucent.models.loading import load_weights, read_checkpoint
from radiolucent.volume import Volume

UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
CARD = {
    "name": "small",
    "task": "segmentation",
    "network": "monai:UNet",
    "arguments": UNET,
    "weights": "model.safetensors",
    "classes": ["background", "lesion"],
    "preprocessing": {"orientation": "RAS", "size": [8, 8, 8], "intensity": {"kind": "zscore", "nonzero": True}},
    "about": {"licence": "none"},
}


def unet() -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(**UNET)


def put_card(folder: Path, values: object = CARD, name: str = "card.json") -> Path:
    folder.mkdir(exist_ok=True)
    text = values if isinstance(values, str) else tomli_w.dumps(values) if name.endswith("toml") else json.dumps(values)
    (folder / name).write_text(text, "utf-8")
    return folder


class Linear(nn.Module):
    """What a user brings."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, 4)
        self.second = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(x)))


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder that says when it is imported."""
    name = f"own_{tmp_path.name}"
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"{name}.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath(__file__).with_suffix('.ran').touch()\n"
        "def factory(width=3):\n    return nn.Linear(width, 2)\n"
        "def text():\n    return 'no network'\n"
        "def failing():\n    raise RuntimeError('out of coffee')\n"
    )
    (folder / f"{name}_broken.py").write_text("import nothing_of_that_name\n")
    (folder / f"{name}_faulty.py").write_text("import os\nos.no_such_thing\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.chdir(folder)
    return name


# Loading.


@pytest.mark.parametrize("card", ["card.json", "card.toml"])
@pytest.mark.parametrize("weights", ["model.safetensors", "model.pt", "legacy.pth", "wrapped.ckpt", "parallel.pt"])
def test_a_folder_is_all_that_is_needed(tmp_path, card, weights):
    trained = unet()
    state = trained.state_dict()
    folder = put_card(tmp_path / "model", CARD | {"weights": weights}, card)
    if weights == "model.safetensors":
        save_file(state, folder / weights)
    elif weights == "wrapped.ckpt":
        torch.save({"state_dict": state, "epoch": 3}, folder / weights)
    elif weights == "parallel.pt":
        torch.save({f"module.{key}": value for key, value in state.items()}, folder / weights)
    else:
        torch.save(state, folder / weights, _use_new_zipfile_serialization=weights == "model.pt")
    for model in (folder, str(folder), folder / card):
        network, read = load(model)
        assert not network.training
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
        assert read == Card(
            name="small",
            task="segmentation",
            network="monai:UNet",
            weights=weights,
            arguments=UNET,
            classes=("background", "lesion"),
            preprocessing=Preprocessing("RAS", size=(8, 8, 8), intensity=ZScore(nonzero=True)),
            about={"licence": "none"},
        )


def test_other_weights_than_the_cards(tmp_path):
    folder = put_card(tmp_path / "model")
    trained = unet()
    save_file(trained.state_dict(), tmp_path / "other.safetensors")
    network, _ = load(folder, tmp_path / "other.safetensors")
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_a_factory_of_ones_own(own_code, tmp_path):
    network, card = load(f"{own_code}:factory")
    assert isinstance(network, nn.Linear)
    assert not network.training
    assert (card.name, card.task) == (f"{own_code}:factory", "classification")
    trained = nn.Linear(3, 2)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    network, _ = load(f"{own_code}:factory", str(tmp_path / "w.pt"))
    torch.testing.assert_close(network.weight, trained.weight)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("{}:missing", "a function or class 'missing' in own_.*got none"),
        ("{}:text", "an nn.Module from own_.*:text; got str"),
        ("{}_broken:x", "a module that can be imported; got 'own_.*nothing_of_that_name"),
        ("{}_faulty:x", "a module that can be imported; got 'own_.*no_such_thing"),
        ("{}:failing", "a network from own_.*:failing; got RuntimeError: out of coffee"),
        ("{}_none:x", "a module that can be imported; got 'own_"),
        (":x", "module:factory"),
        ("{}:", "module:factory"),
        (".{}:x", "module"),
        ("no/folder", "a model folder, a card file or module:factory; got no/folder"),
        ("x" * 5000, "a file name that the system can have"),
    ],
)
def test_factories_that_give_no_network(own_code, name, match):
    with pytest.raises(BadInput, match=match):
        load(name.format(own_code))


def test_weights_alone_do_not_say_which_network(tmp_path):
    torch.save({}, tmp_path / "model.pth")
    with pytest.raises(BadInput, match=r"a model folder, a card .* got the file model.pth.*card beside"):
        load(tmp_path / "model.pth")
    with pytest.raises(BadInput, match=r"card.json or card.toml in .*; got \['model.pth'\]"):
        load(tmp_path)


# Row 26: keys.


def test_row_26_all_keys_that_differ_are_listed(tmp_path):
    state = Linear().state_dict()
    state["extra.weight"] = torch.zeros(1)
    state["extra.bias"] = torch.zeros(1)
    del state["second.weight"], state["norm.running_mean"]
    state["first.weight"] = torch.zeros(4, 5)
    torch.save(state, tmp_path / "w.pt")
    network = Linear()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(BadInput) as caught:
        load_weights(network, tmp_path / "w.pt")
    assert caught.value.expected == "weights for this Linear in w.pt"
    assert caught.value.got == (
        "missing keys norm.running_mean, second.weight; unexpected keys extra.bias, extra.weight; "
        "other shapes first.weight (4, 5) instead of (4, 3)"
    )
    torch.testing.assert_close(network.state_dict(), before)


def test_row_26_hundreds_of_keys_are_still_listed(tmp_path):
    wide = nn.Sequential(*[nn.Linear(1, 1) for _ in range(300)])
    torch.save({}, tmp_path / "w.pt")
    with pytest.raises(BadInput) as caught:
        load_weights(wide, tmp_path / "w.pt")
    assert all(key in caught.value.got for key in wide.state_dict())


def test_a_tensor_of_two_names_may_be_saved_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    tied, trained = Tied(), Tied()
    state = trained.state_dict()
    del state["b.weight"]
    save_file(state, tmp_path / "w.safetensors")
    load_weights(tied, tmp_path / "w.safetensors")
    torch.testing.assert_close(tied.state_dict(), trained.state_dict(), rtol=0, atol=0)
    del state["a.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=r"missing keys a.bias"):
        load_weights(Tied(), tmp_path / "w.safetensors")


# Rows 24 and 25: code.


class Harmful:
    """Its pickle would make a folder where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "old pickle", "named safetensors"])
def test_row_24_a_pickle_with_code_is_blocked(tmp_path, kind):
    made = tmp_path / "made"
    path = tmp_path / ("w.safetensors" if kind == "named safetensors" else "w.pt")
    if "pickle" in kind:
        path.write_bytes(pickle.dumps({"a": Harmful(made)}, protocol=2 if kind == "old pickle" else 4))
    else:
        torch.save({"a": Harmful(made)}, path, _use_new_zipfile_serialization=kind != "legacy")
    folder = put_card(tmp_path / "model", CARD | {"weights": path.name})
    path.rename(folder / path.name)
    with pytest.raises(BadInput, match=r"in w\.(pt|safetensors); got ") as caught:
        load(folder)
    assert not made.exists()
    assert "weights_only" not in str(caught.value)  # no hint that would run it after all
    if kind in ("zip", "legacy", "old pickle"):
        assert "a pickle that would run code" in caught.value.got
        assert "mkdir" in caught.value.got
        assert "It was blocked" in caught.value.do


def test_row_24_a_whole_model_is_code_too(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"would run code \(torch.nn.modules.linear.Linear\).*model.state_dict"):
        read_checkpoint(tmp_path / "w.pt")


def test_row_25_torchscript_and_export_are_refused_by_name(tmp_path):
    layer = nn.Linear(2, 2)
    export = torch.export.export(layer, (torch.zeros(1, 2),))
    torch.export.save(export, tmp_path / "w.pt2")
    with pytest.raises(BadInput, match=r"state dict in w.pt2; got an archive of torch.export.*state_dict"):
        read_checkpoint(tmp_path / "w.pt2")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(layer).save(str(tmp_path / "w.pt"))
    with pytest.raises(BadInput, match=r"state dict in w.pt; got a TorchScript archive.*state_dict"):
        read_checkpoint(tmp_path / "w.pt")


# Checkpoints of a training.


def lightning(state: dict[str, torch.Tensor], **more: object) -> dict[str, object]:
    """What Lightning's Trainer writes, in its documented structure."""
    return {
        "epoch": 4,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "best_k_models": {}}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "classes": ["a", "b"]},
        **more,
    }


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "model._orig_mod.", "backbone.encoder."])
def test_a_lightning_checkpoint_s_prefix_is_found(tmp_path, prefix):
    trained, network = Linear(), Linear()
    torch.save(lightning({f"{prefix}{k}": v for k, v in trained.state_dict().items()}), tmp_path / "last.ckpt")
    assert load_weights(network, tmp_path / "last.ckpt") == ()
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_what_stands_outside_the_prefix_is_left_out_and_listed(tmp_path, own_code):
    trained = nn.Linear(3, 2)
    state = {f"net.{k}": v for k, v in trained.state_dict().items()}
    state |= {"loss.weight": torch.ones(2), "train_dice.confmat": torch.zeros(2, 2)}
    torch.save(lightning(state), tmp_path / "last.ckpt")
    note = "last.ckpt: the weights are those under 'net.'; left out: loss.weight, train_dice.confmat"
    with pytest.warns(InputWarning, match=note):
        network, card = load(f"{own_code}:factory", tmp_path / "last.ckpt")
    assert card.notes == (note,)
    torch.testing.assert_close(network.weight, trained.weight)
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(BadInput, match=r"missing keys bias, weight; unexpected keys loss.weight, net.bias"):
        load(f"{own_code}:factory", tmp_path / "bare.pt")


def test_row_26_two_copies_of_the_weights_are_not_chosen_between(tmp_path):
    state = {f"{prefix}{k}": v for prefix in ("model.", "ema_model.") for k, v in Linear().state_dict().items()}
    torch.save(lightning(state), tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match=r"one set of weights .*; got several, under the prefixes model., ema_model\."):
        load_weights(Linear(), tmp_path / "last.ckpt")


def test_row_26_differences_are_told_without_the_prefix(tmp_path):
    state = {f"model.{k}": v for k, v in Linear().state_dict().items() if k != "first.bias"} | {"model.extra": torch.ones(1)}
    torch.save(lightning(state), tmp_path / "last.ckpt")
    with pytest.raises(BadInput) as caught:
        load_weights(Linear(), tmp_path / "last.ckpt")
    assert caught.value.got == "missing keys first.bias; unexpected keys extra"


def test_row_24_hyper_parameters_with_code_are_blocked_unless_trusted(tmp_path):
    from argparse import Namespace

    trained, network, made = Linear(), Linear(), tmp_path / "made"
    state = {f"model.{k}": v for k, v in trained.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save(lightning(state, hyper_parameters=Namespace(lr=1e-3)), path)
    with pytest.raises(BadInput, match=r"got a pickle that would run code \(argparse.Namespace\). It was blocked.*--trust-model"):
        load_weights(network, path)
    torch.save(lightning(state, hyper_parameters={"x": Harmful(made)}), path)
    with pytest.raises(BadInput, match=r"a pickle that would run code"):
        load_weights(network, path)
    assert not made.exists()
    (note,) = load_weights(network, path, trust=True)
    assert (
        note
        == f"last.ckpt is a pickle with code, and was trusted to run code; its SHA-256 is {sha256(path.read_bytes()).hexdigest()}"
    )
    assert made.exists()
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_numbers_of_numpy_are_no_code(tmp_path):
    trained, network = Linear(), Linear()
    logged = {"dice": [np.float64(0.5), np.float32(0.25)], "steps": np.int64(3), "ok": np.bool_(True)}
    for legacy in (False, True):
        torch.save(
            {"state_dict": trained.state_dict(), "logging": logged}, tmp_path / "w.pt", _use_new_zipfile_serialization=legacy
        )
        assert load_weights(network, tmp_path / "w.pt") == ()
    assert read_checkpoint(tmp_path / "w.pt").rest == {"logging": logged}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".SAFETENSORS"])
@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "an empty file"), (b"to be done\n" * 9, "text"), (b"\x89PNG" + bytes(99), "PNG"), (bytes(64), "unknown data")],
)
def test_files_that_hold_no_weights(tmp_path, suffix, content, match):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(BadInput, match=f"safetensors or a state dict in w{suffix}; got .*{match}"):
        read_checkpoint(tmp_path / f"w{suffix}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_weights(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(Linear().state_dict(), path) if suffix == ".safetensors" else torch.save(Linear().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=f"safetensors or a state dict in w{suffix}; got .*whole"):
        read_checkpoint(path)


@pytest.mark.parametrize("given", [[1, 2], {"epoch": 3, "net": {}}, {1: torch.zeros(1)}, torch.zeros(3), "text"])
def test_what_is_no_state_dict_is_refused(tmp_path, given):
    torch.save(given, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"a state dict \(name -> tensor\) in w.pt; got (list|dict|Tensor|str)"):
        read_checkpoint(tmp_path / "w.pt")


def test_missing_weights_are_named(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(BadInput, match=f"weights at {path}; got no file there"):
            read_checkpoint(path)


def test_row_25_a_card_cannot_name_code_without_trust(tmp_path, own_code):
    folder = put_card(tmp_path / "model", CARD | {"network": f"{own_code}:factory", "arguments": {"width": 5}, "weights": "w.pt"})
    trained = nn.Linear(5, 2)
    torch.save(trained.state_dict(), folder / "w.pt")
    with pytest.raises(BadInput, match=f"monai:NAME or radiolucent:NAME; got {own_code}:factory.*--trust-model"):
        load(folder)
    assert not Path(f"{own_code}.ran").exists()
    network, _ = load(folder, trust=True)
    torch.testing.assert_close(network.weight, trained.weight)
    assert Path(f"{own_code}.ran").exists()


@pytest.mark.parametrize(
    "network",
    [
        "monai:NoSuchNet",
        "monai:_private",
        "monai:__loader__",
        "monai:resnet",
        "monai:annotations",
        "monai:get_pretrained_resnet_medicalnet",
        "monai:",
    ],
)
def test_only_networks_of_monai_are_networks(tmp_path, network):
    folder = put_card(tmp_path / "model", CARD | {"network": network, "arguments": {}})
    with pytest.raises(BadInput, match=r"a network of monai.networks.nets; got"):
        load(folder)


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("HoVerNet", {"pretrained_url": "http://127.0.0.1:9/x.pth"}),
        ("resnet18", {"pretrained": True}),
        ("resnet18", {"pretrained": "/etc/passwd"}),
        ("DenseNet121", {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "pretrained": True}),
    ],
)
def test_a_card_cannot_make_a_network_fetch_other_weights(tmp_path, monkeypatch, network, arguments):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it went to the network"))
    folder = put_card(tmp_path / "model", CARD | {"network": f"monai:{network}", "arguments": arguments})
    with pytest.raises(BadInput, match="arguments that fetch nothing; got pretrained"):
        load(folder)


def test_networks_that_fetch_weights_unasked_do_not(tmp_path, monkeypatch):
    from monai.networks.nets import EfficientNetBN

    monkeypatch.setattr(
        "monai.networks.nets.efficientnet.model_zoo.load_url", lambda *_, **__: pytest.fail("it went to the network")
    )
    arguments = {"model_name": "efficientnet-b0", "spatial_dims": 2, "num_classes": 2}
    folder = put_card(tmp_path / "model", CARD | {"network": "monai:EfficientNetBN", "arguments": arguments, "weights": "w.pt"})
    trained = EfficientNetBN(**arguments, pretrained=False)
    torch.save(trained.state_dict(), folder / "w.pt")
    torch.testing.assert_close(load(folder)[0].state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "arguments",
    [{"spatial_dims": 2}, UNET | {"no_such_thing": 1}, UNET | {"spatial_dims": 7}, UNET | {"strides": []}, UNET | {"act": "none"}],
)
def test_arguments_that_the_network_does_not_take(tmp_path, arguments):
    with pytest.raises(BadInput, match=r"(?s)arguments that monai:UNet takes; got .*Correct the card's arguments"):
        load(put_card(tmp_path / "model", CARD | {"arguments": arguments}))


def test_row_27_weights_stay_inside_the_folder(tmp_path):
    save_file(unet().state_dict(), tmp_path / "outside.safetensors")
    folder = put_card(tmp_path / "model")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    for name in (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "link.safetensors",
        "a/../../outside.safetensors",
        "a\0b",
    ):
        put_card(folder, CARD | {"weights": name})
        with pytest.raises(BadInput, match=r"weights inside .*A card may only name files beside it"):
            load(folder)


# Cards.


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (CARD | {"layers": 3, "clases": []}, r"keys among name, task, .* about; got unknown \['layers', 'clases'\], missing \[\]"),
        ({"name": "x"}, r"got unknown \[\], missing \['task', 'network', 'weights'\]"),
        (CARD | {"task": "detection"}, "classification, regression or segmentation; got 'detection'"),
        (CARD | {"task": ["segmentation"]}, "got task: list"),
        (
            CARD | {"name": 3, "classes": "ab", "channels": "1", "arguments": [1]},
            "got name: int, arguments: list, channels: str, classes: str",
        ),
        (CARD | {"classes": ["a", 3]}, "classes"),
        (CARD | {"channels": 0}, "channels"),
        (CARD | {"channels": True}, "channels: bool"),
        (CARD | {"weights": 5}, "weights: int"),
        (CARD | {"preprocessing": "RAS"}, "preprocessing: str"),
        ([], "a table of keys and values.*list"),
        (["name", "task", "network", "weights"], "a table of keys and values.*list"),
        ("5", "a table of keys and values.*int"),
        ("{", "a model card at .*card.json"),
        ("", "a model card at .*card.json"),
        ("[" * 100_000, "a model card at .*card.json"),
    ],
)
def test_bad_cards(tmp_path, values, match):
    with pytest.raises(BadInput, match=match):
        read_card(put_card(tmp_path / "model", values))


def test_a_bad_toml_card_and_one_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"a model card at .*card.toml"):
        read_card(put_card(tmp_path / "model", "name = ", "card.toml"))
    for path in (tmp_path / "none.json", tmp_path / "none" / "card.json"):
        with pytest.raises(BadInput, match=f"a model card at {path}"):
            read_card(path)


def test_null_in_a_card_means_not_given(tmp_path):
    empty = dict.fromkeys(("arguments", "classes", "layer", "output", "preprocessing", "about"))
    card = read_card(put_card(tmp_path / "model", CARD | empty))
    assert card == Card(name="small", task="segmentation", network="monai:UNet", weights="model.safetensors")


def test_row_49_classes_by_name_or_number():
    card = Card("x", "classification", "monai:UNet", "w", classes=("healthy", "ill"))
    assert [card.index(target) for target in ("healthy", "ill", "0", "1")] == [0, 1, 0, 1]
    for target in ("sick", "2", "-1", "Ill", "²", ""):
        with pytest.raises(BadInput, match=f"a target that the model has; got '{target}'. Choose among: 0 healthy, 1 ill"):
            card.index(target)
    assert replace(card, classes=()).index("7") == 7
    with pytest.raises(BadInput, match="names no classes; give a number"):
        replace(card, classes=()).index("ill")


# Preprocessing.


intensities = st.one_of(
    st.none(),
    st.builds(Percentile, st.floats(0, 49), st.floats(51, 100)),
    st.builds(ZScore, st.booleans()),
    st.builds(Window, st.floats(-1e3, 0), st.floats(1, 1e3)),
)
preprocessings = st.builds(
    Preprocessing,
    st.sampled_from([None, "RAS", "LPI", "SAR"]),
    st.none() | st.tuples(*[st.floats(0.1, 9)] * 3),
    st.none() | st.tuples(*[st.integers(1, 99)] * 3),
    st.sampled_from(["centre", "stretch"]),
    intensities,
)


@settings(deadline=None)
@given(preprocessings)
def test_preprocessing_to_a_table_and_back(preprocessing):
    values = preprocessing.as_dict()
    assert Preprocessing.from_dict(values) == preprocessing
    assert Preprocessing.from_dict(json.loads(json.dumps(values))) == preprocessing
    if values:
        import tomllib

        assert Preprocessing.from_dict(tomllib.loads(tomli_w.dumps(values))) == preprocessing


def test_null_in_preprocessing_means_not_given():
    assert Preprocessing.from_dict(dict.fromkeys(("orientation", "spacing", "size", "fit", "intensity"))) == Preprocessing()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"spacings": [1, 1, 1]},
            r"preprocessing keys among orientation, .* around; got \['spacings'\]",
        ),
        ({"orientation": "RAX"}, "three letters.*got 'RAX'"),
        ({"orientation": ""}, "three letters"),
        ({"orientation": 5}, "three letters"),
        ({"spacing": [1, 0, 1]}, r"spacing.*above zero.*got \(1, 0, 1\)"),
        ({"spacing": [1, float("nan"), 1]}, "spacing.*above zero"),
        ({"spacing": 1}, "spacing.*got 1"),
        ({"spacing": ["a", 1, 1]}, "spacing"),
        ({"spacing": [1]}, "spacing.*2 or 3"),
        ({"size": [8, -8, 8]}, "size.*above zero"),
        ({"size": [8.5, 8, 8]}, "size.*whole"),
        ({"size": "888"}, "size"),
        ({"size": [8, 8], "spacing": [1, 1, 1]}, "as many axes"),
        ({"size": [8, 8], "orientation": "RAS"}, "as many axes"),
        ({"fit": "center"}, '"centre" or "stretch"; got \'center\''),
        ({"intensity": {"kind": "minmax"}}, "an intensity kind among percentile, zscore, window; got 'minmax'"),
        ({"intensity": {"kind": ["zscore"]}}, "an intensity kind among"),
        ({"intensity": {}}, "an intensity kind among"),
        ({"intensity": "zscore"}, "an intensity kind among"),
        ({"intensity": {"kind": "window"}}, "settings of intensity window; got .*low"),
        ({"intensity": {"kind": "zscore", "mask": 1}}, "settings of intensity zscore; got .*mask"),
        ({"intensity": {"kind": "zscore", "nonzero": "false"}}, "true or false.*got 'false'"),
        ({"intensity": {"kind": "percentile", "low": 99, "high": 1}}, "0 <= low < high <= 100"),
        ({"intensity": {"kind": "percentile", "low": -5}}, "0 <= low < high <= 100"),
        ({"intensity": {"kind": "percentile", "high": "99"}}, "settings of intensity percentile"),
        ({"intensity": {"kind": "window", "low": 255, "high": 255}}, "low < high"),
        ({"intensity": {"kind": "window", "low": 0, "high": float("nan")}}, "low < high"),
        ("RAS", "a table of preprocessing keys; got str"),
    ],
)
def test_bad_preprocessing(values, match):
    with pytest.raises(BadInput, match=match):
        Preprocessing.from_dict(values)


def by_hand(intensity: Any, channel: np.ndarray) -> np.ndarray:
    """Each intensity kind from its definition, one channel at a time, in float64."""
    values = channel.astype(np.float64)
    if isinstance(intensity, Percentile):
        ranked = np.sort(values.ravel())
        low, high = (
            np.interp(p / 100 * (len(ranked) - 1), np.arange(len(ranked)), ranked) for p in (intensity.low, intensity.high)
        )
        return np.minimum(np.maximum((values - low) / (high - low), 0), 1)
    if isinstance(intensity, ZScore):
        taken = [v for v in values.ravel() if v > 0 or not intensity.nonzero]
        mean = sum(taken) / len(taken)
        return (values - mean) / (sum((v - mean) ** 2 for v in taken) / len(taken)) ** 0.5
    return np.minimum(np.maximum((values - intensity.low) / (intensity.high - intensity.low), 0), 1)


@pytest.mark.parametrize("intensity", [Percentile(), Percentile(5, 80), ZScore(), ZScore(nonzero=True), Window(-1, 2)])
@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 5, 6, 7)])
def test_intensities_by_hand(intensity, shape):
    data = np.maximum(np.random.default_rng(0).normal(1, 2, shape), 0).astype(np.float32)
    data[1] *= 1000  # channels are scaled apart
    scaled = Preprocessing(intensity=intensity)(Volume(data)).data
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [by_hand(intensity, channel) for channel in data], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("intensity", [Percentile(), ZScore(), ZScore(nonzero=True)])
@pytest.mark.parametrize("value", [0, 7, 0.1, -1e9])
def test_a_constant_scan_becomes_zero_and_not_nan(intensity, value):
    scaled = Preprocessing(intensity=intensity)(Volume(np.full((1, 40, 40), value, np.float32))).data
    np.testing.assert_allclose(scaled, 0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("intensity", [Percentile(), ZScore()])
def test_scaling_does_not_depend_on_the_scans_unit(intensity, scale):
    data = np.random.default_rng(0).normal(size=(1, 9, 9)).astype(np.float32)
    one, other = (Preprocessing(intensity=intensity)(Volume(data * np.float32(s))).data for s in (1, scale))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_row_4_axes_must_be_those_of_the_training():
    scan, image = Grid((4, 5, 6), np.eye(4)), Grid((4, 5), np.eye(4))
    for preprocessing in (Preprocessing("RAS"), Preprocessing(spacing=(1, 1, 1)), Preprocessing(size=(8, 8, 8))):
        assert len(preprocessing.grid(scan).shape) == 3
        with pytest.raises(BadInput, match=r"an image of 3 axes, as the model was trained on; got 2 axes of shape \(4, 5\)"):
            preprocessing.grid(image)
    with pytest.raises(BadInput, match=r"an image of 2 axes, as the model was trained on; got 3 axes of shape \(4, 5, 6\)"):
        Preprocessing(size=(8, 8)).grid(scan)


@settings(max_examples=30, deadline=None)
@given(preprocessings.filter(lambda p: not p.spacing or min(p.spacing) > 1))
def test_the_models_grid_is_what_was_asked_for(preprocessing):
    scan = Grid((12, 9, 7), np.array([[0, 0, 2.0, -8], [-1.5, 0, 0, 11], [0, 1, 0, -13], [0, 0, 0, 1]]))
    grid = preprocessing.grid(scan)
    turned = geometry.reorient(scan, preprocessing.orientation or "PSR")
    assert grid.orientation == (preprocessing.orientation or "PSR")
    if preprocessing.size:
        assert grid.shape == preprocessing.size
    if preprocessing.spacing and (preprocessing.fit == "centre" or not preprocessing.size):
        np.testing.assert_allclose(grid.spacing, preprocessing.spacing)
    if preprocessing.size and preprocessing.fit == "stretch" and not preprocessing.spacing:
        assert grid.voxel_mm3 * math.prod(grid.shape) == pytest.approx(scan.voxel_mm3 * math.prod(scan.shape))
    assert turned.orientation == grid.orientation


def test_row_7_a_real_scan_there_and_back(data_folder):
    scan = io.read(data_folder / "ixi" / "t1" / "IXI012-HH-1211-T1_ds.nii.gz")
    assert scan.grid.orientation == "PSR"
    preprocessing = Preprocessing("RAS", size=(80, 136, 96), intensity=Percentile())  # crops two axes, pads one
    image = preprocessing(scan)
    assert (image.grid.orientation, image.grid.shape) == ("RAS", (80, 136, 96))
    back = image.on(scan.grid)
    covered = Volume(np.ones((1, *image.grid.shape), np.uint8), image.affine).on(scan.grid).data == 1
    assert 0.6 < covered.mean() < 0.75  # 80/90 x 96/120
    expected = Percentile()(scan.data).astype(np.float32)
    np.testing.assert_array_equal(back.data[covered], expected[covered])
    assert not back.data[~covered].any()
    planted = np.zeros_like(scan.data)
    planted[0, 40, 70, 60] = 1  # at P 40, S 70, R 60 of 120, 120, 90: axes R, A, S are 60, 119 - 40, 70, less the crop
    assert np.argwhere(Preprocessing("RAS", size=(80, 136, 96))(scan.like(planted)).data[0]).tolist() == [[60 - 5, 79 + 8, 70 - 12]]
