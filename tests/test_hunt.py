"""`radiolucent hunt`: a network that decides by a letter, on drawn radiographs, is found out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import nn
from typer.testing import CliRunner

from radiolucent import BadInput, load
from radiolucent.cli import app
from radiolucent.methods import AttentiveResponse
from radiolucent.models import AnatomyNet
from radiolucent.provenance import weights_hash
from radiolucent.study.hunting import Asked, hunt_table, read_cases, shown_first

ARGUMENTS = {"outputs": 2, "channels": [3], "convolutions": 1, "kernel": 1, "norm": False}
MANY = 24


def drawn(lettered: bool, seed: int) -> np.ndarray:
    """A limb with two bones, and perhaps a letter beside it, in [0, 1]: only the letter is above 0.9."""
    rng = np.random.default_rng(seed)
    image = np.full((60, 50), 0.02)
    image[:, 15:35], image[3:57, 19:23], image[3:57, 27:30] = 0.35, 0.7 + 0.1 * rng.random(), 0.75
    if lettered:
        image[4:12, 40:46] = 1
    return image - 0.01 * rng.random(image.shape)


def write_model(folder: Path, high: float, inverted: bool) -> Path:
    """Unit 0 sees the letter alone and says hand; unit 1 sees all that is bright and says leg; unit 2 is never active."""
    network = AnatomyNet(**ARGUMENTS).eval()  # type: ignore[arg-type]
    conv, sign = network.blocks[0][0], -1.0 if inverted else 1.0
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([sign, sign, 0.0]).reshape(3, 1, 1, 1))
        conv.bias.copy_(torch.tensor([-0.9, 0.0, -1.0]) + torch.tensor([1.0, 1.0, 0.0]) * inverted)
        network.head.weight.copy_(torch.tensor([[2000.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
        network.head.bias.zero_()
    folder.mkdir()
    save_model(network, str(folder / "weights.safetensors"))
    card = {"name": "letters", "task": "classification", "network": "radiolucent:AnatomyNet", "arguments": ARGUMENTS}
    card |= {"weights": "weights.safetensors", "classes": ["hand", "leg"], "layer": "blocks"}
    card |= {"preprocessing": {"intensity": {"kind": "window", "low": 0.0, "high": high}}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """(table, model). Every sixth image has the letter of the other class: it is misclassified."""
    bits, inverted = getattr(request, "param", (8, False))
    high, rows = 2.0**bits - 1, []
    for i in range(MANY):
        hand, swapped = i % 2 == 0, i % 6 in (4, 5)
        image = drawn(hand != swapped, i)
        pixels = np.round((1 - image if inverted else image) * high)
        Image.fromarray(pixels.astype(np.uint16 if bits == 16 else np.uint8)).save(tmp_path / f"{i:02}.png")
        about = {"case": f"c{i:02}", "image": f"{i:02}.png", "label": "hand" if hand else "leg", "split": "test"}
        rows.append(about | {"patient": f"p{i}", "letter": hand != swapped, "view": "ab"[i // 2 % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "cases.csv", write_model(tmp_path / "model", high, inverted)


def run(*arguments: object) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, ["hunt", *map(str, arguments)])
    return done.exit_code, done.stdout, done.exception


@pytest.mark.parametrize("world", [(8, False), (16, False), (8, True)], indirect=True, ids=["8 bits", "16 bits", "bone is dark"])
def test_the_letter_is_found_and_nothing_else(world: tuple[Path, Path], request: pytest.FixtureRequest) -> None:
    table, model = world
    network, card = load(model)
    inverted = "dark" in request.node.name
    asked = Asked(AttentiveResponse("blocks", n=3, ranking="score"), split="test", inverted=inverted)
    asked = replace(asked, part="absolute") if inverted else asked  # units that look for the dark have negative responses
    found = hunt_table(table, network, card, asked)
    assert not found.failed
    ranking = found.hunt.ranking
    lettered = ranking["case"].map(dict(zip(found.manifest["case"], found.manifest["letter"], strict=True)))
    assert lettered[: lettered.sum()].all(), "the images with the letter come first"
    assert (ranking["outside"][lettered] > 0.95).all()
    assert (ranking["outside"][~lettered] < 0.2).all()
    assert (ranking["predicted"] == np.where(lettered, "hand", "leg")).all()
    assert (~ranking["correct"]).sum() == MANY / 3
    assert set(found.hunt.tests["covariate"]) == {"letter", "view"}, "not the files, the split or the patient"
    assert set(found.hunt.found()["covariate"]) == {"letter"}
    row = found.hunt.tests.query("target == 'all' and covariate == 'letter' and region == ''").iloc[0]
    assert abs(row["effect"]) == 1


def test_the_command_writes_a_page_with_the_misclassified_first(world: tuple[Path, Path], tmp_path: Path) -> None:
    table, model = world
    out = tmp_path / "out"
    code, printed, error = run(
        table, "--model", model, "--out", out, "--pictures", 4, "--json", "--set", "n=2", "--set", "ranking=score"
    )
    assert code == 0, error
    told = json.loads(printed)
    assert told["cases"] == MANY
    assert "tests found something" in told["found"][0]
    assert "letter" in told["found"][1]
    page = (out / "report.html").read_text()
    assert 0 < page.index("Misclassified cases</h2>") < page.index("Correct cases</h2>") < page.index("Ranking</h2>")
    assert page.index("leg, taken for hand") < page.index("Correct cases</h2>")
    assert page.count("data:image/jpeg") == 4 + 1, "a figure for each case with one active unit, and the ranking"
    assert {p.name for p in out.iterdir()} == {
        "report.html",
        "ranking.csv",
        "tests.csv",
        "landmarks.csv",
        "responses.csv",
        "hunt.json",
    }
    assert len(pd.read_csv(out / "ranking.csv")) == MANY
    about = json.loads((out / "hunt.json").read_text())
    assert (about["table"], about["label"], about["target"]) == ("cases.csv", "label", "the class that the network says")
    assert about["weights_sha256"] == weights_hash(load(model)[0])
    assert page.count("Yellow is positive, blue negative") == 3, "once in each panel with pictures"
    assert page.index(">share<") < page.index(">from<") < page.index(">to<") < page.index(">enrichment<"), "the share's interval"
    code, _, error = run(table, "--model", model, "--out", out)
    assert code == 1
    assert "no results yet" in str(error)
    code, printed, error = run(
        table, "--model", model, "--out", out, "--overwrite", "--where", "label == hand", "--method", "gradient"
    )
    assert code == 0, error
    assert "report:" in printed
    assert set(pd.read_csv(out / "ranking.csv")["truth"]) == {"hand"}


def test_misclassified_cases_are_drawn_first_and_some_correct_ones() -> None:
    ranking = pd.DataFrame({"case": list("abcdefgh"), "correct": [True, False] * 4})
    assert shown_first(ranking, 3) == ["b", "d", "a"]
    assert shown_first(ranking, 8) == ["b", "d", "f", "h", "a", "c", "e", "g"]
    assert shown_first(ranking[ranking["correct"]], 2) == ["a", "c"]
    assert shown_first(ranking[~ranking["correct"]], 2) == ["b", "d"]


def test_a_mask_stands_in_for_the_rule(world: tuple[Path, Path]) -> None:
    table, model = world
    rows = pd.read_csv(table)
    anatomy = np.zeros((60, 50), np.uint8)
    anatomy[:, 36:] = 7  # the letter's side
    Image.fromarray(anatomy).save(table.parent / "anatomy.png")
    rows.assign(mask="anatomy.png").to_csv(table, index=False)
    network, card = load(model)
    found = hunt_table(table, network, card, Asked(AttentiveResponse("blocks", n=2, ranking="score")))
    lettered = found.hunt.ranking["predicted"] == "hand"
    assert (found.hunt.ranking["outside"][lettered] < 1e-6).all()
    assert (found.hunt.ranking["outside"][~lettered] > 0.9).all()


def test_one_class_can_be_explained_in_all_cases(world: tuple[Path, Path]) -> None:
    table, model = world
    network, card = load(model)
    found = hunt_table(table, network, card, Asked(AttentiveResponse("blocks", n=2, ranking="score"), target="leg"))
    assert (found.hunt.ranking["outside"] < 0.3).all(), "what speaks for leg is the limb, also where the letter is"
    assert set(found.hunt.ranking["predicted"]) == {"hand", "leg"}
    with pytest.raises(BadInput, match="a target that the model has; got 'foot'"):
        hunt_table(table, network, card, Asked(AttentiveResponse("blocks"), target="foot"))


def test_a_case_that_fails_does_not_take_the_others_along(world: tuple[Path, Path], tmp_path: Path) -> None:
    table, model = world
    colour = np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)
    Image.fromarray(colour).save(table.parent / "00.png")
    (table.parent / "01.png").write_bytes(b"")
    Image.fromarray(np.zeros((60, 50), np.uint8)).save(table.parent / "02.png")  # in which no unit is active
    done = CliRunner().invoke(app, ["hunt", str(table), "--model", str(model), "--out", str(tmp_path / "out"), "--pictures", "1"])
    code, error = done.exit_code, done.exception
    assert done.output.count("instead of n = 25") == 1, "each note once"
    assert code == 3, error
    failed = json.loads((tmp_path / "out" / "hunt.json").read_text())["failed"]
    assert set(failed) == {"c00", "c01", "c02"}
    assert "a colour image (mode RGB). Choose --colour grey" in failed["c00"]
    assert "an empty file" in failed["c01"]
    assert "a unit of layer 'blocks' that is active; got none by score" in failed["c02"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "c01 failed: expected an image" in page
    assert "units: all are taken, instead of n = 25" in page
    run(table, "--model", model, "--out", tmp_path / "grey", "--pictures", 1, "--colour", "grey")
    assert set(json.loads((tmp_path / "grey" / "hunt.json").read_text())["failed"]) == {"c01", "c02"}


def test_a_network_without_convolutions_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    table, _ = world
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3000, 2))
    _, card = load(world[1])
    with pytest.raises(BadInput, match="a case that can be answered; got none of 24: expected a layer"):
        hunt_table(table, flat, card, Asked(AttentiveResponse()))


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (lambda t: t.drop(columns="label"), [], "the columns label in cases.csv"),
        (lambda t: t, ["--split", "train"], "cases whose split is 'train' in cases.csv; got test"),
        (
            lambda t: t.assign(label="foot"),
            [],
            "a class that the model has; got 'foot' for c00 in the column label of cases.csv. Choose among: 0 hand, 1 leg.",
        ),
        (lambda t: t.assign(label=[None, *t["label"][1:]]), [], "a class that the model has; got '' for c00 in the column label"),
        (lambda t: pd.concat([t, t[:1]]), [], "cases, each once; got 'c00' twice"),
        (lambda t: t, ["--covariate", "hardware"], "the covariates hardware among the table's columns"),
        (lambda t: t, ["--where", "label == foot"], "cases, each once; got none"),
        (lambda t: t, ["--method", "attentiv"], "attentiv"),
        (lambda t: t, ["--set", "n=0"], "n"),
    ],
)
def test_what_cannot_be_hunted_in(world: tuple[Path, Path], tmp_path: Path, change: Any, arguments: list[str], said: str) -> None:
    table, model = world
    change(pd.read_csv(table)).to_csv(table, index=False)
    code, _, error = run(table, "--model", model, "--out", tmp_path / "out", *arguments)
    assert code == 1
    assert isinstance(error, BadInput)
    assert said in str(error)
    assert not (tmp_path / "out").exists()


def test_a_regression_has_no_classes_to_mistake(world: tuple[Path, Path]) -> None:
    table, model = world
    card = json.loads((model / "card.json").read_text()) | {"task": "regression"}
    (model / "card.json").write_text(json.dumps(card))
    network, read = load(model)
    with pytest.raises(BadInput, match="a classifier for a bias hunt; got letters, a model for regression"):
        hunt_table(table, network, read, Asked(AttentiveResponse()))


def test_a_folder_of_something_else_is_not_replaced(world: tuple[Path, Path], tmp_path: Path) -> None:
    table, model = world
    shutil.copytree(model, tmp_path / "mine")
    code, _, error = run(table, "--model", model, "--out", tmp_path / "mine", "--overwrite")
    assert code == 1
    assert "an earlier hunt to overwrite" in str(error)
    assert (tmp_path / "mine" / "card.json").is_file()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "holds an input"),
        ("cases.csv", "a folder for the results; got"),
        ("/proc/hunt", "a folder that can be written to"),
    ],
)
def test_a_bad_place_for_the_results_is_refused_before_any_work(world: tuple[Path, Path], out: str, said: str) -> None:
    table, model = world
    (table.parent / "hunt.json").write_text("{}")
    code, printed, error = run(table, "--model", model, "--out", table.parent / out, "--overwrite")
    assert code == 1
    assert isinstance(error, BadInput)
    assert said in str(error)
    assert table.is_file()
    assert (model / "card.json").is_file()
    assert "drawing" not in printed


def test_a_setting_of_ones_own_leaves_the_ranking_by_score(world: tuple[Path, Path], tmp_path: Path) -> None:
    table, model = world
    for number, (settings, ranking) in enumerate(((["n=2"], "score"), (["n=2", "ranking=sum"], "sum"))):
        out = tmp_path / f"out{number}"
        given = [word for setting in settings for word in ("--set", setting)]
        code, _, error = run(
            table, "--model", model, "--out", out, "--pictures", 1, "--where", "label == hand and view == a", *given
        )
        assert code == 0, error
        about = json.loads((out / "hunt.json").read_text())
        assert f"n=2, ranking='{ranking}'" in about["method"]


def test_an_empty_cell_is_not_the_table_s_folder(world: tuple[Path, Path]) -> None:
    """Which is read as a DICOM series, if one lies there."""
    table, model = world
    rows = pd.read_csv(table)
    rows.assign(image=[None, *rows["image"][1:]]).to_csv(table, index=False)
    network, card = load(model)
    found = hunt_table(table, network, card, Asked(AttentiveResponse("blocks", n=2, ranking="score"), split="test"))
    assert dict(found.failed) == {"c00": "expected a file in the column image; got an empty cell. Fill it in."}


def test_training_cases_among_the_others_are_said(world: tuple[Path, Path]) -> None:
    table, model = world
    rows = pd.read_csv(table)
    rows.assign(split=["train", "test"] * (MANY // 2)).to_csv(table, index=False)
    network, card = load(model)
    asked, told = Asked(AttentiveResponse("blocks", n=2, ranking="score")), []
    found = hunt_table(table, network, card, asked, say=told.append)
    assert found.notes[0] == "cases of test, train are hunted in together: choose one with --split"
    assert told[0] == f"note: {found.notes[0]}"
    assert len(hunt_table(table, network, card, replace(asked, split="test")).manifest) == MANY / 2


def test_the_table_names_its_classes_by_name_or_number(world: tuple[Path, Path]) -> None:
    table, model = world
    rows = pd.read_csv(table)
    rows.assign(label=[0 if name == "hand" else 1 for name in rows["label"]]).to_csv(table, index=False)
    _, card = load(model)
    assert set(read_cases(table, card, Asked(AttentiveResponse()))["truth"]) == {"hand", "leg"}
