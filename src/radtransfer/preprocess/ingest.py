"""Image files to squares, thumbnails and digests, in parallel processes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import joblib
import numpy as np
import numpy.typing as npt
from joblib.externals.loky import get_reusable_executor

from radtransfer import limits
from radtransfer.preprocess import fingerprint
from radtransfer.preprocess.decode import decode_bytes, read_bytes
from radtransfer.preprocess.letterbox import Letterbox, letterbox
from radtransfer.preprocess.pixels import Grey, ImageError, Window
from radtransfer.preprocess.scratch import Place, Scratch, entry_name

IMAGES_PER_WORKER = 500
BYTES_PER_WORKER = 50_000_000
"""Fewer images and fewer bytes of files do not pay for the start of one more process."""
_SAMPLE = 32
_BATCH = 32


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
        (((mean,),), ((deviation,),)) = cv2.meanStdDev(pixels)
        lit, saturated = np.count_nonzero(pixels), np.count_nonzero(pixels == 255)
        return cls(float(mean), float(deviation), 1 - lit / pixels.size, saturated / pixels.size)


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
        place: where its square and thumbnail lie in the scratch.
        sha256: digest of the file.
        pixel_digest: digest of its decoded pixels.
        box: where the image lies in its square.
        flags: what was done to decode it, see :class:`~radtransfer.preprocess.pixels.Decoded`; ``cropped`` if a border
            was cut away.
        levels: its grey levels.
        modality: what its DICOM header says, see :class:`~radtransfer.preprocess.pixels.Decoded`.
        descriptor: int8 [2304], see :func:`~radtransfer.preprocess.fingerprint.descriptor`.
    """

    place: Place
    sha256: str
    pixel_digest: str
    box: Letterbox
    flags: tuple[str, ...]
    levels: Levels
    modality: str
    descriptor: npt.NDArray[np.int8]


def ingest(
    paths: Sequence[Path], scratch: Scratch, window: Window | None = None, *, crop_border: bool = False
) -> Iterator[Ingested | Refused]:
    """Put squares and thumbnails of files into the scratch; those that are there already are not decoded.

    The processes are as many as this one may use CPUs; the result does not depend on their number. Memory does not grow
    with the number of files.

    Args:
        paths: image files. Each is read, since its digest says whether it is the one that was decoded before.
        scratch: for squares and thumbnails, of this window and this cropping alone.
        window: see :func:`~radtransfer.preprocess.decode.decode`.
        crop_border: see :func:`~radtransfer.preprocess.letterbox.letterbox`. Only the squares depend on it:
            thumbnails and digests, and so leakage groups, are those of the whole image.

    Yields:
        for each file, in turn, what is known of it, or why it cannot be used.
    """
    before = scratch.places()
    if before:
        print(f"preprocess: {len(before)} images were decoded by an unfinished run", file=sys.stderr)
    workers = min(limits.cpus(), shares(paths))
    parallel = joblib.Parallel(workers, return_as="generator", batch_size=_BATCH, pre_dispatch=4 * _BATCH * workers)
    try:
        yield from parallel(
            joblib.delayed(_ingest)(path, scratch, before.get(entry_name(path)), window, crop_border) for path in paths
        )
    finally:
        if workers > 1:  # else they wait for more work for minutes, and what started them does not end before them
            get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


def shares(paths: Sequence[Path]) -> int:
    """How many processes the files are enough for, by their number and the size of every so many-th."""
    some = paths[:: len(paths) // _SAMPLE + 1]
    size = sum(map(_size, some)) / max(len(some), 1)
    return max(1, len(paths) // IMAGES_PER_WORKER, int(len(paths) * size / BYTES_PER_WORKER))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # to be reported in its turn
        return 0


def _ingest(
    path: Path, scratch: Scratch, place: Place | None, window: Window | None, crop_border: bool
) -> Ingested | Refused:
    cv2.setNumThreads(1)  # the processes share the CPUs
    try:
        data = read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        said = scratch.said(place) if place else None
        if place is None or said is None or said["sha256"] != sha256:
            decoded = decode_bytes(data, path, window)
            square, box = letterbox(decoded.pixels, scratch.size, crop_border=crop_border)
            flags = (*decoded.flags, "cropped") if box.cropped else decoded.flags
            digests = {"sha256": sha256, "pixel_digest": fingerprint.pixel_digest(decoded.pixels)}
            said = digests | {"box": vars(box), "flags": flags, "levels": Levels.of(decoded.pixels)}
            said["modality"] = decoded.modality
            small = fingerprint.thumbnail(decoded.pixels)
            place = scratch.write(entry_name(path), said, square, small)
        else:
            small = scratch.thumbnail(place)
    except ImageError as error:
        return Refused(error.problem, str(error).removeprefix(f"{path}: "))
    box, flags, levels = Letterbox(**said["box"]), tuple(said["flags"]), Levels(*said["levels"])
    descriptor = fingerprint.descriptor(small)
    return Ingested(place, sha256, said["pixel_digest"], box, flags, levels, said["modality"], descriptor)
