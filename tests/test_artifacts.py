"""Artifacts from elsewhere: what is not one is refused with a word, whatever its description holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from radtransfer import artifacts
from radtransfer.errors import RadtransferError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with artifacts.writing(tmp_path / "model", "model", step="finetune", settings={}) as (folder, content):
        (folder / "weights").write_bytes(b"weights")
        content["threshold"] = 0.5
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("content", {"threshold": float("nan")}),
        ("content", {"threshold": float("inf")}),
        ("content", ["threshold"]),
        ("files", ["weights"]),
        ("files", None),
        ("made", "by hand"),
        ("cost", 7),
        ("digest", ""),
        ("digest", None),
    ],
)
def test_odd_descriptions_are_refused(model: Path, key: str, value: Any) -> None:
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | {key: value}))
    with pytest.raises(
        RadtransferError, match=r"model\.json: (it does not match its digest and seal|entry '\w+' is missing or odd)"
    ):
        artifacts.read(model, "model")


@pytest.mark.parametrize("key", ["made", "cost", "seal"])
def test_what_the_digest_leaves_out_is_sealed(model: Path, key: str) -> None:
    description = json.loads((model / "model.json").read_text())
    changed = "0" * 64 if key == "seal" else description[key] | {"version": "1.0.0"}
    (model / "model.json").write_text(json.dumps(description | {key: changed}))
    with pytest.raises(RadtransferError, match=r"model\.json: it does not match its digest and seal"):
        artifacts.read(model, "model")


def test_json_too_deep_to_read_is_refused(model: Path) -> None:
    (model / "model.json").write_text("[" * 100_000)
    with pytest.raises(RadtransferError, match=r"model\.json: not valid JSON"):
        artifacts.read(model, "model")


def test_an_artifact_holds_files_only(model: Path, tmp_path: Path) -> None:
    """Copying a pipe would wait for a writer for ever."""
    os.mkfifo(model / "pipe")
    with pytest.raises(RadtransferError, match="pipe: neither file nor folder"):
        artifacts.read(model, "model")
    (model / "pipe").unlink()
    (tmp_path / "aside").write_bytes(b"weights")
    (model / "weights").unlink()
    (model / "weights").symlink_to(tmp_path / "aside")
    with pytest.raises(RadtransferError, match="links are not allowed"):
        artifacts.read(model, "model", verify=True)
