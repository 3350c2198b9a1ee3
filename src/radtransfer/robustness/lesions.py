"""Test images with their annotated lesions hidden, and with as much hidden elsewhere.

A model that sees what the radiologist marked must lose what it knows when that is hidden. Where it does not, it tells
the class by something else. A hidden place shows by itself, so every image gets one: those without lesions in the place
and size of another image's lesions, and the control has all of them moved off the lesions.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Grey = npt.NDArray[np.uint8]
MARGIN = 0.1
"""Of a box's sides, hidden around it too: what a lesion does to its surroundings would tell of it."""
LEAST_MARGIN = 2
RADIUS = 3
PLACES = 64


def hidden(image: Grey, boxes: Sequence[Box]) -> Grey:
    """The image with its boxes filled in from what surrounds them.

    Telea, An image inpainting technique based on the fast marching method, Journal of Graphics Tools 9(1), 2004.

    Args:
        image: uint8 [S, S].
        boxes: x0, y0, x1, y1, px; a margin around each is filled in as well.
    """
    mask = np.zeros(image.shape, np.uint8)
    for box in boxes:
        x0, y0, x1, y1 = _pixels(_widened(box), image.shape[0])
        mask[y0:y1, x0:x1] = 1
    return np.asarray(cv2.inpaint(image, mask, RADIUS, cv2.INPAINT_TELEA), dtype=np.uint8)


def transferred(boxes: Sequence[Box], of: Box, onto: Box) -> list[Box]:
    """Boxes of one image's region in the same place of another image's region, all x0, y0, x1, y1 in px."""
    across, down = (onto[2] - onto[0]) / (of[2] - of[0]), (onto[3] - onto[1]) / (of[3] - of[1])
    return [
        (
            onto[0] + (x0 - of[0]) * across,
            onto[1] + (y0 - of[1]) * down,
            onto[0] + (x1 - of[0]) * across,
            onto[1] + (y1 - of[1]) * down,
        )
        for x0, y0, x1, y1 in boxes
    ]


def moved(boxes: Sequence[Box], region: Box, rng: np.random.Generator) -> list[Box]:
    """Boxes of the same sizes elsewhere in the region: off the given ones where a place can be found, else mostly so.

    Args:
        boxes: x0, y0, x1, y1, px.
        region: of the image in its square.
        rng: of the places; so many are tried for each box as :data:`PLACES`.
    """
    taken = [_widened(box) for box in boxes]
    found = []
    for x0, y0, x1, y1 in boxes:
        width, height = min(x1 - x0, region[2] - region[0]), min(y1 - y0, region[3] - region[1])
        lefts = rng.uniform(region[0], region[2] - width, PLACES)
        tops = rng.uniform(region[1], region[3] - height, PLACES)
        places = [(left, top, left + width, top + height) for left, top in zip(lefts, tops, strict=True)]
        found.append(min(places, key=lambda place: sum(_overlap(_widened(place), one) for one in taken)))
    return found


def _widened(box: Box) -> Box:
    x0, y0, x1, y1 = box
    across, down = (max(LEAST_MARGIN, MARGIN * side) for side in (x1 - x0, y1 - y0))
    return x0 - across, y0 - down, x1 + across, y1 + down


def _overlap(one: Box, other: Box) -> float:
    """Area that two boxes share, px^2."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def _pixels(box: Box, size: int) -> tuple[int, int, int, int]:
    x0, y0 = (max(0, int(np.floor(edge))) for edge in box[:2])
    x1, y1 = (min(size, int(np.ceil(edge))) for edge in box[2:])
    return x0, y0, x1, y1
