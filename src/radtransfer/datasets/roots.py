"""What names a data root: a folder, or the address of one in object storage or under version control."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from radtransfer.errors import RadtransferError

FORMS = "a folder, s3://BUCKET/PREFIX, or dvc+REPOSITORY@REVISION:PATH"
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^#]*))?(?:#([0-9a-f]{64}))?")
_DVC = re.compile(r"dvc\+(.+)@([^@:]+):([^@:]*)")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./+-]*")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True)
class S3Root:
    """A prefix of a bucket.

    Attributes:
        pin: digest that the listing must have; empty: whatever it is now.
    """

    bucket: str
    prefix: str
    pin: str = ""

    def pinned(self, digest: str) -> str:
        """The address of just this content."""
        return f"s3://{'/'.join(filter(None, (self.bucket, self.prefix)))}#{digest}"


@dataclass(frozen=True)
class DvcRoot:
    """A folder of a git repository whose files DVC keeps.

    Attributes:
        repository: an https or ssh URL, or the absolute path of a local repository.
        revision: branch, tag or commit.
        path: the folder inside the repository; empty: its top.
    """

    repository: str
    revision: str
    path: str

    def pinned(self, commit: str) -> str:
        """The address of just this content."""
        return f"dvc+{self.repository}@{commit}:{self.path}"


def parse(data_root: str | Path) -> Path | S3Root | DvcRoot:
    """Tell what a data root is; nothing is looked up.

    Raises:
        RadtransferError: of none of the forms, or it holds a password, or what no address needs (``ext::``, an option).
    """
    text = str(data_root)
    if isinstance(data_root, Path) or not re.match(r"[A-Za-z0-9]+(://|\+)", text):
        return Path(text).absolute()
    shown = re.sub(r"//[^/]*@", "//...@", text)
    if text.startswith("s3://"):
        found = _S3.fullmatch(text)
        if not found:
            raise RadtransferError(f"data root {shown}: expected s3://BUCKET/PREFIX, credentials in the environment")
        return S3Root(found[1], clean(found[2] or "", f"data root {shown}"), found[3] or "")
    if text.startswith("dvc+"):
        found = _DVC.fullmatch(text)
        if not found or not _REVISION.fullmatch(found[2]):
            raise RadtransferError(
                f"data root {shown}: expected dvc+REPOSITORY@REVISION:PATH, REVISION being a branch, tag or commit"
            )
        return DvcRoot(_repository(found[1], shown), found[2], clean(found[3], f"data root {shown}"))
    if Path(text).exists():
        return Path(text).absolute()
    raise RadtransferError(f"data root {shown}: expected {FORMS}")


def unpinned(data_root: str | Path) -> str | Path:
    """The data root for other folders than those whose content an address in S3 was pinned to."""
    root = parse(data_root)
    return root.pinned("").rstrip("#") if isinstance(root, S3Root) else data_root


def clean(name: str, where: str) -> str:
    """A relative POSIX path without ``.``, ``..`` or odd characters, safe to make below a folder; may be empty.

    Names from a bucket or a foreign repository are untrusted: everything that becomes a path goes through here.

    Raises:
        RadtransferError: it is none; ``where`` says where it was met.
    """
    path = PurePosixPath(name)
    ends = name.startswith("/") or "\\" in name or any(ord(letter) < 32 for letter in name)
    if ends or any(part == ".." or len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise RadtransferError(f"{where}: {name!r} leads out of the data root or is no file name; rename or remove it")
    return "" if path == PurePosixPath() else path.as_posix()


def _repository(url: str, shown: str) -> str:
    """An https or ssh URL without a secret, or the absolute path of a folder."""
    if "://" not in url:
        if "::" in url or url.startswith("-") or not Path(url).is_dir():
            raise RadtransferError(
                f"data root {shown}: expected a git repository as https://..., ssh://[USER@]HOST/... or the path of a "
                "folder that is there"
            )
        return str(Path(url).resolve())
    parts = urlsplit(url)
    try:
        known = parts.scheme in ("https", "ssh") and bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0
    except ValueError:  # the port
        known = False
    if not known:
        raise RadtransferError(f"data root {shown}: expected a git repository as https:// or ssh:// with a host")
    if parts.password is not None or (parts.username is not None and parts.scheme == "https") or parts.query:
        raise RadtransferError(
            f"data root {shown}: holds a user or a secret, which would end up in every report; leave it to git's "
            "credential helper or to ssh"
        )
    if parts.username is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", parts.username):
        raise RadtransferError(f"data root {shown}: {parts.username!r} is no user name")
    return url
