"""An image's place in the stored square, and the resampling that brings it there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from radtransfer.preprocess.border import inside_border
from radtransfer.preprocess.pixels import Grey

if TYPE_CHECKING:
    from radtransfer.preprocess.store import Store

_BLUR = 0.42
"""Deviation of the Gaussian before a reduction, px of the result: less leaves aliasing, more takes detail."""


@dataclass(frozen=True)
class Letterbox:
    """Where an image of ``width`` x ``height`` px lies inside a square: cropped, scaled by ``scale``, then moved.

    Attributes:
        scale: stored px per original px.
        left, top: offset of the content in the square, px.
        width, height: size of the original image, px.
        size: side of the square, px.
        x0, y0, x1, y1: what of the original image is shown, px.
    """

    scale: float
    left: int
    top: int
    width: int
    height: int
    size: int
    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of(cls, width: int, height: int, size: int, shown: Sequence[int]) -> Letterbox:
        """The largest and most central place for ``shown`` (x0, y0, x1, y1) of an image, all in px."""
        x0, y0, x1, y1 = (int(edge) for edge in shown)
        bare = cls(size / max(x1 - x0, y1 - y0), 0, 0, width, height, size, x0, y0, x1, y1)
        wide, high = bare.content
        return replace(bare, left=(size - wide) // 2, top=(size - high) // 2)

    @property
    def cropped(self) -> bool:
        """Whether a part of the image is not shown."""
        return (self.x0, self.y0, self.x1, self.y1) != (0, 0, self.width, self.height)

    @property
    def content(self) -> tuple[int, int]:
        """Width and height of the content inside the square, px."""
        return max(1, round((self.x1 - self.x0) * self.scale)), max(1, round((self.y1 - self.y0) * self.scale))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        """A box in original px to the same box in stored px, clipped to what is shown: without area if nothing is."""
        wide, high = self.content
        across, down = wide / (self.x1 - self.x0), high / (self.y1 - self.y0)
        x0, x1 = (self.left + (min(max(x, self.x0), self.x1) - self.x0) * across for x in (x0, x1))
        y0, y1 = (self.top + (min(max(y, self.y0), self.y1) - self.y0) * down for y in (y0, y1))
        return x0, y0, x1, y1

    def restore(self, square: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """A map over the square ([size, size], any real type) to one over the original image ([height, width]).

        It is 0 where the image is not shown.
        """
        if square.shape != (self.size, self.size):
            raise ValueError(f"expected a map of shape {(self.size, self.size)}, got {square.shape}")
        wide, high = self.content
        inside = np.asarray(square[self.top : self.top + high, self.left : self.left + wide], dtype=np.float32)
        shown = Image.fromarray(inside).resize((self.x1 - self.x0, self.y1 - self.y0), Image.Resampling.BILINEAR)
        back = np.zeros((self.height, self.width), dtype=np.float32)
        back[self.y0 : self.y1, self.x0 : self.x1] = np.asarray(shown)
        return back


def letterbox(pixels: Grey, size: int, *, crop_border: bool = False) -> tuple[Grey, Letterbox]:
    """Scale an image to fit a square, keeping its aspect; the rest is black.

    The resampling is :func:`scaled`.

    Args:
        pixels: uint8 [height, width].
        size: side of the square, px.
        crop_border: cut away the flat border first, see :func:`~radtransfer.preprocess.border.inside_border`.

    Returns:
        uint8 [size, size] and the mapping between the two.
    """
    height, width = pixels.shape
    box = Letterbox.of(width, height, size, inside_border(pixels) if crop_border else (0, 0, width, height))
    wide, high = box.content
    square = np.zeros((size, size), dtype=np.uint8)
    shown = scaled(pixels[box.y0 : box.y1, box.x0 : box.x1], wide, high)
    square[box.top : box.top + high, box.left : box.left + wide] = shown
    return square, box


def region(store: Store, row: int) -> tuple[float, float, float, float]:
    """Where an image lies in its stored square (x0, y0, x1, y1), px."""
    width, height, shown = (store.manifest[name].iloc[row] for name in ("width", "height", "shown"))
    return Letterbox.of(int(width), int(height), store.size, shown).box(0, 0, int(width), int(height))


def scaled(pixels: Grey, width: int, height: int) -> Grey:
    """Resample an image by bicubic interpolation; before a reduction a Gaussian takes out what would alias.

    Args:
        pixels: uint8 [any, any].
        width, height: of the result, px.
    """
    pixels = halved(pixels, width, height)
    factor = max(pixels.shape[1] / width, pixels.shape[0] / height)
    blurred = cv2.GaussianBlur(pixels, (0, 0), _BLUR * math.sqrt(factor**2 - 1)) if factor > 1 else pixels
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def halved(pixels: Grey, width: int, height: int) -> Grey:
    """Average 2 x 2 pixels, and so on, as long as the image is at least four times as wide and as high as is asked for.

    A first, fast step of a reduction. An odd last line is left out: less than half a pixel of the result is lost.

    Args:
        pixels: uint8 [any, any].
        width, height: what it is to be reduced to in the end, px.
    """
    while pixels.shape[1] >= 4 * width and pixels.shape[0] >= 4 * height:
        high, wide = (side // 2 for side in pixels.shape)
        even = pixels[: 2 * high, : 2 * wide]
        pixels = np.asarray(cv2.resize(even, (wide, high), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return pixels
