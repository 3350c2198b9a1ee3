"""A single-frame DICOM file to a grey image; nothing of its tags but what the flags say leaves this module."""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

import radtransfer.preprocess.codecs  # noqa: F401  more transfer syntaxes
from radtransfer.preprocess.pixels import (
    COLOUR,
    LUMINANCE,
    MAX_BYTES,
    MAX_PIXELS,
    MODALITIES,
    Decoded,
    Grey,
    ImageError,
    Window,
    bounded,
    coloured,
    luminance,
    to_8_bit,
    windowed,
)

MAX_RLE_BYTES = MAX_BYTES // 8
"""RLE packs up to 64 to 1, and pydicom unpacks all of it, however small the image is said to be."""
_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


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


@_pydicom_silent()
def decode_dicom(data: bytes, path: Path, window: Window | None) -> Decoded:
    """One frame through modality LUT, then for CT ``window``, else the file's VOI LUT or window, else percentiles."""
    try:
        dataset = _dicom_dataset(data)
        said = str(dataset.get("Modality", ""))
        modality = said if said in MODALITIES else ""
        if modality != "CT":
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
    bounded(pixels_said, path)
    flags: tuple[str, ...] = ("dicom", "burnt_in_text") if burnt_in else ("dicom",)
    try:
        raw = dataset.pixel_array
        if raw.ndim == 3:
            rgb = raw if raw.dtype == np.uint8 else to_8_bit(raw)
            grey = luminance(rgb) if raw is rgb else to_8_bit(raw @ np.array(LUMINANCE))
            share = coloured(rgb)
            return Decoded(_square(grey, dataset), (*flags, "colour") if share > COLOUR else flags, share, modality)
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
    return Decoded(pixels, (*flags, "inverted") if inverted else flags, modality=modality)


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
        return windowed(real, window.centre - window.width / 2, window.centre + window.width / 2)
    if "VOILUTSequence" in dataset or str(dataset.get("VOILUTFunction", "LINEAR")) == "SIGMOID":
        shown = np.asarray(apply_voi_lut(real.astype(np.int64), dataset), dtype=np.float64)
        return windowed(shown, float(shown.min()), float(shown.max()))
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 1:
        return to_8_bit(real)
    return windowed(real, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


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
