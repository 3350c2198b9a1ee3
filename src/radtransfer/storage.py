"""Objects of an S3 bucket: fetched whole, checked, once, and taken up where a broken connection left them; stored, also
under a condition, of which S3 says whether it held.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from radtransfer.errors import RadtransferError

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt at what the network or the server failed at."""
BLOCK = 1 << 20
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_MD5 = re.compile(r"[0-9a-f]{32}")
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[^/#?]+)*)/?")
T = TypeVar("T")


@dataclass(frozen=True)
class Object:
    """An object of a bucket.

    Attributes:
        key: its key.
        size: bytes; without ``etag`` the most that it may have.
        etag: entity tag that the listing gave; None: the object is known by its MD5 alone.
        md5: MD5 that its content must have; None: not known.
        modified: when it was stored, seconds since the epoch by the server's clock; 0: no listing named it.
    """

    key: str
    size: int
    etag: str | None = None
    md5: str | None = None
    modified: float = field(default=0.0, compare=False)


def address(text: str) -> Path | tuple[str, str]:
    """What a text names: a folder; or, of the form s3://BUCKET/PREFIX, a bucket and a prefix without its last slash.

    Raises:
        RadtransferError: neither.
    """
    if "://" not in text:
        return Path(text).absolute()
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise RadtransferError(
            f"{text!r}: expected a folder, or s3://BUCKET/PREFIX with the credentials in the environment"
        )
    return found[1], found[2].removeprefix("/")


class Bucket:
    """A bucket, reached with boto3's chain of credentials (environment, service account).

    Args:
        name: its name.
        endpoint: URL of the server, unless the environment names one (``AWS_ENDPOINT_URL_S3``).
        region: its region, unless the environment names one.
    """

    def __init__(self, name: str, endpoint: str | None = None, region: str | None = None) -> None:
        import boto3
        from botocore.config import Config

        own = any(os.environ.get(variable) for variable in ENDPOINTS)
        session = boto3.Session()
        self.name = name
        self._client = session.client(
            "s3",
            endpoint_url=None if own else endpoint,
            region_name=session.region_name or region or "us-east-1",
            config=Config(
                retries={"total_max_attempts": 1},  # `_patiently` is the one place that tries again
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                s3={"addressing_style": "path"} if own or endpoint else {},
            ),
        )
        self._scope = f"{self._client.meta.endpoint_url}/{name}"

    def list(self, prefix: str) -> Iterator[Object]:
        """All objects whose keys begin with ``prefix``, but for the markers that stand for folders.

        Raises:
            RadtransferError: the bucket cannot be listed.
        """
        more: dict[str, str] = {}
        while True:
            asked = {"Bucket": self.name, "Prefix": prefix, **more}
            page = self._patiently(prefix, lambda asked=asked: self._client.list_objects_v2(**asked))  # type: ignore[misc]
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    modified = entry["LastModified"].timestamp()
                    yield Object(entry["Key"], int(entry["Size"]), str(entry["ETag"]), modified=modified)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, path: Path) -> None:
        """Store a file under a key, over what is there.

        Raises:
            RadtransferError: it cannot be stored.
        """

        def send() -> None:
            with path.open("rb") as stream:
                self._client.put_object(Bucket=self.name, Key=key, Body=stream)

        self._patiently(key, send)

    def put_new(self, key: str, content: bytes) -> bool:
        """Store content under a key that nothing is under yet (``If-None-Match: *``).

        Returns:
            Whether it was stored. False says that something is there, which may be this very content: a request that
            was sent again because its answer got lost meets its own success. Who must know makes the content unique,
            and reads it back.

        Raises:
            RadtransferError: it cannot be stored.
        """
        return self._put_if(key, content, {"IfNoneMatch": "*"})

    def put_over(self, key: str, content: bytes, etag: str) -> bool:
        """Store content over that of this entity tag (``If-Match``).

        Returns:
            Whether it was stored; False: what is there is not, or no longer, that one; see :meth:`put_new`.

        Raises:
            RadtransferError: it cannot be stored.
        """
        return self._put_if(key, content, {"IfMatch": etag})

    def _put_if(self, key: str, content: bytes, condition: dict[str, str]) -> bool:
        from botocore.exceptions import ClientError

        def send() -> bool:
            try:
                self._client.put_object(Bucket=self.name, Key=key, Body=content, **condition)
            except ClientError as error:
                # Some servers answer If-Match on a key that is not there with 412, others with 404.
                if error.response["Error"].get("Code") in ("PreconditionFailed", "412", "NoSuchKey"):
                    return False
                raise
            return True

        return self._patiently(key, send)

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content of a small object and its entity tag; None: there is none.

        Raises:
            RadtransferError: it cannot be had.
        """
        from botocore.exceptions import ClientError

        def receive() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if error.response["Error"].get("Code") == "NoSuchKey":
                    return None
                raise
            with answer["Body"] as body:
                return body.read(), str(answer["ETag"])

        return self._patiently(key, receive)

    def now(self) -> float:
        """The server's time, seconds since the epoch.

        Raises:
            RadtransferError: there is no such bucket, or no server.
        """
        answer = self._patiently("", lambda: self._client.list_objects_v2(Bucket=self.name, MaxKeys=1))
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def get(self, key: str, path: Path) -> None:
        """Write what is under a key to a file; that it is whole is for the caller to see.

        Raises:
            RadtransferError: it cannot be had.
        """

        def receive() -> None:
            with self._client.get_object(Bucket=self.name, Key=key)["Body"] as body, path.open("wb") as stream:
                shutil.copyfileobj(body, stream, BLOCK)

        self._patiently(key, receive)

    def delete(self, key: str) -> None:
        """Remove what is under a key, if anything is.

        Raises:
            RadtransferError: it cannot be removed.
        """
        self._patiently(key, lambda: self._client.delete_object(Bucket=self.name, Key=key))

    def path(self, wanted: Object, objects: Path) -> Path:
        """Where an object lies once it is fetched.

        By its MD5 where that was promised by someone other than this server: such an object serves any bucket.
        """
        known = [wanted.md5] if wanted.etag is None else [self._scope, wanted.key, wanted.etag, wanted.size]
        name = hashlib.sha256(repr(known).encode()).hexdigest()
        return objects / name[:2] / name

    def fetch(self, wanted: Object, objects: Path) -> Path:
        """Fetch an object unless it is there already.

        Args:
            wanted: the object.
            objects: folder of fetched objects. What a broken connection left there is gone on with.

        Returns:
            Its path, whose content has the promised size and digest.

        Raises:
            RadtransferError: the server does not answer, refuses, or has other content than was promised.
        """
        final = self.path(wanted, objects)
        if final.exists():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_suffix(".part")
        with part.open("ab") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            if final.exists():  # another process has been here, and `out` is its file
                return final
            for _ in range(2):  # what does not have its digest is fetched anew, once
                head = self._patiently(wanted.key, lambda: self._append(wanted, out))
                if self._sound(wanted, head, part):
                    part.replace(final)
                    return final
                out.truncate(0)
        part.unlink()
        raise RadtransferError(
            f"{self._said(wanted.key)}: has other content than its digest says, twice in a row; "
            "it was damaged in the storage: put it there again"
        )

    def _append(self, wanted: Object, out: IO[bytes]) -> dict[str, Any]:
        """Fetch what is missing of an object; returns the answer's head."""
        from botocore.exceptions import ClientError

        at = out.seek(0, os.SEEK_END)
        if wanted.etag is not None and at >= wanted.size > 0:
            return dict(self._client.head_object(Bucket=self.name, Key=wanted.key))
        asked = {"Bucket": self.name, "Key": wanted.key} | ({"Range": f"bytes={at}-"} if at else {})
        if wanted.etag is not None:
            asked["IfMatch"] = wanted.etag
        try:
            answer = self._client.get_object(**asked)
        except ClientError as error:
            if at and error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:  # nothing is missing
                return {}
            raise
        if at and "ContentRange" not in answer:
            out.truncate(0)
            at = 0
        with answer["Body"] as body:
            for block in iter(lambda: body.read(BLOCK), b""):
                at += len(block)
                if at > wanted.size:
                    out.truncate(0)
                    raise RadtransferError(
                        f"{self._said(wanted.key)}: is larger than the {wanted.size} bytes that were promised"
                    )
                out.write(block)
        out.flush()
        return dict(answer)

    def _sound(self, wanted: Object, head: dict[str, Any], part: Path) -> bool:
        """Whether what was fetched has the size and the digest that it should have, as far as one is known."""
        if wanted.etag is not None and part.stat().st_size != wanted.size:
            return False
        md5, tag = wanted.md5, (wanted.etag or "").strip('"')
        # The entity tag is no MD5 of objects made in parts, or encrypted with a key of KMS or of the client.
        plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        if md5 is None and plain and _MD5.fullmatch(tag):
            md5 = tag
        if md5 is not None:
            return bool(_digest(part, "md5").hexdigest() == md5)
        told = self._patiently(
            wanted.key,
            lambda: self._client.head_object(Bucket=self.name, Key=wanted.key, ChecksumMode="ENABLED"),
        )
        sha256 = str(told.get("ChecksumSHA256", ""))
        if not sha256 or "-" in sha256 or told.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
            return True
        return bool(base64.b64encode(_digest(part, "sha256").digest()).decode() == sha256)

    def _patiently(self, key: str, call: Callable[[], T]) -> T:
        """Call, and call again while the network or the server is at fault."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            IncompleteReadError,
        )

        for wait in (*WAITS, None):
            try:
                return call()
            except ClientError as error:
                status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
                if status < 500 and status not in (409, 429):  # 409: two conditional requests at once
                    raise RadtransferError(f"{self._said(key)}: {_refusal(status, error)}") from None
                failed: Exception = error
            except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
                failed = error
            except BotoCoreError as error:
                raise RadtransferError(
                    f"{self._said(key)}: {error}; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "or from the service account"
                ) from None
            if wait is not None:
                time.sleep(wait)
        raise RadtransferError(
            f"{self._said(key)}: the storage failed {len(WAITS) + 1} times in a row "
            f"({type(failed).__name__}: {failed}); start again when it is back: what was fetched is kept"
        )

    def _said(self, key: str) -> str:
        return f"s3://{self.name}/{key}"


def _refusal(status: int, error: Exception) -> str:
    reasons = {
        403: "access denied; give the credentials in the environment or the service account the right to list and "
        "read, and where checkpoints or models are kept to write and delete",
        404: "no such bucket or object; look at its name, or push it there (dvc push)",
        412: "was changed while it was fetched; start again",
    }
    return reasons.get(status, str(error))


def _digest(path: Path, algorithm: str) -> Any:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
