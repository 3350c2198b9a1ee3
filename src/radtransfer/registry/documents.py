"""The JSON objects of a registry: each says its kind and schema, and bears a seal over all of it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from radtransfer.errors import RadtransferError

SCHEMA = 1
NAME = r"[a-z0-9][a-z0-9-]{0,51}"
"""Of a model in a registry: that of a run (41 characters), or ``<that>-pretrained``."""


class Document(BaseModel):
    """What such an object holds; unknown entries are refused, since a newer schema would say that it has them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


D = TypeVar("D", bound=Document)


def dump(document: Document) -> bytes:
    """The object, ``{"kind", "schema", "content", "seal"}``."""
    said = {"kind": _kind(type(document)), "schema": SCHEMA, "content": document.model_dump(mode="json")}
    text = json.dumps(said | {"seal": _seal(said)}, indent=1, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode()


def load(content: bytes, form: type[D], where: str) -> D:
    """Read one.

    Args:
        content: the object.
        form: what it must hold.
        where: its address, for errors.

    Raises:
        RadtransferError: it is of another kind or of a newer schema, or was changed since it was written.
    """
    try:
        said: Any = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("kind") != _kind(form) or not isinstance(said.get("schema"), int):
        raise RadtransferError(
            f"{where}: is no {_kind(form)} of a model registry of this layout; name another registry, or get it from a "
            "backup"
        )
    if said["schema"] > SCHEMA:
        raise RadtransferError(
            f"{where}: of schema {said['schema']}, this radtransfer knows {SCHEMA}; install a newer one"
        )
    if said.pop("seal", None) != _seal(said):
        raise RadtransferError(f"{where}: does not match its seal, so it was changed by hand; get it from a backup")
    try:
        return form.model_validate_json(json.dumps(said["content"]))
    except (ValidationError, KeyError, ValueError) as error:
        raise RadtransferError(f"{where}: not as this schema has it ({str(error).splitlines()[0]})") from None


def named(name: str) -> str:
    """The name of a model, which becomes part of a path.

    Raises:
        RadtransferError: it is none.
    """
    if not re.fullmatch(NAME, name):
        raise RadtransferError(
            f"{name!r} is no name of a model; expected 1 to 52 lower-case letters, digits and dashes, the first no dash"
        )
    return name


def _kind(form: type[Document]) -> str:
    return form.__name__.lower()


def _seal(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
