"""Decoded images on their way into the store, kept so that a run that was stopped decodes only what is missing.

They lie in the cache (:mod:`radtransfer.cache`) in ``decoded/<key>/``, where the key stands for all
that the pixels depend on but the image files: code, libraries, settings. Every process appends to a log of its own, so
nothing is written twice or over. An entry begins with a digest of the rest of it: what a killed run or a power failure
left unfinished, or out of step, is not taken up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from radtransfer.cache import DECODED, VARIABLE, cache, discard, held
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.fingerprint import THUMBNAIL
from radtransfer.preprocess.pixels import Grey
from radtransfer.provenance import code_version

_DECODERS = ("numpy", "opencv-python-headless", "pillow", "pydicom")
_PROCESS = secrets.token_hex(8)
_SEAL = xxhash.xxh3_128().digest_size
_NAME = hashlib.sha256().digest_size
_HEAD = _SEAL + _NAME
_SAID = 1024
"""Bytes of an entry for what is said of its image."""


class Place(NamedTuple):
    """Where an image lies: name of the log, and its entry's first byte."""

    log: str
    start: int


@dataclass(frozen=True)
class Scratch:
    """Squares and thumbnails of image files; several processes may use it at once.

    Attributes:
        folder: where they lie.
        size: side of the squares, px.
    """

    folder: Path
    size: int

    @property
    def _length(self) -> int:
        return _HEAD + _SAID + self.size**2 + THUMBNAIL**2

    def places(self) -> dict[bytes, Place]:
        """Where images were put before, by the :func:`entry_name` of their files. Not every entry needs to be sound."""
        found = {}
        for log in sorted(self.folder.iterdir(), key=lambda log: log.stat().st_mtime_ns):
            with log.open("rb", buffering=0) as stream:
                for start in range(0, log.stat().st_size - self._length + 1, self._length):
                    stream.seek(start + _SEAL)
                    found[stream.read(_NAME)] = Place(log.name, start)
        return found

    def write(self, name: bytes, said: Mapping[str, Any], square: Grey, thumbnail: Grey) -> Place:
        """Add an image.

        Args:
            name: :func:`entry_name` of its file.
            said: what is known of it, JSON values, less than 1 KiB.
            square: uint8 [size, size].
            thumbnail: uint8 [144, 144].

        Raises:
            ValueError: the entry would have another length.
            RadtransferError: it cannot be written.
        """
        body = name + json.dumps(said).encode().ljust(_SAID) + square.tobytes() + thumbnail.tobytes()
        if len(body) != self._length - _SEAL:
            raise ValueError(f"expected an entry of {self._length - _SEAL} bytes, got {len(body)}")
        log = f"{os.getpid()}-{_PROCESS}"
        try:
            with (self.folder / log).open("ab") as stream:
                stream.write(xxhash.xxh3_128_digest(body))
                stream.write(body)
                return Place(log, stream.tell() - self._length)
        except OSError as error:
            raise RadtransferError(
                f"{self.folder}: decoded images cannot be kept there ({error.strerror}); make room, or set {VARIABLE}"
            ) from None

    def said(self, place: Place) -> dict[str, Any] | None:
        """What was said of an image; None where its entry is not sound."""
        entry = self._read(place, 0, self._length)
        if xxhash.xxh3_128_digest(entry[_SEAL:]) != entry[:_SEAL]:
            return None
        said: dict[str, Any] = json.loads(entry[_HEAD : _HEAD + _SAID])
        return said

    def square(self, place: Place) -> Grey:
        """uint8 [size, size]."""
        data = self._read(place, _HEAD + _SAID, self.size**2)
        return np.frombuffer(data, dtype=np.uint8).reshape(self.size, self.size)

    def thumbnail(self, place: Place) -> Grey:
        """uint8 [144, 144]."""
        data = self._read(place, self._length - THUMBNAIL**2, THUMBNAIL**2)
        return np.frombuffer(data, dtype=np.uint8).reshape(THUMBNAIL, THUMBNAIL)

    def _read(self, place: Place, skip: int, length: int) -> bytes:
        with (self.folder / place.log).open("rb") as stream:
            stream.seek(place.start + skip)
            return stream.read(length)


def entry_name(path: Path) -> bytes:
    """What a file is called in a log: a digest, since its path may tell of a patient."""
    return hashlib.sha256(os.fsencode(path.absolute())).digest()


@contextmanager
def resumable(settings: Mapping[str, Any], size: int, beside: Path) -> Iterator[Scratch]:
    """Scratch that is kept when the block raises or the process is killed, and removed when the block ends well.

    Runs with the same settings share it, also at the same time; the last one to end removes it. Where the cache cannot
    be written it lies ``beside`` and is not kept.

    Args:
        settings: what the pixels depend on, and what tells runs apart that should not remove each other's; JSON values.
        size: side of the squares, px.
        beside: the folder to lie in where there is no cache.
    """
    code = [code_version(), *map(metadata.version, _DECODERS)]
    key = hashlib.sha256(json.dumps([code, size, settings], sort_keys=True).encode()).hexdigest()[:16]
    with ExitStack() as stack:
        place: Path | None = None
        try:
            place = cache() / DECODED / key
            stack.enter_context(held(place, fcntl.LOCK_SH))
            place.mkdir(mode=0o700, exist_ok=True)
        except (OSError, RuntimeError) as error:  # not to be written, or no home folder to lie in
            print(f"preprocess: will begin anew if it is stopped ({error}); {VARIABLE} names a folder", file=sys.stderr)
            place = None
            beside.mkdir(parents=True, exist_ok=True)
        yield Scratch(place or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=beside, prefix="."))), size)
    if place:
        discard(place)
