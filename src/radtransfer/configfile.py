"""Reading a configuration file, and changing entries of it and nothing else: comments, order and layout stay."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from radtransfer.config import RunConfig, faults
from radtransfer.errors import RadtransferError, near

Value = str | int


class _Loader(yaml.SafeLoader):
    """YAML's safe loader takes the last of two entries with one key, which hides a mistake; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"key {twice!r} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration and apply ``key=value`` overrides (values are YAML too).

    Raises:
        RadtransferError: file missing, not a YAML mapping, unknown key (with near matches), value out of range.
    """
    data, origins = read(path, overrides)
    return validate(data, str(path), origins)


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """As :func:`load`, without a look at keys and values: the entries, and by key the override that it comes from.

    Raises:
        RadtransferError: file missing, not a YAML mapping, or no overrides.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RadtransferError(f"{path}: no such configuration file; see configs/ for those that come along") from None
    except UnicodeDecodeError as error:
        raise RadtransferError(f"{path}: not valid YAML: {error}") from None
    data, origins = mapping(text, str(path)), {}
    for override in overrides:
        key, value = assigned(override, "--set")
        data[key], origins[key] = value, f"--set {override}"
    return data, origins


def assigned(text: str, option: str) -> tuple[str, Any]:
    """Read ``key=value``, the value in YAML; ``option`` gave it.

    Raises:
        RadtransferError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise RadtransferError(f"{option} {text}: expected key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RadtransferError(f"{option} {text}: value is not valid YAML: {error}") from None


def mapping(text: str, where: str) -> dict[str, Any]:
    """Read a mapping written in YAML; ``where`` names its origin in errors.

    Raises:
        RadtransferError: not YAML, or not a mapping.
    """
    try:
        data = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise RadtransferError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise RadtransferError(f"{where}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def validate(data: dict[str, Any], where: str, origins: Mapping[str, str] | None = None) -> RunConfig:
    """Build a :class:`RunConfig`; ``where`` names the origin in errors, ``origins`` that of single keys."""
    origins = origins or {}
    unknown = next((str(key) for key in data if key not in RunConfig.model_fields), None)
    if unknown is not None:
        raise RadtransferError(
            f"{origins.get(unknown, where)}: unknown key {unknown!r}; {near(unknown, RunConfig.model_fields)}"
        )
    try:
        return RunConfig(**data)
    except ValidationError as error:
        key = next(iter(error.errors()[0]["loc"]), "")
        raise RadtransferError(f"{origins.get(str(key), where)}: {faults(error)[0]}") from None


def complaints(data: Mapping[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """All that is wrong with a configuration, where :func:`validate` tells the first.

    Returns:
        the configuration, of one with errors what its other entries say, if that is one at all; and the errors.
    """
    found = [
        f"unknown key {key!r}; {near(key, RunConfig.model_fields)}" for key in data if key not in RunConfig.model_fields
    ]
    known = {key: value for key, value in data.items() if key in RunConfig.model_fields}
    try:
        return RunConfig(**known), found
    except ValidationError as error:
        found += faults(error)
        wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
    try:
        return RunConfig(**{key: value for key, value in known.items() if key not in wrong}), found
    except ValidationError:
        return None, found


def entries(given: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a configuration as what they are; KFP hands them on in a mapping as text or floats.

    Raises:
        RadtransferError: one is no entry, or not such a value.
    """
    found = {}
    for name, value in given.items():
        try:
            kind: Any = RunConfig.model_fields[name].annotation
            found[name] = TypeAdapter(kind).validate_python(value)
        except (KeyError, ValidationError) as error:
            raise RadtransferError(f"pipeline parameter {name}: {value!r} is no such setting ({error})") from None
    return found


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
