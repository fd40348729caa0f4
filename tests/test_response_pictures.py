"""Pictures of response maps: the colours say what the maps say."""

import numpy as np
import pytest

from radiolucent import BadInput, Volume
from radiolucent.methods.attentive import MOST_CLASSES
from radiolucent.report.figures import png
from radiolucent.report.picture import background
from radiolucent.report.responses import COLOURS, class_map, ranked_cases, unit_maps


@pytest.mark.parametrize("shape", [(20, 24), (12, 10, 8)])
def test_each_picture_is_drawn(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    scan = background(Volume(rng.random((1, *shape)), has_world=False))
    maps = rng.normal(size=(10, *shape))
    figure = unit_maps(scan, maps.max(0), maps, [*range(9), -1])
    titles = [axis.get_title() for sub in figure.subfigs for axis in sub.axes]
    assert titles[:2] == ["image", "dominant"]
    assert [t.split(" (")[0] for t in titles if t.startswith("unit")] == [f"unit {k}" for k in range(9)], (
        "a unit that is not active has no map"
    )
    assert "unit 0 (x 1)" in titles
    assert png(figure)[:4] == b"\x89PNG"
    assert png(class_map(scan, maps.argmax(0), maps.max(0), [f"class {c}" for c in range(10)]))
    figure = ranked_cases([(f"case {i}", scan, maps[i]) for i in range(6)])
    assert [axis.get_title() for axis in figure.axes][:6] == [f"case {i}" for i in range(6)]


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
    scan = Volume(np.ones((1, 2, 2)))
    with pytest.raises(BadInput, match="the map of an active unit; got 2 units, of which none is shown"):
        unit_maps(scan, np.zeros((2, 2)), np.zeros((2, 2, 2)), [-1, -1])
    with pytest.raises(BadInput, match="a case to draw; got none"):
        ranked_cases([])
