"""Where a registry lies: a folder, or a prefix of an S3 bucket; what one can do, the other can.

Keys are relative POSIX paths. Two kinds of write are conditional, and of several writers at once one wins: the
*creation* of what is not there yet (S3: ``If-None-Match: *``; folder: a hard link), and the *replacement* of just what
was read (S3: ``If-Match``; folder: under a lock). A writer that dies leaves what was there before, or all of the new.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from radtransfer.artifacts import file_sha256
from radtransfer.cache import locked
from radtransfer.errors import RadtransferError
from radtransfer.storage import Bucket, address

PARTIAL = ".partial-"
KEPT = 3
"""Folders (``.``, ``files``, ``files/<name>``) that stay when they are empty: a writer may be about to use one."""


@dataclass(frozen=True)
class Entry:
    """What lies under a key.

    Attributes:
        key: the key.
        size: bytes.
        modified: when it was stored, seconds since the epoch by the clock of the place.
    """

    key: str
    size: int
    modified: float


class Place(Protocol):
    """A folder or a prefix of a bucket.

    Attributes:
        name: its address, as it is shown and named again.

    All raise :class:`RadtransferError` where the place does not answer, or refuses.
    """

    name: str

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content of a small file, and a tag that tells it from every other content; None: there is none."""

    def create(self, key: str, content: bytes) -> bool:
        """Store content where nothing is yet; False: something is there, perhaps this; see `Bucket.put_new`."""

    def replace(self, key: str, content: bytes, tag: str) -> bool:
        """Store content over that of this tag; False: there is other content now, or none. Likewise."""

    def upload(self, key: str, path: Path) -> None:
        """Store a file under a key that no other writer uses."""

    def digest(self, key: str) -> str:
        """The sha256 of what is there now, read whole."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All that lies under keys that begin with ``prefix``, which ends with a slash or is empty, in any order."""

    def delete(self, key: str) -> None:
        """Remove what is there, if anything is."""

    def now(self) -> float:
        """The time by the clock that :attr:`Entry.modified` goes by."""


class Folder:
    """A folder; on a network file system, of one that knows hard links and locks (NFS does).

    Args:
        path: the folder, which is made by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def read(self, key: str) -> tuple[bytes, str] | None:
        with self._said(key):
            try:
                content = (self.path / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return content, hashlib.sha256(content).hexdigest()

    def create(self, key: str, content: bytes) -> bool:
        with self._said(key):
            partial = self._partial(key, content)
            try:
                os.link(partial, self.path / key)
            except FileExistsError:
                return False
            finally:
                partial.unlink()
            _sync(partial.parent)
            return True

    def replace(self, key: str, content: bytes, tag: str) -> bool:
        final = self.path / key
        with self._said(key), locked(final.with_name(f".{final.name}.lock"), fcntl.LOCK_EX):
            found = self.read(key)
            if found is None or found[1] != tag:
                return False
            self._partial(key, content).replace(final)
            _sync(final.parent)
            return True

    def upload(self, key: str, path: Path) -> None:
        final = self.path / key
        with self._said(key):
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, final)
            with final.open("rb") as stream:
                os.fsync(stream.fileno())
            _sync(final.parent)

    def digest(self, key: str) -> str:
        with self._said(key):
            return file_sha256(self.path / key)

    def list(self, prefix: str) -> Iterator[Entry]:
        with self._said(prefix):
            for folder, _, names in os.walk(self.path / prefix, onerror=_unless_gone):
                for name in names:
                    path = Path(folder) / name
                    if name.startswith(".") and name.endswith(".lock"):
                        continue
                    with suppress(FileNotFoundError):  # removed meanwhile
                        status = path.lstat()
                        yield Entry(path.relative_to(self.path).as_posix(), status.st_size, status.st_mtime)

    def delete(self, key: str) -> None:
        with self._said(key):
            final = self.path / key
            final.unlink(missing_ok=True)
            for folder in list(final.relative_to(self.path).parents)[:-KEPT]:
                with suppress(OSError):  # it holds more
                    (self.path / folder).rmdir()

    def now(self) -> float:
        return time.time()

    def _partial(self, key: str, content: bytes) -> Path:
        """A file with this content beside that of a key."""
        final = self.path / key
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return partial

    @contextmanager
    def _said(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RadtransferError(
                f"{self.path / key}: {error.strerror or error}; a registry in a folder needs the right to write there, "
                "room, and a file system with hard links"
            ) from None


class Prefix:
    """A prefix of a bucket, whose server must know conditional writes.

    Args:
        bucket: the bucket.
        prefix: the prefix, without its last slash; empty: all of the bucket.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.name = f"s3://{'/'.join(filter(None, (bucket.name, prefix)))}"

    def read(self, key: str) -> tuple[bytes, str] | None:
        return self._bucket.read(self._prefix + key)

    def create(self, key: str, content: bytes) -> bool:
        return self._bucket.put_new(self._prefix + key, content)

    def replace(self, key: str, content: bytes, tag: str) -> bool:
        return self._bucket.put_over(self._prefix + key, content, tag)

    def upload(self, key: str, path: Path) -> None:
        self._bucket.put(self._prefix + key, path)

    def digest(self, key: str) -> str:
        with tempfile.TemporaryDirectory(prefix="radtransfer-") as folder:
            path = Path(folder) / "object"
            self._bucket.get(self._prefix + key, path)
            return file_sha256(path)

    def list(self, prefix: str) -> Iterator[Entry]:
        for each in self._bucket.list(self._prefix + prefix):
            yield Entry(each.key.removeprefix(self._prefix), each.size, each.modified)

    def delete(self, key: str) -> None:
        self._bucket.delete(self._prefix + key)

    def now(self) -> float:
        return self._bucket.now()


def at(text: str | Path) -> Place:
    """The place that a folder or ``s3://BUCKET/PREFIX`` names.

    Raises:
        RadtransferError: it names neither.
    """
    where = address(str(text))
    return Prefix(Bucket(where[0]), where[1]) if isinstance(where, tuple) else Folder(where)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync(folder: Path) -> None:
    """See that what was just named in a folder is named there after a power cut, too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
