"""Several models on one scan: the same targets by each model's own card, maps beside each other, agreement in numbers."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from worlds import Mean, classifier

import radiolucent as rl
from radiolucent import BadInput, Explanation, Logits, Volume, write, write_report
from radiolucent.beside import Beside, folder_of, names_apart, suited
from radiolucent.case import explain_case
from radiolucent.explanation import likeness
from radiolucent.methods import GradCAM, Gradient, HiResCAM, InputXGradient, SliceAttention, SliceCAM, SmoothGrad
from radiolucent.models import Card, Preprocessing, SliceModel
from radiolucent.plan import Plan
from radiolucent.report.beside import drawn, pictures, side_by_side, table
from radiolucent.report.picture import THRESHOLD, background
from radiolucent.report.slices import attention
from radiolucent.statistics import overlap, spearman

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
NONE_OR_TUMOUR = ("none", "tumour")


def weigher(looks_for: float) -> SliceModel:
    """Gated attention across k that looks for bright (1) or for dark slices (-1); what they weigh in is their brightness."""
    net = SliceModel(nn.Sequential(nn.Conv2d(1, 2, 1), Mean()), "gated", axes=("k",), pooling_arguments={"hidden": 1})
    with torch.no_grad():
        for layer, weight, bias in (
            (net.encoder[0], [1.0, 1.0], 0.0),
            (net.pooling.signal, [2.0 * looks_for, 2.0 * looks_for], -2.0 * looks_for),
            (net.pooling.gate, [0.0, 0.0], 9.0),
            (net.pooling.score, [4.0], 0.0),
            (net.head, [-1.0, -1.0, 1.0, 1.0], 0.0),
        ):
            layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
            layer.bias.fill_(bias)
    return net.eval()


def solid(seed: int = 0) -> nn.Module:
    """A 3D network, whose first class is the tumour."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), Mean(), nn.Linear(3, 2)).eval()


def card(name: str = "m", classes: tuple[str, ...] = NONE_OR_TUMOUR, **more: Any) -> Card:
    return Card(name, "classification", "archive", "w.pt", classes=classes, **more)


def scan() -> Volume:
    """Nine slices across k, all rather dark, but for slice 5."""
    data = 0.2 + 0.1 * np.random.default_rng(0).random((1, 8, 7, 9), np.float32)
    data[..., 5] += 1
    return Volume(data, AFFINE)


def explained(model: nn.Module, *methods: Any) -> list[Explanation]:
    return rl.predict(model, scan()).explain(methods or (SliceAttention(),), Logits(1), classes=NONE_OR_TUMOUR)


def test_what_two_maps_have_in_common_by_hand() -> None:
    a, b = np.array([[1.0, 2, 0], [0, 5, 0]]), np.array([[0.0, 1, 0], [1, 0, -2]])
    assert overlap(a, b) == pytest.approx(1 / 4)
    assert overlap(a, 3 * a) == pytest.approx(1)
    assert overlap(a, -a) == 0
    assert math.isnan(overlap(a, 0 * a))
    assert spearman(np.array([1, 2, 3]), np.array([10, 30, 20])) == pytest.approx(0.5)
    assert spearman(a, a**3) == pytest.approx(1)
    assert math.isnan(spearman(a, np.ones((2, 3))))


def test_equal_models_agree_exactly() -> None:
    (row,) = likeness({"one": explained(weigher(1)), "two": explained(weigher(1))})
    assert (row["target"], row["model"], row["beside"]) == ("tumour", "one", "two")
    assert row["method"] == row["beside_method"] == "slice-attention"
    for name in ("spearman", "overlap", "slices_spearman", "slices_overlap", "slices_same_top"):
        assert row[name] == pytest.approx(1), name
    assert row["top_slice"] == row["beside_top_slice"] == "k 5"
    (own,) = explained(weigher(1))
    assert row["beside_weight_there"] == pytest.approx(max(own.provenance["details"][0]["slices"]["k"]["weight"]))


def test_a_model_that_ignores_the_deciding_slice_is_seen() -> None:
    """Of what the second weighs, slice 5 has the least; the first gives it nearly everything."""
    first, second = explained(weigher(1)), explained(weigher(-1))
    weights = [torch.tensor(e[0].provenance["details"][0]["slices"]["k"]["weight"]) for e in (first, second)]
    (row,) = likeness({"one": first, "two": second})
    assert (row["top_slice"], row["slices_same_top"]) == ("k 5", 0)
    assert row["beside_weight_there"] == pytest.approx(weights[1].min().item())
    assert row["beside_weight_there"] < 0.01
    assert row["slices_overlap"] == pytest.approx(torch.minimum(*weights).sum().item())
    assert row["slices_overlap"] < 0.1 < 0.8 < weights[0].max()
    assert row["slices_spearman"] == pytest.approx(-1)  # the darker, the more


def test_only_voxels_where_one_of_the_two_maps_is_count_for_the_rank_correlation() -> None:
    (one,) = explained(solid(), Gradient())
    data = np.zeros_like(one.relevance[0].data)
    other = data.copy()
    data[0, 0, 0, :4], other[0, 0, 0, :4] = [1, 2, 3, 4], [4, 3, 2, 1]
    pair = [[replace(one, relevance=(one.relevance[0].like(d),))] for d in (data, other)]
    (row,) = likeness({"a": pair[0], "b": pair[1]})
    assert row["spearman"] == pytest.approx(-1)
    assert row["overlap"] == pytest.approx(0.6)
    assert math.isnan(row["slices_overlap"])


def test_maps_of_one_method_are_compared_and_else_all() -> None:
    methods = (Gradient(), HiResCAM("1"))
    one, two = explained(solid(), *methods), explained(solid(1), *methods)
    rows = likeness({"a": one, "b": two, "c": explained(weigher(1))})
    pairs = [(r["model"], r["method"], r["beside"], r["beside_method"]) for r in rows]
    assert pairs[:2] == [("a", "gradient", "b", "gradient"), ("a", "hires-cam at 1", "b", "hires-cam at 1")]
    assert pairs[2:4] == [("a", "gradient", "c", "slice-attention"), ("a", "hires-cam at 1", "c", "slice-attention")]
    assert len(pairs) == 6
    assert likeness({"a": one}) == []
    with pytest.raises(BadInput, match="explanations of one scan"):
        likeness({"a": one, "b": [replace(one[0], relevance=(Volume(one[0].relevance[0].data, np.eye(4)),))]})


def test_slices_of_other_grids_are_not_taken_for_the_same() -> None:
    preprocessing = Preprocessing(spacing=(2.0, 2.0, 2.0))
    finer = rl.predict(weigher(1), scan(), preprocessing).explain([SliceAttention()], Logits(1), classes=NONE_OR_TUMOUR)
    (row,) = likeness({"a": explained(weigher(1)), "b": finer})
    assert math.isnan(row["slices_overlap"])
    assert row["overlap"] > 0.5


@pytest.mark.parametrize(
    ("model", "asked", "own"),
    [
        (weigher(1), (SliceAttention(), SliceCAM()), (SliceAttention(), SliceCAM())),
        (weigher(1), (GradCAM(),), (SliceAttention(),)),
        (weigher(1), (SmoothGrad(GradCAM()), InputXGradient()), (InputXGradient(),)),
        (SliceModel(classifier(2), "mean"), (SliceAttention(), SliceCAM()), (SliceCAM(),)),
        (SliceModel(classifier(2), "mean"), (SliceAttention(),), (SliceCAM(),)),
        (solid(), (SliceAttention(), SliceCAM()), (HiResCAM("1"),)),
        (solid(), (SliceAttention(), GradCAM(), Gradient()), (GradCAM("1"), Gradient())),
    ],
)
def test_each_model_gets_the_methods_that_suit_it(model: nn.Module, asked: Any, own: Any) -> None:
    assert suited(model, asked, "1") == own


def test_models_have_names_of_their_own() -> None:
    assert names_apart(["a", "b"], ["x/a", "x/b"]) == ["a", "b"]
    assert names_apart(["t", "t", "u"], ["x/seed-0", "x/seed-1", "y"]) == ["t (seed-0)", "t (seed-1)", "u"]
    assert len(set(names_apart(["t", "t"], ["x/model", "y/model"]))) == 2
    assert folder_of("../t (seed-1)", 1) == "1-t-seed-1"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("beside")
    write(folder / "scan.nii.gz", scan())
    others = [
        Beside("dark", weigher(-1), card("dark"), (SliceAttention(),)),
        Beside(
            "3d <b>", solid(), card("3d <b>", ("tumour", "none"), preprocessing=Preprocessing(orientation="LPS")), (HiResCAM(),)
        ),
    ]
    plan = Plan((SliceAttention(), SliceCAM()), targets=("tumour",))
    return folder, explain_case(folder / "scan.nii.gz", folder / "out", weigher(1), card("bright"), plan, beside=others)


def test_a_case_has_each_model_s_maps_of_the_same_target(case: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = case
    assert not summary["failed_methods"]
    assert list(summary["beside"]) == ["dark", "3d <b>"]
    (path,) = summary["beside"]["3d <b>"]["maps"].values()
    assert path == ["beside/2-3d-b/hires-cam/target_0.nii.gz"]
    loaded = Explanation.load((folder / "out" / path[0]).parent)
    assert loaded.targets == ("tumour",)
    x = torch.from_numpy(scan().data[:, ::-1, ::-1].copy())[None]  # its card says LPS
    assert loaded.scores[0] == pytest.approx(solid()(x)[0, 0].item(), abs=1e-5)
    truth = rl.explain(solid(), scan(), HiResCAM(), Logits(0), preprocessing=Preprocessing(orientation="LPS"))
    np.testing.assert_allclose(loaded.relevance[0].data, truth.relevance[0].data, atol=1e-6)
    assert (folder / "out" / "beside" / "1-dark" / "slices.csv").is_file()
    with (folder / "out" / "likeness.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = [(r["method"], r["beside"], r["beside_method"]) for r in rows]
    assert ("slice-attention", "dark", "slice-attention") in pairs
    assert ("slice-attention", "3d <b>", "hires-cam at 1") in pairs
    assert len(rows) == 2 + 2 + 1


def test_the_report_has_them_beside_each_other(case: tuple[Path, dict[str, Any]]) -> None:
    text = (case[0] / "out" / "report.html").read_text("utf-8")
    assert "3d <b>" not in text.split('id="data"')[0]
    assert "tumour, by 3d &lt;b&gt;" in text
    assert text.count("<h2>Models beside each other</h2>") == 1
    assert "Weights of dark: rank correlation -1.00, " in text
    assert "this model&#39;s top slice (k 5) has 0.00" in text
    (data,) = [json.loads(part) for part in text.split('id="data">')[1:2] for part in [part.split("</script>")[0]]]
    assert [m["name"].partition(" (FAILS")[0] for m in data["maps"]] == [
        "slice-attention: tumour",
        "slice-cam: tumour",
        "dark, slice-attention: tumour",
        "3d <b>, hires-cam at 1: tumour",
    ]


def test_a_target_that_the_other_model_has_not_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz", scan())
    other = Beside("other", solid(), card("other", ("cyst", "none")), (HiResCAM(),))
    plan = Plan((SliceAttention(),), targets=("tumour",))
    with pytest.raises(BadInput, match=r"a model beside m that has its .*got other, which has no 'tumour'. .*0 cyst, 1 none"):
        explain_case(tmp_path / "scan.nii.gz", tmp_path / "out", weigher(1), card(), plan, beside=[other])
    assert not (tmp_path / "out").exists()
    three = Beside("three", solid(), card("three", channels=3), (HiResCAM(),))
    with pytest.raises(BadInput, match="for three; got 1 in scan"):
        explain_case(tmp_path / "scan.nii.gz", tmp_path / "out", weigher(1), card(), plan, beside=[three])


def test_a_model_without_names_is_asked_by_number_and_the_notes_say_so(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz", scan())
    others = [Beside("nameless", solid(), card("nameless", ()), (HiResCAM(),))]
    plan = Plan((SliceAttention(),))
    done = explain_case(tmp_path / "scan.nii.gz", tmp_path / "out", weigher(1), card(), plan, beside=others)
    assert done["beside"]["nameless"]["targets"] == {
        "tumour": pytest.approx(solid()(torch.from_numpy(scan().data)[None])[0, 1].item())
    }
    assert "nameless: logit 1 is taken for tumour" in done["notes"]


def test_what_fails_beside_is_named_and_takes_nothing_along(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz", scan())
    other = Beside("other", solid(), card("other"), (Gradient(), HiResCAM("3")))
    done = explain_case(tmp_path / "scan.nii.gz", tmp_path / "out", weigher(1), card(), Plan((SliceAttention(),)), beside=[other])
    assert list(done["failed_methods"]) == ["other: hires-cam at 3"]
    assert list(done["beside"]["other"]["maps"]) == ["beside/1-other/gradient"]
    assert any(note.startswith("other: hires-cam at 3 failed") for note in done["notes"])


def coloured(axis: Any) -> int:
    """Pixels of the picture that have a map over them."""
    return int((np.ptp(np.asarray(axis.images[0].get_array()), axis=2) > 1e-3).sum())


def test_pictures_show_every_model() -> None:
    shown = background(scan())
    one, two, three = explained(weigher(1)), explained(weigher(-1)), explained(solid(), HiResCAM())
    maps = drawn({"": one, "dark": two, "3d": three}, 10**6)
    figure = side_by_side(shown, maps[0], maps[1:])
    names = [axis.get_ylabel().replace("\n", " ") for axis in figure.axes[::3]]
    own = ["this model, slice-attention", "dark, slice-attention", "3d, hires-cam at 1"]
    assert names == [f"{name} {m.drawn.full}" for name, m in zip(own, maps, strict=True)]
    assert maps[0].drawn.full == f"full colour {maps[0].drawn.scale:.2g}"
    assert maps[2].drawn.full == f"full colour ±{maps[2].drawn.scale:.2g}"
    assert [axis.get_title() != "" for axis in figure.axes] == [True] * 3 + [False] * 6
    peak = maps[0].drawn.peak[2]
    for row in range(3):
        assert coloured(figure.axes[3 * row + 2]) == (np.abs(maps[row].drawn.value[:, :, peak]) >= THRESHOLD).sum()
    slices = [e[0].provenance["details"][0]["slices"] for e in (one, two)]
    figure = attention(shown, slices[0], None, [("3d, hires-cam at 1", maps[2].drawn)], {"dark": slices[1]})
    upper, lower = figure.subfigs
    peak = maps[2].drawn.peak[2] * 3.0
    assert (
        upper.axes[-2].get_title().replace("\n", " ")
        == f"axial, z = {peak:.1f} mm 3d, hires-cam at 1, at its peak {maps[2].drawn.full}"
    )
    own, other, _ = lower.axes[0].lines
    assert list(own.get_ydata()) == slices[0]["k"]["weight"]
    assert list(other.get_ydata()) == slices[1]["k"]["weight"]
    assert (own.get_label(), other.get_label()) == ("this model", "dark")


def test_flat_images_and_means_over_several_seeds(tmp_path: Path) -> None:
    image = Volume(np.random.default_rng(0).random((1, 12, 10), np.float32))
    methods = [HiResCAM(), Gradient()]
    models = {}
    for seed in range(3):
        torch.manual_seed(seed)
        models[f"seed {seed}"] = rl.predict(classifier(2).eval(), image).explain(methods, Logits(1))
    rows = table(likeness(models))
    means = [r for r in rows if r["model"] == "mean over 3 pairs"]
    assert [m["method"] for m in means] == [rows[0]["method"], "gradient"]
    each = [r["spearman"] for r in likeness(models) if r["method"] == "gradient"]
    assert means[1]["spearman"] == f"{np.mean(each):.2f}"
    own = models.pop("seed 0")
    path = write_report(tmp_path / "r.html", image, own, title="t", model="seed 0", beside=models)
    assert (
        path.read_text("utf-8").count("beside other models&#39; maps") + path.read_text("utf-8").count("beside other models' maps")
        == 2
    )
    with pytest.raises(BadInput, match="models beside this one that have other names"):
        write_report(tmp_path / "r.html", image, own, title="t", model="seed 1", beside=models)


def test_a_page_of_three_seeds_has_their_mean(tmp_path: Path) -> None:
    models = {"a": explained(weigher(1)), "b": explained(weigher(1)), "c": explained(weigher(-1))}
    own = models.pop("a")
    text = write_report(tmp_path / "r.html", scan(), own, title="t", model="a", beside=models).read_text("utf-8")
    rows = likeness({"a": own, **models})
    overlaps = [row["slices_overlap"] for row in rows]
    assert overlaps[0] == pytest.approx(1)
    said = f"rank correlation -0.33, {np.mean(overlaps):.0%} of the weight on the same slices; the same top slice in 33%"
    assert f"In the mean over all 3 pairs of models: {said} of the pairs." in text
    assert text.count("Weights of ") == 2
    assert text.count("<code>SliceAttention(") == text.count("SliceAttention(axis=") == 1
    maps = drawn({"": own, **models}, 10**6)
    assert len(pictures(background(scan()), maps[0], maps, rows)["words"]) == 5 + 3


def test_a_3d_model_may_have_an_attention_model_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz", scan())
    plan = Plan((HiResCAM(),), targets=("tumour",))
    other = Beside("sliced", weigher(1), card("sliced"), suited(weigher(1), plan.methods))
    done = explain_case(tmp_path / "scan.nii.gz", tmp_path / "out", solid(), card(), plan, beside=[other])
    assert list(done["beside"]["sliced"]["maps"]) == ["beside/1-sliced/slice-attention"]
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "sliced, slice-attention: tumour" in text
    assert "weights of the slices over the scan" not in text
    assert text.count("All in the same slices, through this map's peak") == 1


def test_equal_weights_and_other_answers_are_said(tmp_path: Path) -> None:
    """The same folder given twice agrees perfectly with itself, and an explained class need not be what the other says."""
    write(tmp_path / "scan.nii.gz", scan())
    first, other = solid(), solid()
    x = torch.from_numpy(scan().data)[None]
    said = int(first(x).argmax())
    with torch.no_grad():
        other[3].weight.neg_()
        other[3].bias.neg_()
    others = [Beside(name, model, card(name), (HiResCAM("1"),)) for name, model in (("twin", solid()), ("against", other))]
    named = Plan((HiResCAM("1"),), targets=(NONE_OR_TUMOUR[said],))
    for plan, notes in ((Plan((HiResCAM("1"),)), [f"against says {NONE_OR_TUMOUR[1 - said]} of this scan"]), (named, [])):
        out = tmp_path / f"out {len(notes)}"
        done = explain_case(tmp_path / "scan.nii.gz", out, first, card("first"), plan, beside=others)
        assert [n for n in done["notes"] if n.startswith("twin")] == ["twin has the same weights as first"]
        assert [n for n in done["notes"] if n.startswith("against")] == notes


def test_what_does_not_fit_is_refused_before_anything_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz", scan())
    said: list[str] = []
    for name, classes, reason in (("m", NONE_OR_TUMOUR, "models whose names differ"), ("o", ("a", "b"), "that has its targets")):
        other = Beside(name, solid(), card(name, classes), (HiResCAM("1"),))
        with pytest.raises(BadInput, match=reason):
            explain_case(
                tmp_path / "scan.nii.gz", tmp_path / "out", weigher(1), card(), Plan((SliceCAM(),)), beside=[other], say=said.append
            )
    assert not said
    assert not (tmp_path / "out").exists()
