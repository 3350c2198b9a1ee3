"""Image files to squares, thumbnails and digests, in parallel processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

from radtransfer.preprocess import grouping
from radtransfer.preprocess.decode import Grey, ImageError, Letterbox, Window, decode_bytes, letterbox, read_bytes

IMAGES_PER_WORKER = 500
"""Fewer do not pay for the start of one more process."""
_BATCH = 16


@dataclass(frozen=True)
class Scratch:
    """Equal-sized uint8 images in a file, by position; several processes may write at once, each its own positions.

    Attributes:
        path: the file; it need not exist.
        shape: height and width of an image, px.
    """

    path: Path
    shape: tuple[int, int]

    def write(self, position: int, image: Grey) -> None:
        """Put an image at a position.

        Raises:
            ValueError: it has another shape.
        """
        if image.shape != self.shape:
            raise ValueError(f"expected shape {self.shape}, got {image.shape}")
        with self.path.open("r+b") as stream:
            stream.seek(position * image.size)
            stream.write(image.tobytes())

    def __getitem__(self, position: int, /) -> Grey:
        length = self.shape[0] * self.shape[1]
        with self.path.open("rb") as stream:
            stream.seek(position * length)
            data = stream.read(length)
        if len(data) < length:
            raise IndexError(position)
        return np.frombuffer(data, dtype=np.uint8).reshape(self.shape)


class Levels(NamedTuple):
    """Grey levels of an image, before it is scaled.

    Attributes:
        mean, deviation: over its pixels, 0 to 255.
        black, saturated: shares of its pixels (0 to 1) that are 0 and 255.
    """

    mean: float
    deviation: float
    black: float
    saturated: float

    @classmethod
    def of(cls, pixels: Grey) -> Levels:
        """Those of uint8 pixels [height, width]."""
        shares = np.array(Image.fromarray(pixels).histogram()) / pixels.size
        levels = np.arange(len(shares))
        mean = float(shares @ levels)
        return cls(mean, float(np.sqrt(shares @ (levels - mean) ** 2)), float(shares[0]), float(shares[-1]))


@dataclass(frozen=True)
class Refused:
    """A file that cannot be used.

    Attributes:
        problem: one of :data:`radtransfer.problems.PROBLEMS`.
        reason: why, in words.
    """

    problem: str
    reason: str


@dataclass(frozen=True)
class Ingested:
    """What is known of a file that was decoded.

    Attributes:
        sha256: digest of the file.
        pixel_sha256: digest of its decoded pixels.
        box: where the image lies in its square.
        flags: what was done to decode it, see :class:`~radtransfer.preprocess.decode.Decoded`.
        levels: its grey levels.
        descriptor: int8 [2304], see :func:`~radtransfer.preprocess.grouping.descriptor`.
    """

    sha256: str
    pixel_sha256: str
    box: Letterbox
    flags: tuple[str, ...]
    levels: Levels
    descriptor: npt.NDArray[np.int8]


def ingest(
    paths: Sequence[Path], squares: Scratch, thumbnails: Scratch, window: Window | None = None
) -> Iterator[Ingested | Refused]:
    """Decode files; put each one's square and thumbnail at its position.

    The processes are as many as this one may use CPUs; the result does not depend on their number. Memory does not grow
    with the number of files.

    Args:
        paths: image files.
        squares: for the letterboxed images.
        thumbnails: for the thumbnails.
        window: see :func:`~radtransfer.preprocess.decode.decode`.

    Yields:
        for each file, in turn, what is known of it, or why it cannot be used.
    """
    for scratch in (squares, thumbnails):
        scratch.path.touch()
    workers = max(1, min(joblib.cpu_count(), len(paths) // IMAGES_PER_WORKER))
    parallel = joblib.Parallel(workers, return_as="generator", batch_size=_BATCH, pre_dispatch=4 * _BATCH * workers)
    yield from parallel(
        joblib.delayed(_ingest)(path, position, squares, thumbnails, window) for position, path in enumerate(paths)
    )


def _ingest(
    path: Path, position: int, squares: Scratch, thumbnails: Scratch, window: Window | None
) -> Ingested | Refused:
    try:
        data = read_bytes(path)
        decoded = decode_bytes(data, path, window)
    except ImageError as error:
        return Refused(error.problem, str(error).removeprefix(f"{path}: "))
    square, box = letterbox(decoded.pixels, squares.shape[0])
    small = grouping.thumbnail(decoded.pixels)
    squares.write(position, square)
    thumbnails.write(position, small)
    digests = hashlib.sha256(data).hexdigest(), grouping.pixel_sha256(decoded.pixels)
    return Ingested(*digests, box, decoded.flags, Levels.of(decoded.pixels), grouping.descriptor(small))
