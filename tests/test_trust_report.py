"""What a user sees of the trust cards: in the case's folder, in its report, on the command line."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trust import scans, trained
from worlds import image, segmenter

from radiolucent import BadInput, Logits, predict, write_report
from radiolucent.beside import Beside
from radiolucent.case import explain_case
from radiolucent.cli.explain import _checked
from radiolucent.methods import EdgeMap, GuidedBackprop, IntegratedGradients
from radiolucent.models import Card
from radiolucent.plan import Plan
from radiolucent.report import figures
from radiolucent.report.picture import background, picture
from radiolucent.trust import trust
from radiolucent.volume import Volume

METHODS = (IntegratedGradients(steps=20), GuidedBackprop())


def case(tmp_path: Path, plan: Plan, **how: Any) -> tuple[dict[str, Any], Path]:
    np.save(tmp_path / "scan.npy", scans(2, 2000)[0][1, 0].numpy())
    card = Card("Net", "classification", "archive", "net.pt", classes=("none", "spot"))
    out = tmp_path / "out"
    return explain_case(tmp_path / "scan.npy", out, trained(), card, plan, **how), out


def test_the_cards_stand_in_the_folder_and_the_report(tmp_path: Path) -> None:
    summary, out = case(tmp_path, Plan(METHODS))
    assert summary["trust"]["integrated-gradients"] == {"spot": "passes"}
    stamp = summary["trust"]["guided-backprop"]["spot"]
    assert stamp.startswith("FAILS: sanity")
    assert json.loads((out / "summary.json").read_text())["trust"] == summary["trust"]
    first, second = json.loads((out / "trust.json").read_text())["cards"]
    assert (first["method"], first["verdict"], second["stamp"]) == ("integrated-gradients", "passes", stamp)
    page = (out / "report.html").read_text("utf-8")
    assert page.count(f"guided-backprop: spot ({stamp})") == 1  # in the viewer's list of maps
    for verdict in first["verdicts"] + second["verdicts"]:
        assert verdict["said"] in unescape(page)
    assert "evaluations of the model against" in page
    lines = _checked(summary)
    assert lines == [f"guided-backprop, spot: {stamp}", "1 of 2 maps pass their check (see the report and trust.json)"]


def test_a_page_of_one_s_own_takes_cards(tmp_path: Path) -> None:
    scan = Volume(scans(2, 2000)[0][1].numpy())
    prediction = predict(trained(), scan)
    maps = prediction.explain([EdgeMap()], Logits(1))
    cards = trust(prediction, maps, Logits(1))
    path = write_report(tmp_path / "r.html", scan, maps, title="t", cards=cards)
    page = path.read_text("utf-8")
    assert cards[0].stamp.startswith("FAILS")
    assert f"edge-map: logit 1 ({cards[0].stamp})" in page
    assert cards[0].cost["said"] in unescape(page)
    assert "Can these maps be believed" not in write_report(path, scan, maps, title="t").read_text("utf-8")


def test_off_leaves_all_of_it_out(tmp_path: Path) -> None:
    summary, out = case(tmp_path, Plan(METHODS, check="off"))
    assert "trust" not in summary
    assert not (out / "trust.json").exists()
    assert "Can these maps be believed" not in (out / "report.html").read_text("utf-8")
    assert _checked(summary) == []
    with pytest.raises(BadInput, match="quick, full, off"):
        Plan(METHODS, check="on")  # type: ignore[arg-type]


def test_models_beside_have_cards_of_their_own(tmp_path: Path) -> None:
    card = Card("Other", "classification", "archive", "net.pt", classes=("none", "spot"))
    summary, out = case(tmp_path, Plan(METHODS[:1]), beside=[Beside("Other", trained(), card, METHODS[1:])])
    (own,) = (out / "beside").glob("*/trust.json")
    assert json.loads(own.read_text())["cards"][0]["stamp"].startswith("FAILS: sanity")
    (stamps,) = summary["beside"]["Other"]["trust"].values()
    assert stamps["spot"].startswith("FAILS: sanity")
    assert "Other, guided-backprop: spot" in (out / "report.html").read_text("utf-8")


def test_the_stamp_is_drawn_on_every_picture_of_a_map_that_fails() -> None:
    x = image(3, 1)
    scan = background(Volume(x[0].numpy()))
    drawn = picture(scan)
    for figure in (figures.slices(scan, drawn, "unit"), figures.montage(scan, drawn, "unit")):
        figures.stamp(figure, "")
        assert figure.get_suptitle() == ""
        before = figures.png(figure)
        figures.stamp(figure, "FAILS: sanity")
        assert figures.png(figure) != before
        assert figure.get_suptitle() == "FAILS: sanity"


def test_a_segmentation_is_checked_for_each_label(tmp_path: Path) -> None:
    x = image(2, 1)
    np.save(tmp_path / "scan.npy", x[0, 0].numpy())
    card = Card("Net", "segmentation", "archive", "net.pt", classes=("air", "a", "b"))
    plan = Plan((IntegratedGradients(steps=4), EdgeMap()))
    summary = explain_case(tmp_path / "scan.npy", tmp_path / "out", segmenter(2, x), card, plan)
    assert {name: set(own) for name, own in summary["trust"].items()} == {name: {"a", "b"} for name in summary["maps"]}
    assert all("sanity" in word for word in summary["trust"]["edge-map"].values())
