"""`radiolucent train` as a user calls it: exit codes, words, and a folder that other commands take."""

import json
from pathlib import Path

import numpy as np
import pytest
from trainings import recipe, world
from typer.testing import CliRunner

from radiolucent.cli import app
from radiolucent.errors import BadInput
from radiolucent.study.claims import claim

pytest.importorskip("accelerate")


def run(*arguments: object) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.exception


def test_train_and_explain_with_what_was_trained(tmp_path: Path) -> None:
    table = world(tmp_path / "data", 30)
    (tmp_path / "recipe.toml").write_text(recipe(table).to_toml())
    code, printed, _ = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "out", "--seeds", 2, "--json")
    assert code == 0
    summary = json.loads(printed)
    assert summary["seeds"] == [0, 1]
    code, printed, _ = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "out", "--seeds", 2)
    assert (code, "the best in validation" in printed, "balanced_accuracy" in printed) == (0, True, True)
    scan = tmp_path / "data" / "001.npy"
    code, printed, error = run(
        "explain", scan, "--model", tmp_path / "out", "--method", "gradient", "--out", tmp_path / "maps", "--json"
    )
    assert code == 0, error
    (case,) = json.loads(printed)["cases"]
    assert set(case["targets"]) <= {"bare", "cube"}


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path) -> None:
    table = world(tmp_path / "data", 30)
    recipe_file = tmp_path / "recipe.toml"
    for text, message in (
        ("[data]\ntable = 'none.csv'\n[model]\nnetwork = 'radiolucent:Morphometry'\n", "a table"),
        ("[data\n", "a recipe in TOML"),
        (recipe(table).to_toml().replace("Morphometry", "Cartography"), "a network of radiolucent"),
        (recipe(table).to_toml().replace("outputs = 2", "outputs = 3"), r"an output \(1, 2\): bare, cube; got \(1, 3\)"),
        (recipe(table, stopping={"watch": "dice"}).to_toml(), "watch in .stopping. among auroc"),
        (recipe(table, optimiser={"frozen_epochs": 1}).to_toml(), "a part 'encoder' of Morphometry; got the parts blocks, head"),
        (recipe(table, model={"network": "trainings:Plain"}).to_toml(), "trust = true in .model."),
    ):
        recipe_file.write_text(text)
        code, _, error = run("train", recipe_file, "--out", tmp_path / "out")
        assert code == 1
        assert isinstance(error, BadInput)
        with pytest.raises(BadInput, match=message):
            raise error
        assert not list((tmp_path / "out").glob("seed-*"))
    code, _, error = run("train", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert isinstance(error, BadInput)
    code, _, _ = run("train", recipe_file)
    assert code == 2  # wrong usage; `main` makes it 1


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    table = world(tmp_path / "data", 30)
    (tmp_path / "recipe.toml").write_text(recipe(table).to_toml())
    (tmp_path / "file").touch()
    _, _, error = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "file")
    assert isinstance(error, BadInput)
    _, _, error = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "data")
    with pytest.raises(BadInput, match="holds files"):
        raise error or ValueError
    for label in (0, 1):
        (tmp_path / "scans" / f"{label}").mkdir(parents=True)
        for n in range(6):
            np.save(tmp_path / "scans" / f"{label}" / f"{n}.npy", np.full((6, 6, 6), n + label, np.float32))
    asked = recipe(table, data={"table": None, "folder": str(tmp_path / "scans")})
    (tmp_path / "recipe.toml").write_text(asked.to_toml())
    _, _, error = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "scans" / "out")
    with pytest.raises(BadInput, match="a folder outside"):
        raise error or ValueError


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    table = world(tmp_path / "data", 30)
    (tmp_path / "recipe.toml").write_text(recipe(table).to_toml())
    (tmp_path / "out").mkdir()
    assert run("train", tmp_path / "recipe.toml", "--out", tmp_path / "out")[0] == 0
    with claim(tmp_path / "out" / "running" / "lock.json") as ours:
        assert ours
        _, _, error = run("train", tmp_path / "recipe.toml", "--out", tmp_path / "out")
    with pytest.raises(BadInput, match="no other process at"):
        raise error or ValueError
