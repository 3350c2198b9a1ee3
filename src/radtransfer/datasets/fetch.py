"""From the name of a data root to a local folder: what lies elsewhere is fetched once and kept in a cache.

In the cache lie ``objects/``, each fetched object once, and ``data/<revision>/``, the folders that runs read, whose
files are links to the objects. ``data/<revision>.json`` says what a complete one holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from radtransfer.artifacts import read_json, staged, write_json
from radtransfer.cache import CHECKPOINTS, DATA, DECODED, VARIABLE, cache, held, locked, remove
from radtransfer.datasets import dvcgit
from radtransfer.datasets.dvcgit import File
from radtransfer.datasets.roots import DvcRoot, S3Root, clean, parse
from radtransfer.errors import RadtransferError
from radtransfer.progress import track
from radtransfer.storage import Bucket

UNFINISHED = {DECODED: "decoded images of an unfinished run", CHECKPOINTS: "checkpoints of an unfinished training"}
_PIN = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
JOBS = 16
"""Objects fetched at once."""


@dataclass(frozen=True)
class Located:
    """A data root on this machine.

    Attributes:
        root: the folder.
        pinned: what names just this content from now on; of a folder its absolute path.
        data: for artifacts and reports: ``kind`` (folder, s3, dvc) and, unless it is a folder, ``uri`` (pinned),
            ``revision`` (commit, or of S3 the digest), ``digest`` (sha256 over the names and digests of the files, of
            S3 their entity tags and sizes), ``files`` and ``bytes``.
    """

    root: Path
    pinned: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A fetched revision in the cache, or what an unfinished run left there, whose ``uri`` says so in words; ``state``
    is ``in use``, ``kept`` or ``removed``.
    """

    name: str
    uri: str
    files: int
    bytes: int
    last_used: float
    state: str


@contextmanager
def located(data_root: str | Path, folders: Iterable[str]) -> Iterator[Located]:
    """Find a data root; of one that lies elsewhere fetch what is missing. While the block runs, `collect` leaves it be.

    Args:
        data_root: a folder, ``s3://BUCKET/PREFIX`` or ``dvc+REPOSITORY@REVISION:PATH``. PREFIX or PATH is the folder
            that holds the data sets, or the data set itself where there is but one.
        folders: the data sets that are needed, relative to the data root.

    Raises:
        RadtransferError: not such a name, nothing there, or it cannot be fetched whole.
    """
    root = parse(data_root)
    if isinstance(root, Path):
        yield Located(root, str(root), {"kind": "folder"})
        return
    wanted = sorted({clean(folder, f"data set folder {folder!r}") for folder in folders})
    if "" in wanted:
        raise RadtransferError(f"data root {data_root}: name the folder of each data set below it, found an empty path")
    home = cache() / DATA
    home.mkdir(parents=True, exist_ok=True)
    while True:
        pin = root.pin if isinstance(root, S3Root) else root.revision
        place = home / _name(root.pinned(pin), wanted)
        if _PIN.fullmatch(pin):
            with held(place, fcntl.LOCK_SH):
                if _complete(place):
                    said = read_json(place.with_suffix(".json"))
                    yield Located(place, said["uri"], said)
                    return
        with _listed(root, wanted) as (pinned, files):
            place = home / _name(pinned, wanted)
            with held(place, fcntl.LOCK_EX):
                if not _complete(place):
                    _fill(place, pinned, files)
        root = cast("S3Root | DvcRoot", parse(pinned))


class Named(NamedTuple):
    """The content that a data root has now.

    Attributes:
        pinned: what names just this content; of a folder its absolute path.
        digest: as in :attr:`Located.data`; empty: of a folder, which has none.
    """

    pinned: str
    digest: str


def resolve(data_root: str | Path, folders: Iterable[str]) -> Named:
    """What names just the content that a data root has now; data sets are listed and not fetched.

    Args:
        data_root, folders: as of :func:`located`.

    Raises:
        RadtransferError: not such a name, or nothing there.
    """
    root = parse(data_root)
    if isinstance(root, Path):
        for folder in folders:
            place = root / folder
            if not (place.is_dir() and any(place.iterdir())):
                what = "is empty" if place.is_dir() else "is no folder"
                raise RadtransferError(f"{place}: {what}, a data set is expected there; put it there, or set its path")
        return Named(str(root), "")
    wanted = sorted({clean(folder, f"data set folder {folder!r}") for folder in folders})
    pin = root.pin if isinstance(root, S3Root) else root.revision
    place = cache() / DATA / _name(root.pinned(pin), wanted)
    if _PIN.fullmatch(pin) and _complete(place):
        return Named(root.pinned(pin), read_json(place.with_suffix(".json"))["digest"])
    with _listed(root, wanted) as (pinned, files):
        return Named(pinned, _digest(files))


@contextmanager
def _listed(root: S3Root | DvcRoot, folders: list[str]) -> Iterator[tuple[str, list[File]]]:
    """The pinned name of what a root holds now, and all files of the folders."""
    top = root.prefix if isinstance(root, S3Root) else root.path
    if isinstance(root, S3Root):
        bucket = Bucket(root.bucket)
        files = _files(lambda where, place: _s3_files(bucket, where, place), top, folders, f"s3://{root.bucket}")
        digest = _digest(files)
        if root.pin and digest != root.pin:
            raise RadtransferError(
                f"data root {root.pinned(root.pin)}: holds other data now, {digest}; take back the change, or "
                "leave out what follows # to use what is there"
            )
        yield root.pinned(digest), files
        return
    objects = cache() / "objects"
    with dvcgit.opened(root) as revision:
        where = f"{root.repository}@{revision.commit[:12]}"
        yield (
            root.pinned(revision.commit),
            _files(lambda folder, place: revision.files(folder, place, objects), top, folders, where),
        )


def _files(find: Callable[[str, str], Iterator[File]], top: str, folders: list[str], where: str) -> list[File]:
    """Files of all folders below ``top``, or of ``top`` itself where it is the one that is asked for."""
    found: dict[str, File] = {}
    for folder in folders:
        asked = f"{top}/{folder}" if top else folder
        files = list(find(asked, folder))
        if not files and folders == [folder] and (top == folder or top.endswith(f"/{folder}")):
            files = list(find(top, folder))
        if not files:
            raise RadtransferError(
                f"{where}: nothing in {asked!r}, where a data set is expected; put it there, or set its path"
            )
        for file in files:
            if found.setdefault(file.name, file).digest != file.digest:
                raise RadtransferError(f"{where}: {file.name} is there twice, with different content; remove one")
    return [found[name] for name in sorted(found)]


def _s3_files(bucket: Bucket, folder: str, place: str) -> Iterator[File]:
    for each in bucket.list(f"{folder}/"):
        name = clean(f"{place}/{each.key[len(folder) + 1 :]}", f"s3://{bucket.name}/{each.key}")
        yield File(name, f"{each.etag} {each.size}", each.size, bucket, each)


def _digest(files: list[File]) -> str:
    return _sha256([[file.name, file.digest] for file in files])


def _name(pinned: str, folders: list[str]) -> str:
    return _sha256([pinned, folders])[:16]


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _complete(place: Path) -> bool:
    """Whether all that was fetched is there, by number and size of the files."""
    try:
        said = read_json(place.with_suffix(".json"))
    except RadtransferError:
        return False
    return _extent(place) == (said["files"], said["bytes"])


def _extent(place: Path) -> tuple[int, int]:
    """Number of files and their bytes."""
    sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _fill(place: Path, pinned: str, files: list[File]) -> None:
    """Fetch what is missing and lay out the folder, whole or not at all."""
    objects = cache() / "objects"
    remove(place)
    with locked(objects.with_suffix(".lock"), fcntl.LOCK_SH):
        _fetch(files, objects)
        with staged(place) as staging:
            for file in files:
                target = staging / file.name
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if file.bucket and file.object:
                        _link(file.bucket.path(file.object, objects), target)
                    else:
                        target.write_bytes(file.blob)
                except (FileExistsError, NotADirectoryError, IsADirectoryError):
                    raise RadtransferError(
                        f"{pinned}: {file.name} is a file, and a folder of that name is there too; rename one"
                    ) from None
            size = sum((staging / file.name).stat().st_size for file in files)
    kind, revision = ("s3", pinned.rpartition("#")[2]) if "#" in pinned else ("dvc", pinned.rpartition("@")[2][:40])
    said = {"kind": kind, "uri": pinned, "revision": revision, "digest": _digest(files)}
    partial = place.with_suffix(".partial")
    write_json(partial, said | {"files": len(files), "bytes": size})
    partial.replace(place.with_suffix(".json"))


def _fetch(files: list[File], objects: Path) -> None:
    """Fetch the objects that are not there yet, many at once; the first failure ends it.

    Raises:
        RadtransferError: an object cannot be fetched, or there is no room.
    """
    known = {file.bucket.path(file.object, objects): file for file in files if file.bucket and file.object}
    missing = [file for path, file in known.items() if not path.exists()]
    # As listed; where DVC names the size of a whole folder alone, each of its files might have all of it.
    needed = sum(file.size for file in missing if file.object and file.object.etag is not None)
    objects.mkdir(exist_ok=True)
    free = shutil.disk_usage(objects).free
    if needed > free:
        raise RadtransferError(
            f"{objects}: {needed} bytes are missing and {free} are free; make room, or set {VARIABLE}"
        )
    with ThreadPoolExecutor(JOBS) as pool:
        pending = [
            pool.submit(file.bucket.fetch, file.object, objects) for file in missing if file.bucket and file.object
        ]
        try:
            for done in track(as_completed(pending), "fetch", len(pending)):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _link(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, or too many of them
        shutil.copyfile(origin, target)


def collect(keep_days: float = 0, *, dry_run: bool = False) -> tuple[list[Kept], int]:
    """Remove fetched revisions and what unfinished runs left, unless a run is using it, and objects of no revision.

    Args:
        keep_days: what was used within so many days stays.
        dry_run: say what would be done and do nothing.

    Returns:
        All that were there, and how many bytes were (or would be) freed.
    """
    now = time.time()
    found = []
    for lock in [lock for kind in (DATA, *UNFINISHED) for lock in sorted((cache() / kind).glob("*.lock"))]:
        place, used = lock.with_suffix(""), lock.stat().st_mtime
        try:
            said = read_json(place.with_suffix(".json"))
        except RadtransferError:  # a fetch that was never completed has no folder yet
            files, size = _extent(place)
            said = {"uri": UNFINISHED.get(lock.parent.name, ""), "files": files, "bytes": size}
        with lock.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                state = "kept" if now - used < keep_days * 86400 else "removed"
            except BlockingIOError:
                state = "in use"
            if state == "removed" and not dry_run:
                remove(place)
                lock.unlink()
        found.append(Kept(place.name, said["uri"], said["files"], said["bytes"], used, state))
    removed = [each for each in found if each.state == "removed"]
    freed = sum(each.bytes for each in removed if each.uri in UNFINISHED.values())
    gone = [cache() / DATA / each.name for each in removed] if dry_run else []
    return found, freed + _sweep(now - keep_days * 86400, gone, dry_run)


def _sweep(before: float, gone: list[Path], dry_run: bool) -> int:
    """Remove objects that are linked from nowhere (but ``gone``) and older than ``before``; the bytes that it frees."""
    objects, freed = cache() / "objects", 0
    links = Counter(path.stat().st_ino for folder in gone for path in folder.rglob("*") if path.is_file())
    try:
        with locked(objects.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB):
            for path in objects.rglob("*"):
                status = path.stat()
                if path.is_file() and status.st_nlink - links[status.st_ino] == 1 and status.st_mtime <= before:
                    freed += status.st_size
                    if not dry_run:
                        path.unlink()
    except BlockingIOError:  # a fetch is under way, whose objects are not linked yet
        return 0
    return freed
