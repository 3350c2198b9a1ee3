"""The cache (``RADTRANSFER_CACHE``, else ``~/.cache/radtransfer``), and who uses what in it.

A place in it is a folder ``<kind>/<name>``. Whoever uses it holds ``<kind>/<name>.lock``, whose time is that of the
last use: :mod:`radtransfer.datasets.fetch` for what was fetched, :mod:`radtransfer.preprocess.scratch` for decoded
images, :mod:`radtransfer.training.checkpoints` for trainings under way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

VARIABLE = "RADTRANSFER_CACHE"
DATA, DECODED, CHECKPOINTS = "data", "decoded", "checkpoints"


def cache() -> Path:
    """Folder of the cache."""
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else Path.home() / ".cache/radtransfer"


@contextmanager
def locked(path: Path, how: int) -> Iterator[IO[bytes]]:
    """Hold a lock, ``how`` being that of :func:`fcntl.flock`.

    Raises:
        BlockingIOError: ``how`` says not to wait, and another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        fcntl.flock(lock, how)
        yield lock


@contextmanager
def held(place: Path, how: int) -> Iterator[None]:
    """Hold what lies at a place of the cache, so that it is not removed while the block runs.

    Raises:
        BlockingIOError: ``how`` says not to wait, and another holds it.
    """
    path = place.with_suffix(".lock")
    while True:
        with locked(path, how) as lock:
            # Who removed it meanwhile took the lock away: look again whether it is still the one there.
            if not path.exists() or os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                continue
            os.utime(path)
            yield
            return


def remove(place: Path) -> None:
    """Remove what lies at a place, and what a killed process left of it; the caller holds it."""
    place.with_suffix(".json").unlink(missing_ok=True)  # first: what has none is not whole
    for folder in (place, *place.parent.glob(f".{place.name}.partial-*")):
        shutil.rmtree(folder, ignore_errors=True)


def discard(place: Path) -> None:
    """Remove what lies at a place of the cache, unless it is held."""
    try:
        with held(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove(place)
            place.with_suffix(".lock").unlink()
    except BlockingIOError:
        pass
