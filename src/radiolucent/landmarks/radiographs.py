"""Where bone, soft tissue, marks and background are in a radiograph, by a rule that anybody can repeat."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter, label

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.landmarks.places import Mask
from radiolucent.volume import Volume

PARTS = ("bone", "soft tissue", "marks", "background")


def radiograph_parts(
    image: Volume, *, inverted: bool = False, smooth: float = 1.0, local: float = 0.07, part: float = 0.1, least: float = 0.01
) -> dict[str, Mask]:
    """Four masks (*grid) that share out the pixels of a radiograph in which bone is bright, from its grey values alone.

        s = sqrt of the image from its 0.5th percentile to its maximum, scaled to [0, 1], smoothed by a Gaussian of `smooth` pixels
        bright: log(s + 0.05) > Li's threshold (minimum cross-entropy) of that over the pixels with s < 0.98
        film edge: from each side, the rows or columns of which more than 0.9 are bright, if they are less than 0.12 of the side
        body: components of bright with s < 0.98, off the film edge, of at least `part` of the largest; holes filled
        bone: in the body (2 pixels from its edge), s - its mean nearby > Otsu's threshold of that, and > 0.02; components of
              at least `least` of the body. "Nearby" is a Gaussian of `local` x the shorter side within the body
        soft tissue: the rest of the body      marks: bright and not body      background: the rest

    `marks` are letters, jewellery and hardware outside the body, and what the film shows white around it; hardware inside
    is bone to this rule. `inverted`: an image in which bone is dark (MONOCHROME1) is turned round first. Any range of
    intensities. Known failure: slanted white edges that touch the body become part of it; over a pelvis gas and bowel look
    like bone, over a chest the heart's shadow does; a belly that is burnt out counts as marks; a bone wider than "nearby" has
    a gap in its middle. Look at some masks before believing a table.
    """
    try:
        from skimage.filters import threshold_li, threshold_otsu
    except ImportError:
        raise BadInput("scikit-image for thresholds", "an environment without it", "pip install radiolucent[study].") from None
    s = _scaled(image, inverted, smooth)
    burnt, level = s >= 0.98, np.log(s + 0.05)
    bright = level > threshold_li(level[~burnt])
    edge = _film_edge(bright | burnt)
    components, sizes = _components(bright & ~burnt & ~edge)
    body = binary_fill_holes((sizes >= part * sizes.max())[components]) & ~burnt & ~edge
    inner = binary_erosion(body, iterations=2)
    if not inner.any():
        raise BadInput("a radiograph with a body in it", "none brighter than its surroundings", "Is it inverted? (inverted=True)")
    width, inside = local * min(s.shape), body.astype(float)
    nearby = gaussian_filter(s * inside, width) / np.maximum(gaussian_filter(inside, width), 1e-6)
    contrast = s - nearby
    components, sizes = _components(inner & (contrast > max(0.02, threshold_otsu(contrast[inner]))))
    bone = (sizes >= max(1.0, least * body.sum()))[components]
    marks = (bright | burnt) & ~body
    return dict(zip(PARTS, (bone, body & ~bone, marks, ~(body | marks)), strict=True))


def _film_edge(bright: Mask) -> Mask:
    """Bright strips along the sides, with two pixels more where they fade."""
    edge = np.zeros_like(bright)
    for lines, found in ((bright, edge), (bright.T, edge.T)):
        whole = lines.mean(1) > 0.9
        for side, strip in ((whole, found), (whole[::-1], found[::-1])):
            n = int(np.argmin(side)) if not side.all() else len(side)
            if 0 < n < 0.12 * len(side):
                strip[: n + 2] = True
    return edge


def border(shape: tuple[int, ...], width: float = 0.05) -> Mask:
    """The frame of an image: pixels within `width` x the shorter side of its edge, at least one pixel."""
    if not 0 < width < 0.5:
        raise BadInput("a border of more than 0 and less than half of the shorter side", repr(width), "Correct it.")
    frame = np.ones(shape, bool)
    n = max(1, round(width * min(shape)))
    frame[tuple(slice(n, -n) for _ in shape)] = False
    return frame


def _scaled(image: Volume, inverted: bool, smooth: float) -> Array:
    if image.data.ndim != 3 or len(image.data) != 1:
        do = "Read a colour image as grey (colour='grey')."
        raise BadInput("a grey image (1, rows, columns)", f"shape {image.data.shape}", do)
    grey = image.data[0].astype(np.float64)
    if not np.isfinite(grey).all():
        raise BadInput("finite grey values", "NaN or infinity", "Replace them.")
    grey = -grey if inverted else grey
    low, high = np.percentile(grey, 0.5), grey.max()
    if high <= low:
        raise BadInput("an image with contrast", f"{low:g} nearly everywhere", "Is it a radiograph?")
    return gaussian_filter(np.sqrt(np.clip((grey - low) / (high - low), 0, 1)), smooth)


def _components(mask: Mask) -> tuple[Array, Array]:
    """The number of each pixel's component, and each component's size; number 0 is outside, and of no size."""
    numbers, _ = label(mask)
    sizes = np.bincount(numbers.reshape(-1)).astype(float)
    sizes[0] = -1
    return numbers, sizes
