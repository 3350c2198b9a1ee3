"""What a decoded image is, and what the decoders of pictures and of DICOM share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from radtransfer.errors import RadtransferError

Grey = npt.NDArray[np.uint8]
MAX_PIXELS = 100_000_000
MAX_BYTES = 400_000_000
COLOUR = 1e-3
"""Share of clearly coloured pixels above which an image is said to have colours."""
X_RAY = frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "PX", "IO"})
"""DICOM modalities (PS3.3 C.7.3.1.1.1) that are projections of X-rays."""
MODALITIES = X_RAY | {"CT", "MR", "US", "NM", "PT", "OP", "OPT", "ES", "GM", "SM", "XC"}
"""DICOM modalities that say how an image was made; OT, SC and the like do not."""
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's and OpenCV's


class ImageError(RadtransferError):
    """An image file that cannot be used.

    Attributes:
        problem: what is wrong with it, one of :data:`radtransfer.problems.PROBLEMS`.
    """

    def __init__(self, message: str, problem: str = "unreadable") -> None:
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True)
class Window:
    """What of a CT scan is shown, in Hounsfield units: ``width`` units around ``centre`` fill black to white.

    Raises (from the constructor):
        RadtransferError: a width that is not positive, or a number that is not finite.
    """

    centre: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.width) and self.width > 0):
            raise RadtransferError(f"CT window: centre {self.centre}, width {self.width}; expected a positive width")

    @classmethod
    def of(cls, values: Sequence[float]) -> Window | None:
        """From [centre, width]; none from an empty sequence."""
        if not values:
            return None
        if len(values) != 2:
            raise RadtransferError(f"CT window: {len(values)} numbers; expected two, centre and width")
        return cls(float(values[0]), float(values[1]))


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 [height, width], brighter = denser (radiographic convention), upright.
        flags: what was done to get it: ``truncated`` (the file lacks its last bytes), ``exif_rotated``, ``colour``
            (it had colours, luminance was taken), ``16bit``, ``dicom``, ``inverted`` (MONOCHROME1), ``hounsfield`` (a
            window in Hounsfield units was applied), ``burnt_in_text`` (the header says so; pixels are not searched).
        coloured: share of the pixels that are clearly coloured.
        modality: the DICOM modality, if it is one of :data:`MODALITIES`; else empty.
    """

    pixels: Grey
    flags: tuple[str, ...]
    coloured: float = 0.0
    modality: str = ""


def bounded(pixels: int, path: Path) -> None:
    if not 0 < pixels <= MAX_PIXELS:
        raise ImageError(f"{path}: {pixels} pixels; between 1 and {MAX_PIXELS} are decoded")


def luminance(rgb: npt.NDArray[np.uint8]) -> Grey:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def coloured(rgb: npt.NDArray[np.uint8]) -> float:
    """Share of the pixels that are clearly coloured, 0 to 1; JPEG's own chroma noise is below :data:`COLOUR`."""
    red, green, blue = cv2.split(rgb)
    spread = cv2.max(cv2.absdiff(red, green), cv2.absdiff(green, blue))
    return float(np.count_nonzero(np.asarray(spread) > 32) / spread.size)


def to_8_bit(values: npt.NDArray[np.float64]) -> Grey:
    """Scale to 0..255 from the 0.1 to the 99.9 percentile, clipping outside.

    Not the type's full range: 10- and 12-bit detectors write 16-bit files, which would come out nearly black; not
    minimum and maximum: one dead pixel or a burnt-in marker would set the contrast of the whole image.
    """
    low, high = (float(edge) for edge in np.percentile(values, (0.1, 99.9)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return windowed(values, low, high)


def windowed(values: npt.NDArray[np.float64], low: float, high: float) -> Grey:
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
