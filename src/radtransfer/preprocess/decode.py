"""One image file to one grey image, and that to a square: the same code for training and for prediction."""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

import radtransfer.preprocess.codecs  # noqa: F401  more transfer syntaxes
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.border import inside_border

Grey = npt.NDArray[np.uint8]
MAX_PIXELS = 100_000_000
MAX_BYTES = 400_000_000
MAX_RLE_BYTES = MAX_BYTES // 8
"""RLE packs up to 64 to 1, and pydicom unpacks all of it, however small the image is said to be."""
MAX_LOST = 0.1
# Entropy-coded data that no encoder wrote and that holds no marker: what depends on it, the file did not hold.
_FILLER = bytes(range(1, 252, 7)) * 1800
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's and OpenCV's
_BLUR = 0.42
"""Deviation of the Gaussian before a reduction, px of the result: less leaves aliasing, more takes detail."""
_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_END_OF_IMAGE = b"\xff\xd9"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """

    pixels: Grey
    flags: tuple[str, ...]


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


def decode(path: Path, window: Window | None = None) -> Decoded:
    """Read a PNG (8 or 16 bit, palette, colour), JPEG or single-frame DICOM file as an upright 8-bit grey image.

    EXIF orientation is applied, colour becomes luminance (ITU-R 601), transparency lies on black. More than 8 bits
    are scaled by :func:`_to_8_bit`. An image of DICOM pixels that are not square is stretched. A JPEG that lacks its
    last bytes is repaired if at most a tenth of its area is lost; the lost part is black. (In the 44 such files of
    FracAtlas a few bytes hold 3 to 39 % of the area, since a film's empty end costs next to nothing; beyond a tenth
    there is anatomy in it.)

    Args:
        path: the file.
        window: for DICOM files of modality CT, and for those alone; None: the window that the file names.

    Raises:
        ImageError: missing, of no known format, too large, damaged, or one grey value all over. The message names the
            file and holds nothing of a DICOM file's tags.
    """
    path = Path(path)
    return decode_bytes(read_bytes(path), path, window)


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: missing, not readable, or larger than any image would be.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{path}: {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def decode_bytes(data: bytes, path: Path, window: Window | None = None) -> Decoded:
    """As :func:`decode`, of bytes already read; ``path`` only names the file in errors."""
    if not data:
        raise ImageError(f"{path}: empty file", "empty")
    if data[128:132] == b"DICM":
        with _pydicom_silent():
            decoded = _decode_dicom(data, path, window)
    else:
        decoded = _decode_picture(data, path)
    if decoded.pixels.min() == decoded.pixels.max():
        raise ImageError(f"{path}: every pixel is {decoded.pixels.flat[0]}; not an image of anything", "constant")
    return decoded


def _decode_picture(data: bytes, path: Path) -> Decoded:
    flags: list[str] = []
    image: Image.Image = _opened(data, path)
    try:
        image.load()
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more on damaged files
        cut = "truncated" in str(error)
        if image.format != "JPEG" or not cut:
            problem = "truncated" if cut else "unreadable"
            raise ImageError(f"{path}: damaged image ({error}); get this file again or remove it", problem) from None
        image = _repaired(data, path, progressive=bool(image.info.get("progressive")))
        flags.append("truncated")
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
        flags.append("exif_rotated")
    if image.mode.startswith("I") or image.mode == "F":
        return Decoded(_to_8_bit(np.asarray(image, dtype=np.float64)), (*flags, "16bit"))
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode in ("L", "1"):
        return Decoded(np.asarray(image.convert("L")), tuple(flags))
    rgb = np.asarray(image.convert("RGB"))
    if _coloured(rgb):
        flags.append("colour")
    return Decoded(_luminance(rgb), tuple(flags))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright by its EXIF orientation; damaged EXIF says nothing of it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error, TypeError and more
        return None


def _opened(data: bytes, path: Path) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: too large; at most {MAX_PIXELS} pixels are decoded") from None
    except Exception:
        raise ImageError(f"{path}: not a PNG, JPEG or DICOM file, or its header is damaged") from None
    _bounded(image.width * image.height, path)
    frames = image.n_frames if isinstance(image, PngImageFile) else 1  # the others of a JPEG are previews of the first
    if frames != 1:
        raise ImageError(f"{path}: animated PNG with {frames} frames; give each image a file of its own")
    return image


def _bounded(pixels: int, path: Path) -> None:
    if not 0 < pixels <= MAX_PIXELS:
        raise ImageError(f"{path}: {pixels} pixels; between 1 and {MAX_PIXELS} are decoded")


def _luminance(rgb: npt.NDArray[np.uint8]) -> Grey:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _coloured(rgb: npt.NDArray[np.uint8]) -> bool:
    """Whether more than one pixel in a thousand is clearly coloured (JPEG's own chroma noise is below that)."""
    red, green, blue = cv2.split(rgb)
    spread = cv2.max(cv2.absdiff(red, green), cv2.absdiff(green, blue))
    return bool(np.count_nonzero(np.asarray(spread) > 32) > 1e-3 * spread.size)


def _repaired(data: bytes, path: Path, *, progressive: bool) -> ImageFile.ImageFile:
    """Decode a JPEG that ends too soon, and measure what is lost.

    It is ended in two ways, by the end marker and by arbitrary data: what differs in the two pictures is what the
    file does not hold. A progressive file lacks detail everywhere, so it is not repaired.
    """
    if progressive:
        raise ImageError(f"{path}: truncated progressive JPEG; get this file again or remove it", "truncated")
    body = data.rstrip(b"\xff")
    ended, filled = (_opened(body + tail + _END_OF_IMAGE, path) for tail in (b"", _FILLER))
    try:
        differs = (np.asarray(ended) != np.asarray(filled)).reshape(ended.height, ended.width, -1).any(axis=2)
    except Exception as error:
        message = f"{path}: truncated JPEG, cannot be repaired ({error}); get this file again"
        raise ImageError(message, "truncated") from None
    areas = _lost_areas(differs)
    share = sum((right - left) * (bottom - top) for left, top, right, bottom in areas) / differs.size
    if share > MAX_LOST:
        raise ImageError(f"{path}: truncated JPEG, {share:.0%} of the image is lost; get this file again", "truncated")
    for area in areas:
        ended.paste(0, area)
    return ended


def _lost_areas(differs: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of what comes at and after the first differing block, in rows of 16 px blocks."""
    height, width = differs.shape
    rows = np.flatnonzero(differs.any(axis=1))
    if rows.size == 0:
        return []
    top = int(rows[0]) // 16 * 16
    bottom = min(top + 16, height)
    left = int(np.flatnonzero(differs[top:bottom].any(axis=0))[0]) // 16 * 16
    return [(left, top, width, bottom), (0, bottom, width, height)]


def _to_8_bit(values: npt.NDArray[np.float64]) -> Grey:
    """Scale to 0..255 from the 0.1 to the 99.9 percentile, clipping outside.

    Not the type's full range: 10- and 12-bit detectors write 16-bit files, which would come out nearly black; not
    minimum and maximum: one dead pixel or a burnt-in marker would set the contrast of the whole image.
    """
    low, high = (float(edge) for edge in np.percentile(values, (0.1, 99.9)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return _windowed(values, low, high)


def _windowed(values: npt.NDArray[np.float64], low: float, high: float) -> Grey:
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@contextmanager
def _pydicom_silent() -> Iterator[None]:
    """What pydicom warns of, by two ways, quotes tags; a log is no place for them."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # holds for the loggers below it too
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


class _TooLargeError(Exception):
    pass


def _dicom_dataset(data: bytes) -> pydicom.Dataset:
    """As :func:`pydicom.dcmread`, which inflates a deflated data set whatever it grows to; here it is bounded.

    The transfer syntax stands in the file as text, so that one without this text is not deflated, however odd.
    """
    if DeflatedExplicitVRLittleEndian.encode() not in data:
        return pydicom.dcmread(io.BytesIO(data), force=False)
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(stream.read(), MAX_BYTES)
    if inflater.unconsumed_tail:
        raise _TooLargeError
    dataset = read_dataset(io.BytesIO(body), False, True)
    dataset.file_meta = FileMetaDataset(meta)
    return dataset


def _decode_dicom(data: bytes, path: Path, window: Window | None) -> Decoded:
    """One frame through modality LUT, then for CT ``window``, else the file's VOI LUT or window, else percentiles."""
    try:
        dataset = _dicom_dataset(data)
        if dataset.get("Modality") != "CT":
            window = None
        unfit = _unfit(dataset)
        no_window = _no_hounsfield(dataset) if window else ""
        pixels_said = int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
        burnt_in = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    except _TooLargeError:
        raise ImageError(f"{path}: DICOM file that inflates to more than {MAX_BYTES} bytes") from None
    except Exception as error:
        raise ImageError(f"{path}: damaged DICOM file ({type(error).__name__})") from None
    if unfit:
        raise ImageError(f"{path}: {unfit}")
    if no_window:
        raise ImageError(
            f"{path}: CT {no_window}, so no CT window can be applied; get the file as the scanner wrote it, or leave "
            "ct_window empty"
        )
    _bounded(pixels_said, path)
    flags: tuple[str, ...] = ("dicom", "burnt_in_text") if burnt_in else ("dicom",)
    try:
        raw = dataset.pixel_array
        if raw.ndim == 3:
            rgb = raw if raw.dtype == np.uint8 else _to_8_bit(raw)
            grey = _luminance(rgb) if raw is rgb else _to_8_bit(raw @ np.array(_LUMINANCE))
            return Decoded(_square(grey, dataset), (*flags, "colour") if _coloured(rgb) else flags)
        stored = _significant_bits(raw, dataset)
        inside = _inside(stored, dataset)
        shown = _shown(np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)[inside], dataset, window)
        inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        pixels = np.zeros(raw.shape, dtype=np.uint8)
        pixels[inside] = 255 - shown if inverted else shown
        pixels = _square(pixels, dataset)
    except Exception as error:  # what pydicom and its decoders raise may quote tags: only the type is passed on
        raise ImageError(f"{path}: DICOM pixels cannot be decoded ({type(error).__name__})") from None
    if window is not None:
        flags = (*flags, "hounsfield")
    return Decoded(pixels, (*flags, "inverted") if inverted else flags)


def _unfit(dataset: pydicom.Dataset) -> str:
    """Why a DICOM file cannot be used, by its header; empty if it can. Damaged ones raise whatever pydicom raises."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return "DICOM file without pixel data; give image files, no reports or plans"
    syntax = dataset.file_meta.TransferSyntaxUID
    if not readable(syntax):
        return (
            "DICOM file in a transfer syntax that cannot be decoded here; export it uncompressed (Explicit VR Little "
            "Endian)"
        )
    bits = _unfit_bits(dataset) if "PixelData" in dataset else ""
    if bits:
        return f"DICOM file whose {bits}; export it anew"
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        return f"DICOM file with {frames} frames; give single-frame files"
    if str(dataset.get("PhotometricInterpretation", "")) not in _PHOTOMETRIC:
        return "DICOM photometric interpretation is not supported; expected MONOCHROME1 or 2"
    packed = len(dataset.get("PixelData", b"")) if syntax == RLELossless else 0
    return f"{packed} bytes of RLE; at most {MAX_RLE_BYTES} are decoded" if packed > MAX_RLE_BYTES else ""


def _unfit_bits(dataset: pydicom.Dataset) -> str:
    """What is wrong with how the bits of the pixels are described; empty: nothing."""
    stored = int(dataset.get("BitsStored", 0))
    if not 1 <= stored <= int(dataset.get("BitsAllocated", 0)):
        return "BitsStored is missing, or not between 1 and BitsAllocated"
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        return "HighBit is not BitsStored - 1"
    known = dataset.get("PixelRepresentation") in (0, 1)
    return "" if known else "PixelRepresentation (0: unsigned, 1: signed) is missing"


def readable(syntax: UID) -> bool:
    """Whether pydicom has a decoder for a transfer syntax, and what that one needs is installed."""
    try:
        return not syntax.is_encapsulated or bool(get_decoder(syntax).is_available)
    except (NotImplementedError, ValueError):  # not known, or not of pixels
        return False


def _no_hounsfield(dataset: pydicom.Dataset) -> str:
    """Why the modality LUT does not lead to Hounsfield units; empty if it does, as of CT, unless RescaleType differs.

    See DICOM PS3.3 C.8.2.1.
    """
    if any(_first(dataset.get(name)) is None for name in ("RescaleSlope", "RescaleIntercept")):
        return "without rescale slope and intercept to Hounsfield units"
    if str(dataset.get("RescaleType", "") or "HU") != "HU":
        return "whose RescaleType is not HU (Hounsfield units)"
    return ""


def _inside(stored: npt.NDArray[Any], dataset: pydicom.Dataset) -> Any:
    """An index to what is no padding, whose values PixelPaddingValue and PixelPaddingRangeLimit name (C.7.5.1.1.2).

    Both are in the bits of the pixels as stored, whatever sign the file gives them.
    """
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or stored.dtype.kind == "f":
        return ...
    bits = (1 << int(dataset.BitsStored)) - 1
    low, high = sorted(_signed(int(ends[0] if end is None else end) & bits, dataset) for end in ends)
    padding = (stored >= low) & (stored <= high)
    return ~padding if padding.any() and not padding.all() else ...


def _shown(real: npt.NDArray[np.float64], dataset: pydicom.Dataset, window: Window | None) -> Grey:
    """Apply ``window``, else the file's VOI LUT or its first window (DICOM PS3.3 C.11.2.1.2), else percentiles."""
    if window is not None:
        return _windowed(real, window.centre - window.width / 2, window.centre + window.width / 2)
    if "VOILUTSequence" in dataset or str(dataset.get("VOILUTFunction", "LINEAR")) == "SIGMOID":
        shown = np.asarray(apply_voi_lut(real.astype(np.int64), dataset), dtype=np.float64)
        return _windowed(shown, float(shown.min()), float(shown.max()))
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 1:
        return _to_8_bit(real)
    return _windowed(real, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _square(pixels: Grey, dataset: pydicom.Dataset) -> Grey:
    """Stretch an image whose pixels are not square (PixelAspectRatio: height and width of one), so that they are.

    Raises:
        ValueError: the ratio is none, or leads to too large an image.
    """
    down, across = (int(side) for side in dataset.get("PixelAspectRatio") or (1, 1))
    if down == across:
        return pixels
    height, width = pixels.shape
    size = (width, round(height * down / across)) if down > across else (round(width * across / down), height)
    if min(down, across) < 1 or math.prod(size) > MAX_PIXELS:
        raise ValueError("pixel aspect ratio")
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _first(value: Any) -> float | None:
    """First number of a DICOM value that may be absent, empty, one number or several."""
    values = value if isinstance(value, MultiValue) else [value]
    return None if not len(values) or values[0] in (None, "") else float(values[0])


def _significant_bits(raw: npt.NDArray[Any], dataset: pydicom.Dataset) -> npt.NDArray[Any]:
    """Drop what lies above BitsStored (old overlays), with the sign restored for signed pixels."""
    stored, allocated = int(dataset.BitsStored), raw.dtype.itemsize * 8
    if stored >= allocated:
        return raw
    low = raw & ((1 << stored) - 1)
    return _signed(low.astype(np.int64), dataset) if int(dataset.get("PixelRepresentation", 0)) else low


def _signed(bits: Any, dataset: pydicom.Dataset) -> Any:
    """Numbers (int, or an array of int64) from their BitsStored bits."""
    sign = (1 << (int(dataset.BitsStored) - 1)) if int(dataset.get("PixelRepresentation", 0)) else 0
    return (bits ^ sign) - sign
