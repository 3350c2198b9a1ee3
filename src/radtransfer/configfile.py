"""Changing entries of a configuration file and nothing else in it: comments, order and layout stay."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from radtransfer.config import mapping
from radtransfer.errors import RadtransferError

Value = str | int


def change(path: Path, values: Mapping[str, Value]) -> None:
    """Give entries of a YAML configuration new values; one that is not there yet is added at the end.

    The file is replaced in one step, or not at all.

    Args:
        path: the file; of a link, what it leads to is changed.
        values: whole numbers and plain words by key.

    Raises:
        RadtransferError: the file is not such a mapping, or is written in a way that cannot be changed safely (in
            braces, with anchors): the error says which lines to write by hand.
    """
    path = Path(path).resolve()
    with path.open(encoding="utf-8", newline="") as stream:
        text = stream.read()
    before = mapping(text, str(path))
    changed = _changed(text, values)
    try:
        sound = mapping(changed, str(path)) == before | dict(values)
    except RadtransferError:
        sound = False
    if not sound:
        lines = ", ".join(f"`{key}: {value}`" for key, value in values.items())
        raise RadtransferError(f"{path}: is written in a way that is not changed by itself; write {lines} into it")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False) as stream:
        partial = Path(stream.name)
        try:
            stream.write(changed)
            stream.flush()
            os.fsync(stream.fileno())
            shutil.copymode(path, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _changed(text: str, values: Mapping[str, Value]) -> str:
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # seen by the caller
    there = {key.value: value for key, value in root.value}
    newline = "\r\n" if "\r\n" in text else "\n"
    added = [f"{key}: {value}{newline}" for key, value in values.items() if key not in there]
    places = [
        (there[key].start_mark.index, there[key].end_mark.index, str(value))
        for key, value in values.items()
        if key in there
    ]
    for start, end, value in sorted(places, reverse=True):
        text = text[:start] + value + text[end:]
    return text + (newline if added and not text.endswith("\n") else "") + "".join(added)
