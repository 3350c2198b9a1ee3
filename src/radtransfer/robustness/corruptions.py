"""Graded corruptions of stored images: the same bytes for the same seed on every machine.

So that no processor's rounding shows, grey levels are computed in whole numbers, random ones come from the raw bits of
PCG64 (whose streams NumPy guarantees; those of its distributions may change), and the Gaussian's weights are whole
numbers whose sums float64 holds exactly, whatever the order of adding. Pillow resizes 8-bit images in whole numbers
and, unlike OpenCV, has one code for all processors of a kind; but it turns them in float64, so images are turned here.
JPEG is libjpeg-turbo's accurate integer transform, whose vector code gives the bits of its plain one.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from radtransfer.robustness.kinds import KINDS

Grey = npt.NDArray[np.uint8]
Region = tuple[int, int, int, int]
Bits = Callable[[int], npt.NDArray[np.uint64]]
"""So many random 64-bit numbers; the first ones are the same however many are asked for."""
REFERENCE_SIDE = 224
"""Of the images that the widths of the blur are given for, px."""
WEIGHT_BITS = 14
WHITE = 255
BYTES_SD = math.sqrt(8 * (256**2 - 1) / 12)
"""Standard deviation of the sum of eight random bytes."""
GLYPHS = {
    "L": ("X....", "X....", "X....", "X....", "X....", "X....", "XXXXX"),
    "R": ("XXXX.", "X...X", "X...X", "XXXX.", "X.X..", "X..X.", "X...X"),
}


def corrupted(image: Grey, region: Region, kind: str, grade: int, *, seed: int, name: str) -> Grey:
    """An image corrupted inside its letterbox; what surrounds it stays.

    Chance (the noise, a place, a direction) is drawn for each image and kind, the same for all grades: a higher grade
    is more of the same.

    Args:
        image: uint8 [S, S], not changed.
        region: x0, y0, x1, y1 of the image in its square, px.
        kind: one of :data:`~radtransfer.robustness.kinds.KINDS`.
        grade: 1 to :data:`~radtransfer.robustness.kinds.GRADES`.
        seed: of the run.
        name: of the image, what its chance hangs on beside seed and kind.

    Returns:
        uint8 [S, S].
    """
    x0, y0, x1, y1 = region
    key = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()

    def bits(count: int) -> npt.NDArray[np.uint64]:
        return np.asarray(np.random.PCG64(int.from_bytes(key[:16], "big")).random_raw(count), dtype=np.uint64)

    changed = image.copy()
    inside = np.ascontiguousarray(image[y0:y1, x0:x1])
    changed[y0:y1, x0:x1] = APPLIED[kind](inside, KINDS[kind].grades[grade - 1], bits)
    return changed


def _noise(pixels: Grey, sd: float, bits: Bits) -> Grey:
    """Eight random bytes add up to nearly a Gaussian (Irwin-Hall: no tail beyond 4.9 standard deviations)."""
    sums = bits(pixels.size).astype("<u8").view(np.uint8).reshape(*pixels.shape, 8).sum(axis=2, dtype=np.int64)
    scale = round(sd * 255 / BYTES_SD * 2**16)
    return _clipped(pixels + (((sums - 8 * 255 // 2) * scale + 2**15) >> 16))


def _blur(pixels: Grey, width: float, bits: Bits) -> Grey:
    del bits
    sd = width * max(pixels.shape) / REFERENCE_SIDE
    if sd == 0:
        return pixels
    reach = math.ceil(3 * sd)
    heights = [math.exp(-((at / sd) ** 2) / 2) for at in range(-reach, reach + 1)]
    weights = np.array([round(one / sum(heights) * 2**WEIGHT_BITS) for one in heights], dtype=np.float64)
    weights[reach] += 2**WEIGHT_BITS - weights.sum()
    summed = cv2.sepFilter2D(pixels.astype(np.float64), -1, weights, weights, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.floor(np.asarray(summed) / 4**WEIGHT_BITS + 0.5), dtype=np.uint8)


def _contrast(pixels: Grey, share: float, bits: Bits) -> Grey:
    del bits
    mean = _mean(pixels)
    return _clipped(mean + (((pixels.astype(np.int64) - mean) * round(share * 2**16) + 2**15) >> 16))


def _gamma(pixels: Grey, exponent: float, bits: Bits) -> Grey:
    power = exponent if _halves(bits) else 1 / exponent
    return np.array([round(255 * (level / 255) ** power) for level in range(256)], dtype=np.uint8)[pixels]


def _jpeg(pixels: Grey, quality: float, bits: Bits) -> Grey:
    del bits
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(quality))
    with Image.open(buffer) as image:
        return np.array(image)


def _rotation(pixels: Grey, degrees: float, bits: Bits) -> Grey:
    """About the centre, bilinear, as Pillow's, but in whole numbers; corners that come in from outside are black."""
    angle = math.radians(degrees if _halves(bits) else -degrees)
    cosine, sine = round(math.cos(angle) * 2**16), round(math.sin(angle) * 2**16)
    high, wide = pixels.shape
    down, across = 2 * np.arange(high)[:, None] + 1 - high, 2 * np.arange(wide) + 1 - wide  # half px from the centre
    origins = cosine * across - sine * down + (wide << 16), sine * across + cosine * down + (high << 16)  # px / 2^17
    inside = np.all([(at >= 0) & (at < side << 17) for at, side in zip(origins, (wide, high), strict=True)], axis=0)
    (x, right), (y, low) = (np.divmod(np.where(inside, at, 0) + 2**16, 2**17) for at in origins)
    framed = np.pad(pixels, 1, mode="edge").astype(np.int64)
    upper, lower = (framed[y + row, x] * (2**17 - right) + framed[y + row, x + 1] * right for row in (0, 1))
    return np.where(inside, (upper * (2**17 - low) + lower * low + 2**33) >> 34, 0).astype(np.uint8)


def _crop(pixels: Grey, share: float, bits: Bits) -> Grey:
    x, y, wide, high = _place(pixels, share, share, bits)
    size, box = (pixels.shape[1], pixels.shape[0]), (x, y, x + wide, y + high)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box))


def _resolution(pixels: Grey, share: float, bits: Bits) -> Grey:
    """Means over larger pixels, as of a coarser detector, brought back to size."""
    del bits
    wide, high = (max(1, round(share * side)) for side in (pixels.shape[1], pixels.shape[0]))
    coarse = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BOX)
    return np.array(coarse.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BILINEAR))


def _marker(pixels: Grey, share: float, bits: Bits) -> Grey:
    glyph = np.array([[cell == "X" for cell in row] for row in GLYPHS["L" if _halves(bits) else "R"]])
    height = math.ceil(share * max(pixels.shape))
    down, across = height / pixels.shape[0], height * glyph.shape[1] / glyph.shape[0] / pixels.shape[1]
    x, y, wide, high = _place(pixels, across, down, bits)
    rows, columns = (np.arange(to) * cells // max(1, to) for to, cells in zip((high, wide), glyph.shape, strict=True))
    changed = pixels.copy()
    changed[y : y + high, x : x + wide][glyph[np.ix_(rows, columns)]] = WHITE
    return changed


def _occlusion(pixels: Grey, share: float, bits: Bits) -> Grey:
    """In the image's mean grey, so that the rectangle tells nothing by its own brightness."""
    x, y, wide, high = _place(pixels, share, share, bits)
    changed = pixels.copy()
    changed[y : y + high, x : x + wide] = _mean(pixels)
    return changed


APPLIED: dict[str, Callable[[Grey, float, Bits], Grey]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "gamma": _gamma,
    "jpeg": _jpeg,
    "rotation": _rotation,
    "crop": _crop,
    "resolution": _resolution,
    "marker": _marker,
    "occlusion": _occlusion,
}
"""What each kind does to the pixels of a region [height, width] at a strength."""


def _place(pixels: Grey, across: float, down: float, bits: Bits) -> tuple[int, int, int, int]:
    """Left, top, width and height of a rectangle with such shares of the sides; a smaller one lies inside a larger."""
    sides = (pixels.shape[1], across), (pixels.shape[0], down)
    wide, high = (min(side, round(share * side)) for side, share in sides)
    left, top = (int(one >> np.uint64(32)) for one in bits(3)[1:])
    return left * (pixels.shape[1] - wide) >> 32, top * (pixels.shape[0] - high) >> 32, wide, high


def _halves(bits: Bits) -> bool:
    """True for half of the images."""
    return bool(bits(1)[0] >> np.uint64(63))


def _mean(pixels: Grey) -> int:
    return (int(pixels.sum(dtype=np.int64)) + pixels.size // 2) // pixels.size


def _clipped(levels: npt.NDArray[np.int64]) -> Grey:
    return levels.clip(0, 255).astype(np.uint8)
