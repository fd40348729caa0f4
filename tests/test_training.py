"""Training: what is learnt, what a run leaves, and that nothing changes it: kills, parts, caches."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from trainings import CACHED, SIZE, SMALL, Cached, images, recipe, same, world

import radiolucent
from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.training import train
from radiolucent.training.fitting import Fit
from radiolucent.training.folder import Folder
from radiolucent.training.results import _publish

pytest.importorskip("accelerate")
CODE = "from radiolucent.cli import main; main()"


def weights(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"seed-{seed}" / "model.safetensors")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_planted_class_is_learnt_and_the_folder_is_a_model(tmp_path: Path) -> None:
    asked = recipe(world(tmp_path / "data", 80), optimiser={"epochs": 16, "rate": 0.02}, training={"seeds": [0, 1]})
    said: list[str] = []
    summary = train(asked, tmp_path / "out", say=said.append)
    test = {row["measure"]: row for row in summary["measures"] if row["split"] == "test"}
    assert test["auroc"]["mean"] > 0.9
    assert test["auroc"]["seeds"] == 2
    each = [json.loads((tmp_path / "out" / f"seed-{s}" / "metrics.json").read_bytes())["test"]["acc"]["mean"] for s in range(2)]
    assert test["acc"]["mean"] == pytest.approx(np.mean(each))
    assert test["acc"]["sd"] == pytest.approx(np.std(each, ddof=1))
    network, card = radiolucent.load(tmp_path / "out")
    assert (card.classes, card.task, card.about["seed"]) == (("bare", "cube"), "classification", summary["best_in_validation"])
    best = tmp_path / "out" / f"seed-{summary['best_in_validation']}"
    told = {row["case"]: float(row["p(cube)"]) for row in rows(best / "predictions.csv")}
    case = next(iter(told))
    prediction = radiolucent.predict(network, io.read(tmp_path / "data" / case), card.preprocessing)
    assert float(prediction.output.softmax(1)[0, 1]) == pytest.approx(told[case], abs=1e-6)
    assert {p.name for p in best.glob("*.png")} == {"confusion.png", "roc.png", "learning.png"}
    assert (tmp_path / "out" / "summary.png").exists()
    assert list((tmp_path / "out" / "logs" / "seed-0").glob("events*"))
    assert not list((tmp_path / "out" / "running").glob("seed-*"))  # no checkpoint of what is done
    assert any("patient of its own" in text for text in said)


def test_more_seeds_may_be_asked_for_later_and_what_is_there_stays(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    train(recipe(table), tmp_path / "out")
    first = (tmp_path / "out" / "seed-0" / "metrics.json").stat().st_mtime_ns
    summary = train(recipe(table, training={"seeds": [0, 1]}, machine={"checkpoint_seconds": 5}), tmp_path / "out")
    assert summary["seeds"] == [0, 1]
    assert (tmp_path / "out" / "seed-0" / "metrics.json").stat().st_mtime_ns == first
    assert not same(weights(tmp_path / "out", 0), weights(tmp_path / "out", 1))


def test_nothing_random_is_left_behind_and_a_seed_says_it_all(tmp_path: Path) -> None:
    asked = recipe(world(tmp_path / "data"), augmentation={"flip": [0], "rotation": 20}, model=CACHED)
    torch.manual_seed(1)
    train(asked, tmp_path / "a")
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))
    train(asked, tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


LONG: dict[str, Any] = {
    "model": CACHED,
    "optimiser": {
        "epochs": 8, "frozen_epochs": 4, "batch": 4, "accumulate": 2, "kind": "nadam", "schedule": "cosine", "weighted": True,
    },
    "augmentation": {"flip": [0, 2], "translation": 0.1, "views": 2},
    "stopping": {"keep": "best"},
}  # fmt: skip


def start(path: Path, out: Path) -> "subprocess.Popen[bytes]":
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path]), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-c", CODE, "train", str(path), "--out", str(out)], env=environment)


def far(out: Path, epoch: int, step: int) -> bool:
    """Whether a checkpoint at this epoch and step or later is there."""
    found = sorted(p.name for p in (out / "running" / "seed-0").glob("[0-9]*-[0-9]*"))
    return bool(found) and found[-1] >= f"{epoch:06d}-{step:08d}"


@pytest.mark.slow
def test_a_training_that_is_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    (tmp_path / "recipe.toml").write_text(recipe(table, **LONG, machine={"checkpoint_seconds": 0}).to_toml())
    for epoch, step in ((1, 3), (5, 1)):  # with features, in the middle of an epoch; after the encoder has thawed
        process = start(tmp_path / "recipe.toml", tmp_path / "killed")
        end = time.monotonic() + 240
        while not far(tmp_path / "killed", epoch, step):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "seed-0").exists()
        begun = Folder(tmp_path / "killed").resume(0)
        assert begun is not None
        assert begun.progress.epoch >= epoch
    assert start(tmp_path / "recipe.toml", tmp_path / "killed").wait() == 0
    train(recipe(table, **LONG), tmp_path / "whole")  # and with no checkpoint at all
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    for name in ("predictions.csv", "card.json"):
        assert (tmp_path / "killed" / "seed-0" / name).read_bytes() == (tmp_path / "whole" / "seed-0" / name).read_bytes()
    told = [{k: v for k, v in Folder(tmp_path / f).metrics(0).items() if k != "seconds"} for f in ("killed", "whole")]
    assert told[0] == told[1]


def test_a_checkpoint_of_any_step_leads_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill, without processes: stopped at every fourth step."""
    table, short = world(tmp_path / "data", 24), LONG | {"optimiser": LONG["optimiser"] | {"epochs": 3, "frozen_epochs": 1}}
    train(recipe(table, **short), tmp_path / "whole")
    stopped = recipe(table, **short, machine={"checkpoint_seconds": 0})
    write, count = Folder.checkpoint, 0

    def stopping(*given: Any) -> None:
        nonlocal count
        write(*given)
        count += 1
        if count % 4 == 0:
            raise KeyboardInterrupt

    # TensorBoard sorts the files of one second by this number as text: 10 before 9. Real restarts are not within one second.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    monkeypatch.setattr(Folder, "checkpoint", stopping)
    for _ in range(40):
        try:
            train(stopped, tmp_path / "often")
            break
        except KeyboardInterrupt:
            continue
    assert count > 8
    events = EventAccumulator(str(tmp_path / "often" / "logs" / "seed-0")).Reload()
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2, 3]  # what was logged twice counts once
    assert same(weights(tmp_path / "often"), weights(tmp_path / "whole"))


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    for parts in (1, 4):
        train(recipe(table, optimiser={"accumulate": parts, "kind": "sgd"}), tmp_path / f"{parts}")
    one, four = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name in one:
        torch.testing.assert_close(one[name], four[name], rtol=1e-4, atol=1e-6)


def test_features_are_computed_once_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = world(tmp_path / "data")
    frozen = {"optimiser": {"epochs": 5, "frozen_epochs": 5}, "model": CACHED, "training": {"seeds": [0, 1]}}
    asked = recipe(table, **frozen)
    Cached.calls = 0
    with monkeypatch.context() as patch:
        train(recipe(table, **frozen, machine={"part": 3}), tmp_path / "cached")
        calls = Cached.calls
        patch.setattr("radiolucent.training.networks.caches", lambda network: False)
        Cached.calls = 0
        train(asked, tmp_path / "not")
    assert calls < 40 * 2 + 20  # two seeds with encoders of their own (drawn, not read), each image once, and the checks
    assert Cached.calls > 2 * 5 * 25
    for seed in (0, 1):
        one, other = weights(tmp_path / "cached", seed), weights(tmp_path / "not", seed)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_stays_bit_for_bit_and_is_shared_by_the_seeds(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    torch.manual_seed(9)
    first = Cached().state_dict()
    torch.save(first, tmp_path / "first.pt")
    model = {**CACHED, "weights": str(tmp_path / "first.pt")}
    frozen = {"epochs": 2, "frozen_epochs": 2}
    train(recipe(table, optimiser=frozen, model=model, training={"seeds": [0, 1]}), tmp_path / "out")
    kept = weights(tmp_path / "out", 1)
    assert all(torch.equal(kept[name], first[name]) for name in first if name.startswith("encoder"))
    assert not torch.equal(kept["head.1.weight"], first["head.1.weight"])
    assert len(list((tmp_path / "out" / "features").iterdir())) == 1
    said: list[str] = []
    train(recipe(table, optimiser=frozen, model=CACHED), tmp_path / "random", say=said.append)
    train(recipe(table, optimiser=frozen, model=model), tmp_path / "out", say=said.append)
    assert len([text for text in said if "frozen for 2 epochs, and [model] has neither weights" in text]) == 1
    endless = {"flip": [0]}  # nothing to cache: the encoder itself runs, and its batch norm must not move
    train(recipe(table, optimiser=frozen, model=model, augmentation=endless), tmp_path / "endless")
    kept = weights(tmp_path / "endless")
    assert all(torch.equal(kept[name], first[name]) for name in first if name.startswith("encoder"))
    train(recipe(table, optimiser={"epochs": 2, "frozen_epochs": 1}, model=model), tmp_path / "thawed")
    thawed = weights(tmp_path / "thawed")
    assert not torch.equal(thawed["encoder.0.weight"], first["encoder.0.weight"])


def test_features_of_another_network_with_the_same_weights_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first checkpoint, a training may be begun anew in its folder with other arguments."""
    table = world(tmp_path / "data")
    torch.save(Cached().state_dict(), tmp_path / "first.pt")
    model, frozen = {**CACHED, "weights": str(tmp_path / "first.pt")}, {"epochs": 2, "frozen_epochs": 2}
    other = {**model, "arguments": {"axis": 2}}
    with monkeypatch.context() as patch:
        patch.setattr("radiolucent.training.fitting.Fit._close", lambda fit: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe(table, optimiser=frozen, model=model), tmp_path / "out")
    assert len(list((tmp_path / "out" / "features").iterdir())) == 1
    train(recipe(table, optimiser=frozen, model=other), tmp_path / "out")
    train(recipe(table, optimiser=frozen, model=other), tmp_path / "alone")
    assert same(weights(tmp_path / "out"), weights(tmp_path / "alone"))


def test_trainings_that_differ_behind_the_encoder_may_share_its_features(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    torch.save(Cached().state_dict(), tmp_path / "first.pt")
    frozen, shared = {"epochs": 2, "frozen_epochs": 2}, {"features": str(tmp_path / "features")}
    for dropout in (0.2, 0.5):
        model = {**CACHED, "weights": str(tmp_path / "first.pt"), "arguments": {"dropout": dropout}}
        said: list[str] = []
        train(recipe(table, optimiser=frozen, model=model, machine=shared), tmp_path / f"{dropout}", say=said.append)
        assert any(text.startswith("features of") for text in said) == (dropout == 0.2)
        train(recipe(table, optimiser=frozen, model=model), tmp_path / f"{dropout} alone")
        assert same(weights(tmp_path / f"{dropout}"), weights(tmp_path / f"{dropout} alone"))
    assert len(list((tmp_path / "features").iterdir())) == 1
    other = {**CACHED, "weights": str(tmp_path / "first.pt"), "arguments": {"axis": 2}}
    train(recipe(table, optimiser=frozen, model=other, machine=shared), tmp_path / "other")
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_a_head_by_name_is_trained_alone(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    model = {**SMALL, "head": ["head"]}
    train(recipe(table, optimiser={"frozen_epochs": 2, "epochs": 2}, model=model), tmp_path / "head")
    train(recipe(table, optimiser={"frozen_epochs": 2, "epochs": 2, "rate": 1e-9}, model=model), tmp_path / "not")
    one, other = weights(tmp_path / "head"), weights(tmp_path / "not")
    moved = {name for name in one if not torch.allclose(one[name], other[name], atol=1e-6)}
    assert moved == {name for name in one if name.startswith("head")}


def numbers(count: int) -> dict[str, list[float]]:
    data, _ = images(count)
    return {"volume": (5000 + 900 * data[:, 0].mean((1, 2))).tolist(), "width": (0.01 * data[:, 3].mean((1, 2))).tolist()}


@pytest.mark.parametrize("network", ["trainings:Plain", "radiolucent:Morphometry"])
def test_regression_says_values_in_their_own_units(network: str, tmp_path: Path) -> None:
    table = world(tmp_path / "data", 60, **numbers(60))
    arguments = {"outputs": 2} | ({"size": list(SIZE), "channels": [4], "hidden": [8]} if "Morph" in network else {})
    model = {"network": network, "arguments": arguments, "trust": True}
    asked = recipe(
        table,
        training={"task": "regression"},
        data={"label": ["volume", "width"]},
        model=model,
        optimiser={"epochs": 30, "rate": 0.01, "schedule": "cosine", "warmup": 0.1, "clip": 5.0},
    )
    summary = train(asked, tmp_path / "out")
    test = {row["measure"]: row["mean"] for row in summary["measures"] if row["split"] == "test"}
    assert test["pearson"] > 0.5
    model_, card = radiolucent.load(tmp_path / "out", trust=True)
    assert card.task == "regression"
    assert len(card.spread) == 2
    row = rows(tmp_path / "out" / "seed-0" / "predictions.csv")[0]
    with torch.no_grad():
        told = model_(torch.from_numpy(np.load(tmp_path / "data" / row["case"]))[None, None])[0]
    wanted = [float(row["predicted(volume)"]), float(row["predicted(width)"])]
    assert told.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert 3000 < told[0] < 7000
    assert (tmp_path / "out" / "seed-0" / "agreement.png").exists()


def test_multi_label(tmp_path: Path) -> None:
    _, label = images(60)
    table = world(tmp_path / "data", 60, cube=label.tolist(), odd=((np.arange(60) // 3) % 2).tolist())
    data = {"label": ["cube", "odd"], "classes": ["a cube", "odd"]}
    summary = train(
        recipe(table, training={"task": "multi-label"}, data=data, optimiser={"epochs": 12, "weighted": True, "rate": 0.02}),
        tmp_path / "out",
    )
    assert {row["measure"] for row in summary["measures"]} >= {"auroc", "exact_match"}
    assert radiolucent.load(tmp_path / "out")[1].classes == ("a cube", "odd")
    row = rows(tmp_path / "out" / "seed-0" / "predictions.csv")[0]
    assert 0 <= float(row["predicted(a cube)"]) <= 1


def test_pictures_of_unequal_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2D, with weighted sampling and augmentation, in the layout that is the faster one: issue of radiographs."""
    from PIL import Image

    fits: list[Fit] = []
    begun = Fit.run
    monkeypatch.setattr(Fit, "run", lambda fit: fits.append(fit) or begun(fit))

    draw = np.random.default_rng(0)
    for n in range(48):
        pixels = draw.integers(0, 80, (10, 12), np.uint8)
        if n % 6 == 0:
            pixels[2:8, 3:9] += 150
        folder = tmp_path / "data" / ("hand", "leg")[n % 6 == 0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    asked = recipe(
        tmp_path,
        data={"table": None, "folder": str(tmp_path / "data")},
        preprocessing={"preset": "eight-bit", "size": [8, 8], "fit": "stretch"},
        augmentation={"flip": [1], "rotation": 5, "crop": 0.1},
        model={"network": "radiolucent:AnatomyNet", "arguments": {"outputs": 2, "channels": [4, 8], "convolutions": 1}},
        optimiser={"weighted": True, "epochs": 12, "rate": 0.03},
    )
    summary = train(asked, tmp_path / "out")
    assert next(row["mean"] for row in summary["measures"] if row["measure"] == "balanced_accuracy") > 0.8
    assert radiolucent.load(tmp_path / "out")[1].preprocessing.size == (8, 8)
    kernels = [p for p in fits[0].network.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_patience_ends_it_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    stopping = {"keep": "best", "patience": 2, "watch": "loss"}
    asked = recipe(table, optimiser={"epochs": 60, "rate": 0.5}, stopping=stopping)
    train(asked, tmp_path / "out")
    history = rows(tmp_path / "out" / "seed-0" / "history.csv")
    losses = [float(row["val_loss"]) for row in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 3 < 60
    assert Folder(tmp_path / "out").metrics(0)["kept"] == f"epoch {best + 1}"
    # The weights are those of that epoch: a training that ends there has the same.
    train(recipe(table, optimiser={"epochs": best + 1, "rate": 0.5}), tmp_path / "short")
    assert same(weights(tmp_path / "out"), weights(tmp_path / "short"))


def test_patience_counts_from_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.6, 0.55, 0.7, 0.6, 0.65, 0.9])
    monkeypatch.setattr("radiolucent.training.scoring.point", lambda *given: next(values) if given[3] == "auroc" else 0.0)
    train(recipe(world(tmp_path / "data"), optimiser={"epochs": 7}, stopping={"keep": "best", "patience": 2}), tmp_path / "out")
    metrics = Folder(tmp_path / "out").metrics(0)
    assert (metrics["epochs"], metrics["kept"]) == (6, "epoch 4")


def test_images_on_disk_or_made_each_time_train_alike(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    for keep in ("memory", "disk", "nothing"):
        train(recipe(table, machine={"keep": keep, "workers": 2 if keep == "nothing" else 0}), tmp_path / keep)
    assert same(weights(tmp_path / "memory"), weights(tmp_path / "disk"))
    assert same(weights(tmp_path / "memory"), weights(tmp_path / "nothing"))
    assert len(list((tmp_path / "disk" / "prepared").rglob("*.npy"))) == 40


def test_a_full_disk_stops_it_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = world(tmp_path / "data")
    asked = recipe(table, machine={"checkpoint_seconds": 0}, optimiser={"epochs": 3})
    train(asked, tmp_path / "whole")
    put, count = io.put, 0

    def full(path: Path, content: bytes) -> Path:
        nonlocal count
        count += 1
        if count > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(io, "put", full)
        with pytest.raises(OSError, match="No space left"):
            train(asked, tmp_path / "full")
    kept = Folder(tmp_path / "full").resume(0)
    assert kept is not None
    assert kept.progress.step + kept.progress.epoch > 0
    train(asked, tmp_path / "full")
    assert same(weights(tmp_path / "full"), weights(tmp_path / "whole"))


def test_a_changed_recipe_or_changed_cases_are_refused_on_resume(tmp_path: Path) -> None:
    table = world(tmp_path / "data")
    train(recipe(table), tmp_path / "out")
    with pytest.raises(BadInput, match=r"optimiser.rate: 0.01, now 0.1"):
        train(recipe(table, optimiser={"rate": 0.1}), tmp_path / "out")
    with pytest.raises(BadInput, match=r"machine.precision: no, now bf16"):
        train(recipe(table, machine={"precision": "bf16"}), tmp_path / "out")
    table.write_text(table.read_text().replace("003.npy,cube", "003.npy,bare"))
    with pytest.raises(BadInput, match=r"case 003.npy.*cube|case 003.npy"):
        train(recipe(table), tmp_path / "out")


def test_a_validation_that_says_nothing_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    split = ["train", "train", "val", "test"] * 10
    odd = [n // 8 % 2 if split[n] == "train" else 0 for n in range(40)]
    asked = recipe(world(tmp_path / "data", odd=odd, split=split), training={"task": "multi-label"}, data={"label": ["odd"]})
    with pytest.raises(BadInput, match="a validation in which auroc can be measured"):
        train(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_card_never_stands_beside_the_weights_of_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in "ab":
        (tmp_path / seed).mkdir()
        for name in ("model.safetensors", "card.json"):
            (tmp_path / seed / name).write_text(f"{seed} {name}")
    _publish(tmp_path / "a", tmp_path)
    put = io.put

    def killed(path: Path, content: bytes) -> Path:
        put(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(io, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            _publish(tmp_path / "b", tmp_path)
    assert not (tmp_path / "card.json").exists()
    _publish(tmp_path / "b", tmp_path)
    assert {(tmp_path / name).read_text()[0] for name in ("model.safetensors", "card.json")} == {"b"}


def test_each_seed_has_an_accelerator_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    run = Fit.run

    def watching(fit: Fit) -> Any:
        begun.append(fit.accelerator)
        assert len(fit.accelerator._optimizers) == 1
        return run(fit)

    monkeypatch.setattr(Fit, "run", watching)
    train(recipe(world(tmp_path / "data"), training={"seeds": [0, 1]}), tmp_path / "out")
    assert begun[0] is not begun[1]
    assert not begun[0]._models
    assert not begun[0]._optimizers


def test_bfloat16_trains(tmp_path: Path) -> None:
    asked = recipe(world(tmp_path / "data"), machine={"precision": "bf16"}, optimiser={"epochs": 6, "rate": 0.02})
    train(asked, tmp_path / "out")
    history = rows(tmp_path / "out" / "seed-0" / "history.csv")
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "out").values())


def test_a_loss_that_is_no_number_is_named(tmp_path: Path) -> None:
    model = {"network": "trainings:Diverging", "arguments": {"outputs": 2}, "trust": True}
    with pytest.raises(BadInput, match=r"a loss that is a number; got nan in epoch 1, step 1. Lower the rate"):
        train(recipe(world(tmp_path / "data"), model=model), tmp_path / "out")


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Under torch's own launcher, as `accelerate launch` starts them; sums are rounded differently."""
    table = world(tmp_path / "data")
    asked = recipe(table, optimiser={"epochs": 2, "accumulate": 2, "kind": "sgd"})
    (tmp_path / "recipe.toml").write_text(asked.to_toml())
    script = tmp_path / "run.py"
    script.write_text("from radiolucent.cli import main\nmain()\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*launch, "train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "two")], env=environment, check=False
    )
    assert done.returncode == 0
    train(asked, tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
    assert Folder(tmp_path / "two").metrics(0)["test"].keys() == Folder(tmp_path / "one").metrics(0)["test"].keys()
