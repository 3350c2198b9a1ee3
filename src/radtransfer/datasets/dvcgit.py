"""What a revision of a DVC repository holds: read from git alone, by nothing that the repository can steer.

Git objects are read with dulwich, which runs no git, no hook and no helper. Of DVC's files the plain data is read
(https://doc.dvc.org/user-guide/project-structure): outputs in ``*.dvc`` and ``dvc.lock``, folders as JSON lists of MD5
and path in the remote. DVC itself is not called: a repository's configuration can make it run commands
(``bearer_token_command``, a ``configpath`` with ``credential_process``) and read files of this machine
(``credentialpath``, ``keyfile``, a local remote). Of the configuration only a remote's ``url``, ``endpointurl`` and
``region`` are read.
"""

from __future__ import annotations

import configparser
import io
import json
import posixpath
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from radtransfer.datasets.roots import DvcRoot, clean
from radtransfer.errors import RadtransferError
from radtransfer.storage import Bucket, Object

MAX_METADATA = 64 << 20
"""Bytes that a ``.dvc`` file, a ``dvc.lock`` or a configuration may have."""
MAX_LISTING = 1 << 30
"""Bytes that the list of a folder's files may have: some ten million files."""
_MD5 = re.compile(r"([0-9a-f]{32})(\.dir)?")


@dataclass(frozen=True)
class File:
    """A file of a data root: its path there, and the object or the bytes that it is made of."""

    name: str
    digest: str
    size: int
    bucket: Bucket | None = None
    object: Object | None = None
    blob: bytes = field(default=b"", repr=False)


@contextmanager
def opened(root: DvcRoot) -> Iterator[Revision]:
    """The revision that a root names; a repository elsewhere is cloned for the while, without its files.

    Raises:
        RadtransferError: no such repository or revision, or it cannot be reached.
    """
    from dulwich import porcelain
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    with tempfile.TemporaryDirectory(prefix="radtransfer-git-") as folder:
        try:
            if "://" in root.repository:
                quiet = io.BytesIO()
                repository = porcelain.clone(root.repository, folder, bare=True, errstream=quiet, outstream=quiet)
            else:
                repository = Repo(root.repository)
        except NotGitRepository:
            raise RadtransferError(f"{root.repository}: is not the top of a git repository") from None
        except Exception as error:  # dulwich raises what its transports raise
            raise RadtransferError(
                f"{root.repository}: cannot be cloned ({type(error).__name__}: {error}); look at the URL, the network "
                "and git's credentials"
            ) from None
        with repository:
            yield Revision(repository, root)


class Revision:
    """A commit of a repository.

    Attributes:
        commit: its full hash.

    Raises:
        RadtransferError: from the constructor: there is no such revision.
    """

    def __init__(self, repository: Any, root: DvcRoot) -> None:
        from dulwich.object_store import iter_tree_contents
        from dulwich.objectspec import parse_commit

        self._repository, self._root = repository, root
        self._buckets: dict[tuple[str, str | None, str | None], Bucket] = {}
        for name in (root.revision, f"origin/{root.revision}"):
            try:
                found = parse_commit(repository, name.encode())
                break
            except (KeyError, ValueError):
                continue
        else:
            raise RadtransferError(
                f"{root.repository}: no branch, tag or commit {root.revision!r}; push it, or name another"
            )
        self.commit = found.id.decode()
        entries = iter_tree_contents(repository.object_store, found.tree)
        self._entries = {entry.path.decode(errors="surrogateescape"): entry for entry in entries}

    def files(self, folder: str, place: str, objects: Path) -> Iterator[File]:
        """All files at or below a folder: those that DVC keeps, and those that git itself has.

        Args:
            folder: POSIX path in the repository.
            place: where it stands in the data root.
            objects: folder of fetched objects, see :meth:`Bucket.fetch`; lists of files are fetched there.

        Raises:
            RadtransferError: DVC's files are not in the form of DVC 3, the remote is not in S3, a list of files cannot
                be fetched, or a name leads out of the data root.
        """
        for where, out in self._outs():
            inner = _below(where, folder)
            outer = _below(folder, where)
            if inner is None and outer is None:
                continue
            shown = f"{self._root.repository}@{self.commit[:12]}: {where}"
            for path, md5, size, bucket, wanted in self._out(out, where, shown, objects):
                inside = _below(posixpath.join(where, path), folder)
                if inside is not None:
                    yield File(clean(posixpath.join(place, inside), shown), md5, size, bucket, wanted)
        for name, entry in self._entries.items():
            inside = _below(name, folder)
            if inside and stat.S_ISREG(entry.mode) and not name.endswith((".dvc", ".gitignore", "dvc.lock")):
                blob = self._blob(name, MAX_LISTING)
                yield File(clean(posixpath.join(place, inside), name), entry.sha.decode(), len(blob), blob=blob)

    def _outs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every output that DVC keeps, with its path in the repository."""
        for name in self._entries:
            if not name.endswith(".dvc") and posixpath.basename(name) != "dvc.lock":
                continue
            where = f"{self._root.repository}@{self.commit[:12]}: {name}"
            try:
                data = yaml.safe_load(self._blob(name))
                stages = [data] if name.endswith(".dvc") else list((data.get("stages") or {}).values())
                outs = [(stage.get("wdir", "."), out) for stage in stages for out in stage.get("outs") or ()]
                base = posixpath.dirname(name)
                found = [(posixpath.normpath(posixpath.join(base, wdir, out["path"])), out) for wdir, out in outs]
            except (yaml.YAMLError, AttributeError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
                raise RadtransferError(f"{where}: not as DVC writes it ({type(error).__name__}: {error})") from None
            yield from found

    def _out(
        self, out: dict[str, Any], where: str, shown: str, objects: Path
    ) -> Iterator[tuple[str, str, int, Bucket, Object]]:
        """Path below the output (empty: itself), MD5, greatest size, bucket and object of each of its files."""
        digest = _MD5.fullmatch(str(out.get("md5", "")))
        size = out.get("size")
        if not digest or out.get("hash") != "md5" or not isinstance(size, int) or size < 0:
            raise RadtransferError(
                f"{shown}: expected an output with md5, size and `hash: md5`, as DVC 3 writes it; of DVC 2: "
                "`dvc cache migrate --dvc-files`; versions kept by the storage itself cannot be read"
            )
        bucket, prefix = self._remote(out.get("remote"), shown)

        def kept(md5: str, end: str = "") -> str:
            return posixpath.join(prefix, "files/md5", md5[:2], md5[2:] + end)

        if not digest[2]:
            yield "", digest[1], size, bucket, Object(kept(digest[1]), size, md5=digest[1])
            return
        listing = bucket.fetch(Object(kept(digest[1], ".dir"), MAX_LISTING, md5=digest[1]), objects)
        try:
            entries = [(str(entry["relpath"]), str(entry["md5"])) for entry in json.loads(listing.read_bytes())]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RadtransferError(f"{shown}: its list of files is not as DVC writes it") from None
        for path, md5 in entries:
            if not re.fullmatch(r"[0-9a-f]{32}", md5):
                raise RadtransferError(f"{shown}: {path!r}: {md5!r} is no MD5")
            yield clean(path, shown), md5, size, bucket, Object(kept(md5), size, md5=md5)

    def _remote(self, name: object, shown: str) -> tuple[Bucket, str]:
        """The bucket of a remote (None: the default one), and the prefix in it."""
        text, top = "", self._root.path
        while not text:
            config = posixpath.join(top, ".dvc/config")
            text = self._blob(config).decode(errors="replace") if config in self._entries else ""
            if not top:
                break
            top = posixpath.dirname(top)
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(text)
        except configparser.Error:
            raise RadtransferError(f"{shown}: .dvc/config of the repository is not as DVC writes it") from None
        sections = {section.strip("'\""): dict(parser[section]) for section in parser.sections()}
        name = name or sections.get("core", {}).get("remote", "")
        remote = sections.get(f'remote "{name}', {})
        found = re.fullmatch(r"s3://([^/]+)/?(.*)", remote.get("url", ""))
        if not found or {remote.get(key, "false").lower() for key in ("worktree", "version_aware")} != {"false"}:
            raise RadtransferError(
                f"{shown}: the repository's .dvc/config must name a remote s3://BUCKET/PREFIX (without worktree or "
                f"version_aware), found {name or 'no default remote'!r}: commit one (`dvc remote add -d NAME s3://...`)"
            )
        key = (found[1], remote.get("endpointurl"), remote.get("region"))
        if key not in self._buckets:
            self._buckets[key] = Bucket(*key)
        return self._buckets[key], found[2].strip("/")

    def _blob(self, name: str, most: int = MAX_METADATA) -> bytes:
        blob = self._repository.object_store[self._entries[name].sha]
        if blob.raw_length() > most:
            raise RadtransferError(f"{self._root.repository}@{self.commit[:12]}: {name}: larger than {most} bytes")
        return bytes(blob.data)


def _below(path: str, folder: str) -> str | None:
    """Path relative to a folder (empty: the folder itself), None if it lies elsewhere."""
    if path == folder or not folder:
        return "" if path == folder else path
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else None
