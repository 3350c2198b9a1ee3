"""An image as the search for duplicates sees it: at 144 x 144 px, its aspect ignored."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from radtransfer.preprocess.letterbox import halved
from radtransfer.preprocess.pixels import Grey

THUMBNAIL = 144
COARSE = 48
# Gaussian filters as matrices, which is faster for so small an image.
_EYE = np.eye(COARSE, dtype=np.float32)
_MEAN, _SPREAD = (cv2.GaussianBlur(_EYE, (1, 8 * s + 1), s, borderType=cv2.BORDER_REFLECT) for s in (2, 4))


def thumbnail(pixels: Grey) -> Grey:
    """The image at 144 x 144 px, its aspect ignored: linear interpolation of averages over about as much as a pixel."""
    size = (THUMBNAIL, THUMBNAIL)
    pixels = halved(pixels, *size)
    spans = tuple(2 * (side // (2 * THUMBNAIL)) + 1 for side in pixels.shape[::-1])
    averages = cv2.blur(pixels, spans, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(averages, size, interpolation=cv2.INTER_LINEAR_EXACT), dtype=np.uint8)


def pixel_digest(pixels: Grey) -> str:
    """Digest of decoded pixels and shape: equal for one image stored in two files."""
    digest = xxhash.xxh3_128(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def descriptor(small: Grey) -> npt.NDArray[np.int8]:
    """Locally standardised 48 x 48 reduction of a thumbnail, int8 [2304] (63 = 2 local deviations)."""
    coarse = cv2.resize(small.astype(np.float32), (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    detail = coarse - _MEAN @ coarse @ _MEAN.T
    scaled = np.clip(detail / (np.sqrt(_SPREAD @ (detail * detail) @ _SPREAD.T) + 2), -2, 2)
    centred = np.clip(scaled - scaled.mean(), -2, 2)
    return np.asarray(np.rint(centred * 31.5), dtype=np.int8).ravel()
