"""One image file to one grey image: the same code for training and for prediction."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from radtransfer.preprocess.pixels import (
    COLOUR,
    MAX_BYTES,
    MAX_PIXELS,
    Decoded,
    ImageError,
    Window,
    bounded,
    coloured,
    luminance,
    to_8_bit,
)

MAX_LOST = 0.1
# Entropy-coded data that no encoder wrote and that holds no marker: what depends on it, the file did not hold.
_FILLER = bytes(range(1, 252, 7)) * 1800
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


def decode(path: Path, window: Window | None = None) -> Decoded:
    """Read a PNG (8 or 16 bit, palette, colour), JPEG or single-frame DICOM file as an upright 8-bit grey image.

    EXIF orientation is applied, colour becomes luminance (ITU-R 601), transparency lies on black. More than 8 bits
    are scaled by :func:`to_8_bit`. An image of DICOM pixels that are not square is stretched. A JPEG that lacks its
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
    decoded = _decode_dicom(data, path, window) if data[128:132] == b"DICM" else _decode_picture(data, path)
    if decoded.pixels.min() == decoded.pixels.max():
        raise ImageError(f"{path}: every pixel is {decoded.pixels.flat[0]}; not an image of anything", "constant")
    return decoded


def _decode_dicom(data: bytes, path: Path, window: Window | None) -> Decoded:
    from radtransfer.preprocess.dicom import decode_dicom  # takes a while, in every process that decodes

    return decode_dicom(data, path, window)


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
        return Decoded(to_8_bit(np.asarray(image, dtype=np.float64)), (*flags, "16bit"))
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode in ("L", "1"):
        return Decoded(np.asarray(image if image.mode == "L" else image.convert("L")), tuple(flags))
    rgb = np.asarray(image.convert("RGB"))
    share = coloured(rgb)
    if share > COLOUR:
        flags.append("colour")
    return Decoded(luminance(rgb), tuple(flags), share)


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
    bounded(image.width * image.height, path)
    frames = image.n_frames if isinstance(image, PngImageFile) else 1  # the others of a JPEG are previews of the first
    if frames != 1:
        raise ImageError(f"{path}: animated PNG with {frames} frames; give each image a file of its own")
    return image


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
