"""Pictures of response maps: the colours say what the maps say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from radiolucent import BadInput, Logits, Volume, predict
from radiolucent.case import write_page
from radiolucent.methods import AttentiveResponse, Gradient
from radiolucent.methods.attentive import MOST_CLASSES
from radiolucent.models import AnatomyNet, Card
from radiolucent.plan import Explained
from radiolucent.report import units as units_page
from radiolucent.report.figures import png
from radiolucent.report.picture import background
from radiolucent.report.responses import COLOURS, Units, class_map, ranked_cases, unit_maps
from radiolucent.report.units import unit_figures, unit_pictures


@pytest.mark.parametrize("shape", [(20, 24), (12, 10, 8)])
def test_each_picture_is_drawn(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    scan = background(Volume(rng.random((1, *shape)), has_world=False))
    maps = rng.normal(size=(30, *shape))
    drawn = Units(
        scan, maps.max(0), maps.argmax(0), maps, range(30), rng.random(30), [float((maps.argmax(0) == k).mean()) for k in range(30)]
    )
    for most, rows, columns in ((9, 3, 4), (25, 5, 6), (30, 6, 6)):
        figure = unit_maps(drawn, most)
        assert len(figure.axes) == rows * columns
        titles = [axis.get_title() for axis in figure.axes]
        assert [titles[row * columns] for row in range(3)] == ["image", "dominant", "strongest unit"]
        assert [t.split(":")[0] for t in titles if t.startswith("unit")] == [f"unit {k}" for k in range(most)]
    assert png(figure)[:4] == b"\x89PNG"
    assert png(class_map(scan, maps[:10].argmax(0), maps.max(0), [f"class {c}" for c in range(10)]))
    figure = ranked_cases([(f"case {i}", scan, maps[i]) for i in range(6)])
    assert [axis.get_title() for axis in figure.axes][:6] == [f"case {i}" for i in range(6)]


def seer() -> AnatomyNet:
    """Unit 0 sees 3 x - 1.5, unit 1 sees x, unit 2 nothing; target a looks at both, b at unit 0 alone."""
    network = AnatomyNet(2, channels=(3,), convolutions=1, kernel=1, norm=False).eval()
    with torch.no_grad():
        network.blocks[0][0].weight.copy_(torch.tensor([3.0, 1.0, 0.0]).reshape(3, 1, 1, 1))
        network.blocks[0][0].bias.copy_(torch.tensor([-1.5, 0.0, -1.0]))
        network.head.weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
        network.head.bias.zero_()
    return network


HALVES = Volume(np.repeat(np.array([[0.4, 0.9]], np.float32), 40, 0).repeat(8, 1)[None], has_world=False)  # 40 rows, 8 columns each


def test_units_are_drawn_by_rank_with_their_numbers_and_colours() -> None:
    method = AttentiveResponse("blocks", n=3)
    ((figure, said),) = unit_figures(predict(seer(), HALVES), Logits(0), method)  # two are active: one picture
    assert "the maps of the 2 strongest of 2 units by rank: its number and sum of activation" in said
    drawn = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    # Sums of 320 x (0.4 + 0.9) and 320 x 1.2; R(x|1) = x is 0.9 at most, R(x|0) = 3 (3 x - 1.5) is 3.6.
    assert list(drawn)[:3] == ["image", "unit 1: 416\nx 1, wins 50%", "unit 0: 384\nx 4, wins 50%"]
    assert list(drawn)[3:] == ["dominant", "strongest unit"]
    winners = np.asarray(drawn["strongest unit"].images[0].get_array())
    assert winners[:, 8:] == pytest.approx(np.broadcast_to(to_rgb(COLOURS[1]), (40, 8, 3)))
    assert winners[:, :8] == pytest.approx(np.broadcast_to(to_rgb(COLOURS[0]), (40, 8, 3)) * 0.4 / 3.6)
    frames = [drawn[title].spines["left"].get_edgecolor()[:3] for title in list(drawn)[1:3]]
    assert frames == [pytest.approx(to_rgb(colour)) for colour in COLOURS[:2]]


@pytest.mark.parametrize("ranking", ["sum", "score"])
def test_a_case_s_page_shows_the_units_below_their_map(ranking: str, tmp_path: Path) -> None:
    prediction, targets = predict(seer(), HALVES), Logits(0, 1)
    methods = [AttentiveResponse("blocks", n=2, ranking=ranking), Gradient()]
    explanations = prediction.explain(methods, targets, classes=("a", "b"))
    units, none = unit_pictures(prediction, targets, explanations, ("a", "b"))
    assert list(units) == (["a", "b"] if ranking == "score" else ["a"]), "what does not know the target is shown once"
    assert not none
    card = Card("seer", "regression", "", "", classes=("a", "b"), about={"unit": "mm3"})
    explained = Explained(prediction, explanations, {}, targets=targets)
    page = tmp_path / "page.html"
    write_page(page, "case", explained, card)
    text = page.read_text("utf-8")
    assert text.count('alt="the strongest units of attentive-response') == len(units)
    assert text.index("relevance by slice") < text.index("the strongest units of") < text.index("gradient: a")
    assert '<th class="n">score (mm³)</th>' in text


def test_the_maps_of_units_are_not_drawn_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_page, "MOST_NUMBERS", 3 * 640 - 1)
    assert not list(unit_figures(predict(seer(), HALVES), Logits(0), AttentiveResponse("blocks", n=3)))
    assert list(unit_figures(predict(seer(), HALVES), Logits(0), AttentiveResponse("blocks", n=2)))


def test_a_pixel_has_the_colour_of_its_class_and_the_strength_of_its_level() -> None:
    scan = Volume(np.ones((1, 1, 3)), has_world=False)
    figure = class_map(scan, np.array([[1, -1, 2]]), np.array([[4.0, 4.0, 2.0]]), ["a", "b", "c"])
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert shown[0, 0] == pytest.approx([0xFF / 255, 0x8C / 255, 0x1A / 255])
    assert shown[0, 1] == pytest.approx([0.6] * 3)
    assert shown[0, 2] == pytest.approx(0.5 * 0.6 + 0.5 * np.array([0x2F, 0xD2, 0x6B]) / 255)


def test_there_are_as_many_colours_as_classes() -> None:
    assert len(set(COLOURS)) == MOST_CLASSES
    scan = Volume(np.ones((1, 2, 2)))
    with pytest.raises(BadInput, match="at most 12 classes"):
        class_map(scan, np.zeros((2, 2), int), np.ones((2, 2)), [str(c) for c in range(13)])


def test_a_picture_of_nothing_is_refused() -> None:
    scan, empty = Volume(np.ones((1, 2, 2))), np.zeros((2, 2))
    with pytest.raises(BadInput, match="the map of an active unit; got none"):
        unit_maps(Units(scan, empty, empty, np.zeros((0, 2, 2)), [], [], []))
    with pytest.raises(BadInput, match="a case to draw; got none"):
        ranked_cases([])
