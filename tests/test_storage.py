"""What names a place that files are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest

from radtransfer.configfile import load
from radtransfer.errors import RadtransferError
from radtransfer.storage import address

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://bucket/a/b/", ("bucket", "a/b")),
        ("/a/b", Path("/a/b")),
        ("a", Path.cwd() / "a"),
    ],
)
def test_a_folder_or_a_prefix_of_a_bucket(text: str, found: Path | tuple[str, str]) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    "text", ["s3://Bad_Bucket/x", "s3://", "s3://bucket//x", "s3://bucket/x#pin", "https://host/x"]
)
@pytest.mark.parametrize("entry", ["checkpoints", "weights_mirror"])
def test_anything_else_is_refused_with_the_configuration(entry: str, text: str) -> None:
    with pytest.raises(
        RadtransferError, match=f"^--set {entry}=.*: {entry}: .*expected a folder, or s3://BUCKET/PREFIX"
    ):
        load(CONFIG, [f"{entry}={text}"])
