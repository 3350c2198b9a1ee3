"""Does the score hang on what a map shows? Deletion and insertion: pixels hidden, and shown, in the order of the map.

Petsiuk, Das, Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, section 4.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from radtransfer.explain.superpixels import CHUNK_BYTES, Box, pixels_of

STEPS = 10
"""Equal shares of the pixels, after each of which the image is scored."""
TILES = 7
"""Tiles along each side of the image: about as many as there are superpixels, or cells of a feature map."""


def tiles(size: int, content: Box) -> NDArray[np.int64]:
    """Equal tiles 0..K-1 of the image inside ``content`` (px of a square of side ``size``); -1 outside.

    K is :data:`TILES` squared, less where the image has fewer pixels along a side.
    """
    left, top, right, bottom = pixels_of(content, (size, size))
    high, wide = bottom - top, right - left
    down, across = (np.arange(side) * min(TILES, side) // side for side in (high, wide))
    found = np.full((size, size), -1, np.int64)
    found[top:bottom, left:right] = down[:, None] * min(TILES, wide) + across
    return found


def coarse(heat: NDArray[np.float32], content: Box) -> NDArray[np.float64]:
    """Mean of a map [S, S] over each of the :func:`tiles` of ``content``, [K]."""
    tiled = tiles(len(heat), content)
    return np.asarray(ndimage.mean(heat, tiled, np.arange(tiled.max() + 1)), np.float64)


def ranks(heat: NDArray[np.float32], tiled: NDArray[np.int64], seed: int | tuple[int, ...]) -> NDArray[np.int32]:
    """The place of every pixel in the order of a map, from its highest value (0) to its lowest.

    Equal values, as within a superpixel or where a map is 0, go by a random order of the tiles, so that an empty map
    is a random one, of about the grain of the maps.

    Args:
        heat: the map, [S, S].
        tiled: of :func:`tiles`, [S, S].
        seed: of the order of the tiles; the same seed gives the same order.

    Returns:
        int32 [S, S]; -1 outside the image.
    """
    pixels = np.flatnonzero(tiled >= 0)
    shuffled = np.random.default_rng(seed).permutation(int(tiled.max()) + 1)
    order = np.lexsort((shuffled[tiled.flat[pixels]], -heat.flat[pixels]))
    found = np.full(tiled.shape, -1, np.int32)
    found.flat[pixels[order]] = np.arange(len(pixels))
    return found


def areas(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    images: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    orders: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Area under the probability over the share of pixels hidden, and over the share shown, in the order of maps.

    The area is by trapezoids over :data:`STEPS` equal steps from none of the pixels to all of them, so that it is the
    mean probability on the way. A good map has a low area of deletion and a high one of insertion; of a random order
    both are the same on average.

    Args:
        predict: uint8 [B, S, S] to probabilities [B].
        images: uint8 [N, S, S].
        hidden: uint8 [N, S, S], what a hidden pixel shows.
        orders: int [N, M, S, S], M orders of the pixels of each image, see :func:`ranks`. What is outside stays.

    Returns:
        float64 [N, M, 2] in [0, 1]: deletion, insertion.
    """
    count, maps, size = orders.shape[0], orders.shape[1], images.shape[1]
    inner = STEPS - 1
    passes = 2 + 2 * maps * inner
    found = np.empty((count, maps, 2))
    chunk = max(1, CHUNK_BYTES // (passes * size**2))
    for start in range(0, count, chunk):
        places = range(start, min(start + chunk, count))
        changed = np.concatenate([_on_the_way(images[n], hidden[n], orders[n]) for n in places])
        scores = predict(changed).reshape(len(places), passes)
        for n, own in zip(places, scores, strict=True):
            original, blank = own[:2]
            shares = _counts(orders[n]) / _counts(orders[n])[-1]
            between = own[2:].reshape(maps, 2, inner)
            for number in range(maps):
                gone, shown = between[number]
                found[n, number] = (
                    np.trapezoid([original, *gone, blank], shares),
                    np.trapezoid([blank, *shown, original], shares),
                )
    return found


def _counts(orders: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many pixels are changed at each step, [STEPS + 1]."""
    return np.rint(np.linspace(0, int(orders.max()) + 1, STEPS + 1)).astype(np.int64)


def _on_the_way(image: NDArray[np.uint8], hidden: NDArray[np.uint8], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The image, the hidden image; then of each map [M] what deletion, and insertion, make of it at the inner steps."""
    blank = np.where(orders[0] < 0, image, hidden)
    first = orders[:, None] < _counts(orders)[1:-1, None, None]  # [M, STEPS - 1, S, S]
    way = np.stack([np.where(first, blank, image), np.where(first, image, blank)], axis=1)
    return np.concatenate([image[None], blank[None], way.reshape(-1, *image.shape)])
