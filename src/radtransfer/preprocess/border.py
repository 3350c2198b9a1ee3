"""The flat border around what an image shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TOLERANCE = 8
"""Grey levels that a pixel of the border may lie off the border's own."""
MAX_UNLIKE = 0.02
"""Share of a line's pixels that may lie further off: noise, scratches, the tip of a letter."""
MIN_SIDE = 0.4
"""Share of each side that must be left."""
_ROUNDS = 4
_AT_FIRST = 4
"""Lines that are looked at before twice as many are: most images have hardly a border."""


def inside_border(pixels: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Where the content of an image lies inside its flat border: collimation, film edge, padding.

    A line (row or column) at an edge has the border's grey value, the median of the outermost line, if all but
    ``MAX_UNLIKE`` of its pixels lie within ``TOLERANCE`` of it. Such lines are cut away from all four sides, up to the
    first other line; and so anew with what is left, at most four times in all, for a border can lie in another (white
    film edge around black collimation) or end where another begins. An image is taken to have no border if less than
    ``MIN_SIDE`` of its width or of its height would be left.

    Args:
        pixels: uint8 [height, width], upright.

    Returns:
        x0, y0, x1, y1 of the content, px.
    """
    height, width = pixels.shape
    x0, y0, x1, y1 = 0, 0, width, height
    for _ in range(_ROUNDS):
        rest = pixels[y0:y1, x0:x1]
        top, bottom, left, right = (_flat(lines) for lines in (rest, rest[::-1], rest.T, rest.T[::-1]))
        x0, y0, x1, y1 = x0 + left, y0 + top, x1 - right, y1 - bottom
        if x1 - x0 < MIN_SIDE * width or y1 - y0 < MIN_SIDE * height:
            return 0, 0, width, height
        if not top + bottom + left + right:
            break
    return x0, y0, x1, y1


def _flat(lines: npt.NDArray[np.uint8]) -> int:
    """How many of the first lines have the grey value of the first."""
    level = int(np.sort(lines[0])[lines.shape[1] // 2])
    low, high = max(0, level - TOLERANCE), min(255, level + TOLERANCE)
    start, count = 0, _AT_FIRST
    while start < len(lines):
        some = np.ascontiguousarray(lines[start : start + count])
        unlike = some - np.uint8(low) > high - low  # what is below `low` wraps around
        other = np.flatnonzero(unlike.sum(axis=1, dtype=np.uint32) > MAX_UNLIKE * lines.shape[1])
        if len(other):
            return start + int(other[0])
        start, count = start + count, 2 * count
    return len(lines)
