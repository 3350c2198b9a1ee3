"""Overlays that a reader with any colour vision can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

COLOURS = (
    "Orange speaks for the positive class, blue against it, the stronger the more opaque. Grad-CAM: opacity grows with "
    "the map, to 80 % at its peak. LIME: outlined patches. Boxes: yellow dashes on black."
)
RGB = NDArray[np.uint8]
LEGIBLE_SIDE = 256
"""Of the longer side of a picture at least, px."""
# Okabe and Ito, Color Universal Design: orange, blue and yellow.
FOR, AGAINST, BOX = (230, 159, 0), (0, 114, 178), (240, 228, 66)
HEAT_OPACITY = 0.8
"""At the peak of a map. One colour, growing: a scale of several, such as plasma, has steps that look like the bare grey
of a radiograph to readers with red-green blindness."""
SHOWN_EACH_WAY = 5
DASH = 6


def heat_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> RGB:
    """The image [H, W] under a map [H, W] in [0, 1]; the stronger the map, the more orange."""
    return _blend(image, np.array(FOR), HEAT_OPACITY * heat)


def heat_scale(steps: int = 17) -> list[str]:
    """What a map of 0, ..., 1 makes of mid-grey, as CSS colours: the colour bar of :func:`heat_overlay`."""
    bar = heat_overlay(np.full((1, steps), 128, np.uint8), np.linspace(0, 1, steps, dtype=np.float32)[None])
    return [_css(colour) for colour in bar[0].tolist()]


def lime_colours() -> dict[str, str]:
    """The CSS colours of what speaks ``for`` and ``against`` the positive class in :func:`lime_overlay`."""
    return {"for": _css(FOR), "against": _css(AGAINST)}


def lime_overlay(image: NDArray[np.uint8], segments: NDArray[np.int64], weights: NDArray[np.float64]) -> RGB:
    """The image [H, W] with the strongest superpixels for (orange) and against (blue) the positive class.

    Args:
        image: uint8 [H, W].
        segments: int [H, W], superpixel 0..K-1 of each pixel, -1: none.
        weights: [K]; up to five of each sign are shown, none weaker than a tenth of the strongest.
    """
    order = np.argsort(-np.abs(weights), kind="stable")
    strongest = float(np.abs(weights).max(initial=0.0))
    visible = [k for k in order if strongest > 1e-6 and abs(weights[k]) >= strongest / 10]
    picked = [k for k in visible if weights[k] > 0][:SHOWN_EACH_WAY]
    picked += [k for k in visible if weights[k] < 0][:SHOWN_EACH_WAY]
    strength = np.zeros(len(weights) + 1)
    strength[picked] = weights[picked] / max(strongest, 1e-12)
    of_pixel = strength[segments]
    colours = np.where((of_pixel > 0)[..., None], FOR, AGAINST)
    outline = find_boundaries(np.where(of_pixel != 0, segments + 1, 0), mode="inner")  # type: ignore[no-untyped-call]
    opacity = np.where(outline, 1.0, np.where(of_pixel != 0, 0.15 + 0.4 * np.abs(of_pixel), 0.0))
    return _blend(image, colours, opacity)


def plain(image: NDArray[np.uint8], boxes: Sequence[Sequence[float]] = ()) -> RGB:
    """The image [H, W], enlarged to a legible size, with boxes [x0, y0, x1, y1] (px of ``image``) in dashes."""
    factor = _factor(image.shape)
    picture = _enlarged(np.repeat(image[..., None], 3, axis=2))
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in (np.asarray(box) * factor for box in boxes):
        pen.rectangle((x0, y0, x1, y1), outline=(0, 0, 0), width=2)
        for start in np.arange(x0, x1, 2 * DASH):
            for y in (y0, y1 - 1):
                pen.line((start, y, min(start + DASH, x1), y), fill=BOX, width=2)
        for start in np.arange(y0, y1, 2 * DASH):
            for x in (x0, x1 - 1):
                pen.line((x, start, x, min(start + DASH, y1)), fill=BOX, width=2)
    return np.asarray(picture)


def save(path: Path, picture: RGB) -> None:
    """Write a PNG as it is."""
    Image.fromarray(picture).save(path, optimize=True)


def legible(picture: RGB) -> RGB:
    """A picture [H, W, 3] enlarged by a whole factor to at least 256 px on its longer side."""
    return np.asarray(_enlarged(picture))


def _blend(image: NDArray[np.uint8], colours: NDArray[np.generic], opacity: NDArray[np.floating[Any]]) -> RGB:
    share = opacity[..., None].astype(np.float32)
    return np.rint(image[..., None] * (1 - share) + np.asarray(colours, np.float32) * share).astype(np.uint8)


def _css(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _factor(shape: Sequence[int]) -> int:
    return max(1, -(-LEGIBLE_SIDE // max(shape[:2])))


def _enlarged(picture: RGB) -> Image.Image:
    factor = _factor(picture.shape)
    return Image.fromarray(picture).resize(
        (picture.shape[1] * factor, picture.shape[0] * factor), Image.Resampling.NEAREST
    )
