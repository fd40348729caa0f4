"""Planted truth: what is planted decides the label, and nothing else does; worlds on disk; maps against the truth."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from radiolucent import BadInput, Volume, io, load
from radiolucent.cli import app
from radiolucent.methods import METHODS
from radiolucent.methods.naming import label_of
from radiolucent.methods.small import SMALL, small
from radiolucent.models.loading.factories import build
from radiolucent.worlds import (
    WORLDS,
    Context,
    Distractor,
    Head,
    Interaction,
    Lesion,
    StructureVolume,
    Training,
    drawn,
    effects,
    fit,
    head_of,
    locate,
    make,
    parted,
    performance,
    read_heads,
    scans_folder,
    world_of,
    write,
)
from radiolucent.worlds.learning import network_of
from radiolucent.worlds.planting import begin

SIZE = 24
pytest.importorskip("accelerate")

RULES: dict[str, Callable[[dict[str, bool]], bool]] = {
    "lesion": lambda there: there["lesion"],
    "distractor": lambda there: there["lesion"],
    "interaction": lambda there: there["left-ball"] and there["right-ball"],
    "volume": lambda there: there["structure"],
    "context": lambda there: there["structure"] and there["cue"],
}
"""What the worlds' pages say: whether the output is there, from what is there."""


def scan(number: int) -> Volume:
    """A bright ellipsoid with a darker core, in LIA, with air around it."""
    axes = [np.linspace(-1, 1, n) for n in (36, 40, 32)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    reach = np.sqrt(x**2 + (y * 1.05) ** 2 + (z / 1.05) ** 2) / (0.8 + 0.02 * number)
    data = np.where(reach < 1, np.where(reach < 0.9, 60.0, 100.0), 0.0) + np.random.default_rng(number).random(x.shape)
    affine = np.array([[-6.0, 0, 0, 90], [0, 0, 6, -90], [0, -6, 0, 100], [0, 0, 0, 1]])
    return Volume(data[None].astype(np.float32), affine)


@pytest.fixture(scope="module")
def heads() -> tuple[Head, ...]:
    return tuple(head_of(scan(n), f"scan-{n}", SIZE) for n in range(3))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for n in range(3):
        io.write(folder / f"scan-{n}.nii.gz", scan(n))
    return folder


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a.image, b.image) and np.array_equal(a.target, b.target) and np.array_equal(a.truth, b.truth))


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_planted_decides_and_nothing_else(name: str, heads: tuple[Head, ...]) -> None:
    """Every intervention changes the image in its own mask alone, and the label as the world's page says."""
    world = WORLDS[name]()
    for seed in range(6):
        bare = world.case(heads, seed, dict.fromkeys(world.parts, False))
        whole = world.case(heads, seed, dict.fromkeys(world.parts, True))
        for values in itertools.product((False, True), repeat=len(world.parts)):
            there = dict(zip(world.parts, values, strict=True))
            case = world.case(heads, seed, there)
            planted = np.logical_or.reduce([np.zeros(case.truth.shape, bool), *(whole.masks[p] for p in there if there[p])])
            assert set(case.masks) == {part for part in there if there[part]}
            assert np.array_equal(case.image[0] != bare.image[0], planted)  # inside it changes, everywhere; outside nowhere
            given = RULES[name](there)
            assert bool(np.any(case.target)) == given
            caused = [case.masks[part] for part in world.cause if given]
            assert np.array_equal(case.truth, np.logical_or.reduce([np.zeros_like(case.truth), *caused]))
        for a, b in itertools.combinations(whole.masks.values(), 2):
            assert not (a & b).any()


@pytest.mark.parametrize("name", WORLDS)
def test_a_seed_is_a_case(name: str, heads: tuple[Head, ...]) -> None:
    world = WORLDS[name]()
    assert same(world.case(heads, 5), world.case(heads, 5))
    assert not np.array_equal(world.case(heads, 5).image, world.case(heads, 6).image)
    drawn_so = {part: part in world.case(heads, 5).masks for part in world.parts}
    assert same(world.case(heads, 5), world.case(heads, 5, drawn_so))  # saying what chance says changes nothing
    assert world.case(heads, 5).image.shape == (1, SIZE, SIZE, SIZE)
    assert world.case(heads, 5).image.dtype == np.float32


@pytest.mark.parametrize("name", WORLDS)
def test_what_causes_lies_inside_the_head(name: str, heads: tuple[Head, ...]) -> None:
    world = WORLDS[name]()
    for seed in range(20):
        case = world.case(heads, seed, dict.fromkeys(world.parts, True))
        depth = begin(heads, seed)[0].depth
        for part in world.parts:
            assert ((depth > 0)[case.masks[part]]).all() == (part != "marker")
        if name == "interaction":
            assert case.masks["left-ball"].any((1, 2))[: SIZE // 2].any()
            assert not case.masks["left-ball"][SIZE // 2 :].any()
            assert not case.masks["right-ball"][: SIZE // 2].any()


def test_chances_are_those_of_the_page(heads: tuple[Head, ...]) -> None:
    cases = drawn(Distractor(), heads, 0, 400)
    assert np.mean([case.target for case in cases]) == pytest.approx(0.5, abs=0.08)
    agrees = [("marker" in case.masks) == bool(case.target) for case in cases]
    assert np.mean(agrees) == pytest.approx(0.9, abs=0.05)
    fair = [("marker" in case.masks) == bool(case.target) for case in drawn(Distractor().fair(), heads, 0, 400)]
    assert np.mean(fair) == pytest.approx(0.5, abs=0.08)
    kinds = [tuple(part in case.masks for part in ("left-ball", "right-ball")) for case in drawn(Interaction(), heads, 0, 600)]
    shares = {kind: kinds.count(kind) / 600 for kind in set(kinds)}
    assert shares[True, True] == pytest.approx(0.5, abs=0.07)
    assert all(shares[kind] == pytest.approx(1 / 6, abs=0.05) for kind in ((False, False), (True, False), (False, True)))
    assert np.mean([case.target.any() for case in drawn(Context(), heads, 0, 400)]) == pytest.approx(0.5, abs=0.08)


def test_the_volume_is_what_was_added(heads: tuple[Head, ...]) -> None:
    world = StructureVolume(contrast=0.5)
    for seed in range(5):
        case, bare = (world.case(heads, seed, {"structure": there}) for there in (True, False))
        assert float((case.image - bare.image).sum()) / 0.5 == pytest.approx(case.target, rel=1e-4)
        assert bare.target == 0
    full = world_of(WORLDS, "volume", ["radius=3,3"]).case(heads, 0)
    assert full.target == pytest.approx(4 / 3 * np.pi * 27, rel=0.1)  # of a ball


def test_heads_are_upright_cubes_with_air_at_zero(heads: tuple[Head, ...], scans: Path) -> None:
    first = heads[0]
    assert first.grid.orientation == "RAS"
    assert len(set(np.round(first.grid.spacing, 6))) == 1
    assert (first.depth > 0).mean() == pytest.approx((first.image > 0.3).mean(), abs=0.08)
    centre = first.affine @ [*np.argwhere(first.depth > 0).mean(0), 1]
    from_file = scan(0).affine @ [17.5, 19.5, 15.5, 1]  # the ellipsoid's middle
    np.testing.assert_allclose(centre, from_file, atol=first.grid.spacing[0])
    assert np.array_equal(read_heads(scans, SIZE)[0].image, first.image)
    known, unseen = parted(heads)
    assert [h.name for h in (*known, *unseen)] == [h.name for h in heads]
    assert len(unseen) == 1


def test_the_cue_is_darker_than_air(heads: tuple[Head, ...]) -> None:
    """The darkest voxel tells whether it is there; the structure looks the same with it and without."""
    tops, lows = {}, {}
    for there in (True, False):
        cases = [Context().case(heads, seed, {"cue": there}) for seed in range(30)]
        lows[there] = np.array([case.image.min() for case in cases])
        tops[there] = [case.image[0][case.masks["structure"]] for case in cases]
    assert lows[True].max() < lows[False].min()
    assert all(np.array_equal(a, b) for a, b in zip(tops[True], tops[False], strict=True))


def test_every_voxel_of_a_segmentation_can_see_every_other() -> None:
    """With weights above zero nothing cancels: the gradient is zero only where nothing is seen."""
    network = build(*network_of(Context(), SIZE)[:2], trust=False).eval()
    for weight in network.parameters():
        weight.data.abs_()
    for voxel in ((2, 2, 2), (12, 3, 20), (21, 21, 21)):
        image = torch.ones(1, 1, SIZE, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
        network.double()(image)[(0, 1, *voxel)].backward()
        assert image.grad is not None
        assert (image.grad > 0).all()


@pytest.mark.parametrize("world", [Lesion(), StructureVolume(), Context()], ids=lambda w: w.task)
def test_a_seed_is_a_training(world: Any, heads: tuple[Head, ...]) -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    short = Training(steps=3, batch=4)
    one, again = (fit(world, heads, short)[1] for _ in range(2))
    other = fit(world, heads, Training(steps=3, batch=4, seed=1))[1]
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


class Eye(nn.Module):
    """It sees the brightest voxel, either in the image's corners alone or everywhere else."""

    def __init__(self, air: bool) -> None:
        super().__init__()
        self.air = air

    def forward(self, x: Tensor) -> Tensor:
        near = torch.arange(SIZE) % (SIZE - 5) < 5
        corners = near[:, None, None] & near[:, None] & near
        seen = (x * corners - 0.5 if self.air else x * ~corners - 2).flatten(1).amax(1)
        return torch.stack([torch.zeros_like(seen), 10 * seen], 1)


def test_interventions_tell_who_uses_the_marker(heads: tuple[Head, ...]) -> None:
    world = Distractor(contrast=(3.0, 3.0)).fair()
    for air, used in ((False, "lesion"), (True, "marker")):
        rows = {row["part"]: row for row in effects(world, Eye(air), heads, 12)}
        unused = ({"lesion", "marker"} - {used}).pop()
        assert rows[used]["flipped"] > 0.9
        assert rows[used]["change"] > 1
        assert rows["lesion"]["cause"]
        assert not rows["marker"]["cause"]
        if used == "lesion":
            assert rows[unused]["change"] == 0
            assert rows[unused]["flipped"] == 0


def test_performance_of_known_outputs(heads: tuple[Head, ...]) -> None:
    cases = drawn(Lesion(), heads, 0, 10)
    truth = np.array([case.target for case in cases])
    said = np.eye(2)[np.where(np.arange(10) < 8, truth, 1 - truth)]
    assert performance(Lesion(), cases, said)["accuracy"] == 0.8
    sizes = drawn(StructureVolume(), heads, 0, 10)
    values = np.array([case.target for case in sizes])
    found = performance(StructureVolume(), sizes, 2 * values[:, None] + 1)
    assert found["r"] == pytest.approx(1)
    assert found["mae"] == pytest.approx(np.abs(values + 1).mean())
    maps = drawn(Context(), heads, 0, 12)
    labels = np.stack([case.target for case in maps])
    assert performance(Context(), maps, labels) == {"cases": 12, "right": 1, "dice": 1, "silent without cue": 1}
    assert performance(Context(), maps, labels * 0)["dice"] == 0
    assert performance(Context(), maps, labels * 0 + 1)["silent without cue"] == 0


@pytest.fixture(scope="module", params=["distractor", "volume", "context"])
def made(request: pytest.FixtureRequest, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    world = WORLDS[request.param]()
    out = tmp_path_factory.mktemp("worlds") / request.param
    make(world, scans, out, Training(steps=2, batch=4), size=SIZE, cases=6, tested=12)
    return world, out


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_layout_on_disk(made: tuple[Any, Path], heads: tuple[Head, ...]) -> None:
    world, out = made
    rows = rows_of(out)
    own = ["segmentation"] if world.task == "segmentation" else []
    assert list(rows[0]) == ["case", "file", "label", "predicted", "right", "truth", *own, *world.parts]
    assert len(rows) == 6
    network, card = load(str(out / "model"))
    assert card.task == world.task
    from radiolucent.worlds.testing import SEED

    for n, row in enumerate(rows):
        case = world.fair().case(parted(heads)[1], SEED + n)
        image = io.read(out / row["file"])
        np.testing.assert_array_equal(image.data, case.image)
        assert image.grid == card.preprocessing(image).grid  # a map comes back on the same voxels
        assert row["label"] == case.label
        assert bool(row["truth"]) == case.truth.any()
        for column, mask in {"truth": case.truth, **{part: case.masks.get(part) for part in world.parts}}.items():
            if row[column]:
                np.testing.assert_array_equal(io.read_labels(out / row[column]).data[0], mask)
        with torch.no_grad():
            said = network.eval()(torch.from_numpy(image.data)[None])
        if world.task == "classification":
            assert row["predicted"] == card.classes[int(said.argmax())]
            assert (row["right"] == "yes") == (row["predicted"] == row["label"])
        if world.task == "regression":
            assert float(row["predicted"]) == pytest.approx(float(said), abs=0.01)
    facts = json.loads((out / "world.json").read_text())
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["settings"].items()}
    assert WORLDS[facts["world"]](**settings) == world
    assert [head["split"] for head in facts["heads"]] == ["train", "train", "test"]
    assert all(len(head["sha256"]) == 64 for head in facts["heads"])
    assert "image = " in facts["equation"]
    assert {row["part"] for row in facts["effects"]} == set(world.parts)


@pytest.mark.parametrize("kind", WORLDS.values())
def test_no_part_has_the_name_of_another_column(kind: Any) -> None:
    """`right` once was the ball in the right half and whether the network is right."""
    columns = ("case", "file", "label", "predicted", "right", "truth", "segmentation", *kind.parts)
    assert len(set(columns)) == len(columns)


def test_a_world_is_there_whole_or_not_at_all(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radiolucent.worlds.making.effects", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(Lesion(), scans, tmp_path / "out", Training(steps=1, batch=2), size=SIZE, cases=1, tested=2)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(BadInput, match="no folder yet"):
        make(Lesion(), scans, tmp_path / "out", Training(steps=1, batch=2), size=SIZE, cases=1, tested=2)


def use_all(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the network were right in all cases."""
    rows = [{**row, "right": "yes"} for row in rows_of(out)]
    used = [row for row in rows if row["truth"]]
    if not used:
        pytest.skip("no case with a truth among so few")
    facts = json.loads((out / "world.json").read_text())
    monkeypatch.setattr("radiolucent.worlds.locating.read_world", lambda folder: (facts, used))


class Above(nn.Module):
    """Logits (-f, f) with f = sum_p relu(x - 2): what is brighter than 2, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 2).relu().flatten(1).sum(1)
        return torch.stack([-score, score], 1)


def test_maps_that_are_known_are_located(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is the cause itself: input x gradient lies on the lesion, all of it, and none on the marker."""
    out = tmp_path / "world"
    make(Distractor(contrast=(3.0, 3.0)), scans, out, Training(steps=1, batch=2), size=SIZE, cases=12, tested=12)
    table = (out / "cases.csv").read_text().replace(",no,", ",yes,")
    (out / "cases.csv").write_text(table)
    card = load(str(out / "model"))[1]
    monkeypatch.setattr("radiolucent.worlds.locating.load", lambda path: (Above(), card))
    found = locate(out, ["input-x-gradient", "random-map"], cases=4)
    rows = {row["method"]: row for row in found.rows()}
    assert list(rows) == ["input-x-gradient", "random-map"]  # the better one first
    best, chance = rows["input-x-gradient"], rows["random-map"]
    assert best["cases"] == 4
    assert best["pointing-game"] == best["energy-pointing-game"] == best["on lesion"] == 1
    assert best["on marker"] == 0
    assert best["auroc"] > 0.7
    assert chance["energy-pointing-game"] < 0.05
    assert 0 < chance["on marker"] < 0.05
    assert abs(chance["auroc"] - 0.5) < 0.1
    lines = found.markdown().splitlines()
    assert lines[0] == "**distractor**"
    assert "on marker" in lines[2]
    assert lines[4].startswith("| input-x-gradient |  |  | 1.000 | 1.000 |")


def test_settings_and_layers_have_a_row_each(made: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Named alone, a method has the settings for small grids; with settings, those; and each layer is another row."""
    _, out = made
    layers = ["blocks.0", "blocks.1"] if made[0].task == "classification" else []
    use_all(out, monkeypatch)
    found = locate(out, ["occlusion", "occlusion(window=12, stride=12)", "occlusion()", "hires-cam"], layers=layers, cases=1)
    rows = {(row["method"], row["settings"], row["layer"]): row for row in found.rows()}
    assert len(rows) == len(found.rows())
    windows = {settings for method, settings, _ in rows if method == "occlusion"}
    assert windows == {"window=4, stride=2", "window=12, stride=12", ""}
    if layers:
        assert {layer for method, _, layer in rows if method == "hires-cam"} == set(layers)
        assert all(settings == "" for method, settings, _ in rows if method == "hires-cam")
    for (method, settings, layer), row in rows.items():  # as the scores say, by themselves
        (own,) = [
            r["value"]
            for r in found.scores.rows()
            if (r["method"], r["layer"], r["metric"], r["region"]) == (method, layer, "auroc", "truth")
            and found.settings[r["method"], r["settings"], r["layer"]] == settings
        ]
        assert row["auroc"] == pytest.approx(own, nan_ok=True)
        assert row["seconds"] > 0


def test_the_settings_for_small_grids_are_settings() -> None:
    assert set(SMALL) <= set(METHODS)
    for name, text in SMALL.items():
        method = small(name)
        assert isinstance(method, METHODS[name])
        assert label_of(method) == text  # none of them is the usual one
        assert small(f"{name}()") == METHODS[name]()
    assert small("occlusion(window=6)") == METHODS["occlusion"](window=6)
    assert small("gradient") == METHODS["gradient"]()


def test_what_locate_writes_is_there_whole_or_not_at_all(
    made: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = made
    use_all(out, monkeypatch)
    found = locate(out, ["gradient"], cases=2)
    write(tmp_path / "located", [found])
    assert (tmp_path / "located" / "located.md").read_text() == found.markdown() + "\n"
    with (tmp_path / "located" / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert {row["world"] for row in scores} == {found.world}
    assert [float(row["value"]) for row in scores] == pytest.approx([row["value"] for row in found.scores.rows()], nan_ok=True)
    with pytest.raises(BadInput, match="one that holds files"):
        write(tmp_path / "located", [found])
    monkeypatch.setattr("radiolucent.worlds.locating.write_table", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "other", [found])
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "located", [found], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["located"]
    assert (tmp_path / "located" / "scores.csv").exists()


def test_all_methods_are_tried_and_those_without_a_map_say_why(made: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = made
    use_all(out, monkeypatch)
    cheap = {name: METHODS[name] for name in ("gradient", "grad-cam", "times", "attention-rollout")}
    monkeypatch.setattr("radiolucent.worlds.locating.METHODS", cheap)
    found = locate(out, cases=1)
    assert {"gradient", "random-map", "edge-map"} <= {row["method"] for row in found.rows()}
    assert {"times", "attention-rollout"} <= set(found.failed)
    assert "No map, in one case or more:" in found.markdown()


def test_the_command_line(scans: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "lesion"
    options = ["--scans", str(scans), "--out", str(out), "--size", str(SIZE), "--steps", "1", "--cases", "12", "--tested", "12"]
    done = runner.invoke(app, ["worlds", "make", "lesion", "--set", "contrast=1,1.5", *options])
    assert done.exit_code == 0, done.output
    assert "lesion (cause): changes the output by" in done.output
    assert json.loads((out / "world.json").read_text())["settings"]["contrast"] == [1.0, 1.5]
    (out / "cases.csv").write_text((out / "cases.csv").read_text().replace(",no,", ",yes,"))
    options = ["--methods", "gradient", "--methods", "grad-cam", "--layer", "blocks.1.2", "--layer", "blocks.2.2"]
    done = runner.invoke(app, ["worlds", "locate", str(out), *options, "--cases", "1", "--out", str(tmp_path / "located")])
    assert done.exit_code == 0, done.output
    assert "| gradient |" in done.output
    assert (tmp_path / "located" / "located.csv").read_text().startswith("world,method,settings,layer,pointing-game")
    said = (tmp_path / "located" / "located.md").read_text()
    assert said.strip() in done.output
    assert all(f"grad-cam |  | {layer}" in said or f"grad-cam at {layer}" in said for layer in ("blocks.1.2", "blocks.2.2"))
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "world.json").write_text("{}")
    (nothing / "cases.csv").write_text("case,right,truth\ncase-000,no,truth.nii.gz\n")
    late = runner.invoke(app, ["worlds", "locate", str(out), str(nothing)])
    assert "a truth that the network gets right" in str(late.exception)
    assert "case-00" not in late.output  # told before the first world's first map
    wrong = runner.invoke(app, ["worlds", "locate", str(out), "--methods", "occlusion(windows=3)"])
    assert wrong.exit_code != 0


def test_bad_inputs(heads: tuple[Head, ...], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADIOLUCENT_DATA", raising=False)
    with pytest.raises(BadInput, match="a folder of scans to plant into; got none"):
        scans_folder(None)
    monkeypatch.setenv("RADIOLUCENT_DATA", "/somewhere")
    assert scans_folder(None) == Path("/somewhere/ixi/t1")
    with pytest.raises(BadInput, match="nothing there"):
        read_heads(tmp_path / "absent")
    io.write(tmp_path / "one.nii.gz", scan(0))
    with pytest.raises(BadInput, match=r"3 scans or more.*; got 1\."):
        read_heads(tmp_path)
    with pytest.raises(BadInput, match="a multiple of 8"):
        read_heads(scans, 20)
    with pytest.raises(BadInput, match="air around something in flat"):
        head_of(Volume(np.ones((1, 8, 8, 8), np.float32)), "flat", 16)
    with pytest.raises(BadInput, match="a 3D scan of one channel as picture"):
        head_of(Volume(np.ones((1, 8, 8), np.float32)), "picture", 16)
    with pytest.raises(BadInput, match="a place for a lesion inside the head; got none on a grid of 24 x 24 x 24"):
        Lesion(radius=(12.0, 12.0)).case(heads, 0)
    with pytest.raises(BadInput, match="parts among lesion; got marker"):
        Lesion().case(heads, 0, {"marker": True})
    with pytest.raises(BadInput, match="radius as two numbers"):
        Lesion(radius=(3.0, 2.0))
    with pytest.raises(BadInput, match="an agreement from 0 to 1"):
        Distractor(agreement=2)
    with pytest.raises(BadInput, match="a corner without head"):
        Distractor(marker=11).case(heads, 0)
    with pytest.raises(BadInput, match="do not touch"):
        Context(apart=3)
    with pytest.raises(BadInput, match="a contrast above 0"):
        StructureVolume(contrast=0)
    with pytest.raises(BadInput, match="a world among lesion"):
        world_of(WORLDS, "lessons")
    for wrong in ("agreement", "size=3", "radius=a,b", "agreement=x"):
        with pytest.raises(BadInput):
            world_of(WORLDS, "distractor", [wrong])
    with pytest.raises(BadInput, match="a world at"):
        locate(tmp_path)
    with pytest.raises(BadInput, match="steps as a whole number >= 1"):
        Training(steps=0)
    with pytest.raises(BadInput, match="not more than are tested"):
        make(Lesion(), scans, tmp_path / "out", cases=5, tested=4)


def test_real_heads(data_folder: Path) -> None:
    """In IXI's scans a lesion lies in the head, and the brightest voxel alone does not tell who has one."""
    known = read_heads(data_folder / "ixi" / "t1")
    assert len(known) == 10
    tops = []
    for seed in range(40):
        case, bare = (Lesion().case(known, seed, {"lesion": there}) for there in (True, False))
        assert (begin(known, seed)[0].depth[case.truth] > 0).all()
        tops.append((float(case.image.max()), float(bare.image.max())))
    auroc = np.mean([with_it > without for with_it, _ in tops for _, without in tops])
    assert 0.7 < auroc < 0.97  # 0.89 over 600 cases
