"""The units behind a map of attentive responses: projected back once more, each by itself, and drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from radiolucent.errors import InputWarning
from radiolucent.explanation import Explanation, Prediction
from radiolucent.geometry import Array
from radiolucent.methods import AttentiveResponse
from radiolucent.methods.attentive import Responses
from radiolucent.protocols import Target
from radiolucent.report.figures import data_uri
from radiolucent.report.picture import background
from radiolucent.report.responses import Units, unit_maps

UNITS = (9, 25)
"""How many units' maps are drawn: the paper shows 9 of a misclassified case, and takes 25 for its maps."""

MOST_NUMBERS = 2**28
"""In all units' maps of all targets together, 1 GiB in single precision: more are not drawn."""

_MOST_TARGETS = 4
_PIXELS = {2: 1 << 16, 3: 1 << 20}  # of one panel, by the image's axes

COLOURS = "Yellow is positive, blue negative, each map on its own scale: full colour is the 99th percentile of its |response|."

_LEGEND = (
    "Left: image, dominant map, and which unit is the strongest at each pixel, in the colours of the frames. Then {units} by rank: "
    "its number and {ranking}; x, full colour beside the first unit's; wins, the share of the pixels where it is the strongest."
)
_RANKED_BY = {"sum": "sum of activation", "max": "largest activation", "score": "activation x gradient of the score"}


def unit_figures(prediction: Prediction, targets: Target, method: AttentiveResponse) -> Iterator[tuple[Figure, str]]:
    """Pictures with captions: image, dominant map, winners and the first 9 units' maps, then those of the first 25.

    Of the first of the targets. Nothing where the maps of all units are too many to be held.
    """
    fixed = targets.fix(prediction.output)
    if (found := _responses(prediction, fixed, method)) is not None:
        yield from _figures(prediction, method, found, 0)


def unit_pictures(
    prediction: Prediction, targets: Target, explanations: Sequence[Explanation], classes: Sequence[str] = ()
) -> list[Mapping[str, Sequence[tuple[str, str]]]]:
    """For each explanation by AttentiveResponse, target -> images for a page, with captions; for any other nothing.

    A ranking that does not know the target has the same units for all of them: they stand with the first. Of others the
    first 4 targets have pictures, since each is 1 MB.
    """
    fixed = targets.fix(prediction.output)
    names = fixed.names(classes)
    pictures: list[Mapping[str, Sequence[tuple[str, str]]]] = []
    for explanation in explanations:
        method, own = explanation.method, {}
        found = _responses(prediction, fixed, method) if isinstance(method, AttentiveResponse) else None
        if isinstance(method, AttentiveResponse) and found is not None:
            for target in explanation.targets[: _MOST_TARGETS if method.ranking == "score" else 1]:
                drawn = _figures(prediction, method, found, names.index(target))
                own[target] = [(data_uri(figure, photograph=True), f"{caption} {COLOURS}") for figure, caption in drawn]
        pictures.append(own)
    return pictures


def _responses(prediction: Prediction, fixed: Target, method: AttentiveResponse) -> Responses | None:
    """The maps of all units, where they are few enough to be held at once."""
    if method.n * len(fixed.names(())) * prediction.image.data[0].size > MOST_NUMBERS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # said already, when the case was explained
        return method.responses(prediction.model, prediction.x, fixed)


def _figures(prediction: Prediction, method: AttentiveResponse, found: Responses, t: int) -> Iterator[tuple[Figure, str]]:
    drawn = _on_display(prediction, found, t)
    count = len(drawn.units)
    for number, most in enumerate(sorted({min(n, count) for n in UNITS})):
        units = f"the maps of the {most} strongest of {count} units" if most > 1 else f"the map of the strongest of {count} units"
        full = _LEGEND.format(units=units, ranking=_RANKED_BY[method.ranking])
        yield unit_maps(drawn, most), f"The same with {units}." if number else full


def _on_display(prediction: Prediction, found: Responses, t: int) -> Units:
    """One target's maps of active units on the grid of the panels."""
    scan = background(prediction.scan, _PIXELS[prediction.scan.data.ndim - 1])

    def shown(values: Tensor, nearest: bool = False) -> Array:
        placed = prediction.image.like(values[None].float().cpu().numpy()).on(scan.grid, nearest=nearest)
        return np.asarray(placed.data[0])

    units = [int(unit) for unit in found.units[t, 0] if unit >= 0]
    labels = found.labels[t, 0]
    return Units(
        scan,
        shown(found.dominant[t, 0]),
        # A place outside the model's image is nobody's.
        shown(labels + 1, nearest=True).round().astype(int) - 1,
        np.stack([shown(each) for each in found.maps[t, 0, : len(units)]]),
        units,
        found.values[t, 0, : len(units)].tolist(),
        [float((labels == unit).double().mean()) for unit in units],
    )
