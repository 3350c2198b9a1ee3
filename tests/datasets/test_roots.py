"""Names of data roots: what is taken, and what is refused before anything is looked up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.datasets.roots import DvcRoot, S3Root, clean, parse
from radtransfer.errors import RadtransferError


def test_the_forms_are_told_apart(tmp_path: Path) -> None:
    assert parse("data") == Path("data").absolute() == parse(Path("data"))
    assert parse("s3://my-bucket/a/b/") == S3Root("my-bucket", "a/b")
    assert parse("s3://my-bucket") == S3Root("my-bucket", "")
    remote = parse("dvc+https://host.example/group/set.git@v1.2:data/sets")
    assert remote == DvcRoot("https://host.example/group/set.git", "v1.2", "data/sets")
    assert parse("dvc+ssh://git@host/set@feature/x:.") == DvcRoot("ssh://git@host/set", "feature/x", "")
    assert parse(f"dvc+{tmp_path}@main:data") == DvcRoot(str(tmp_path), "main", "data")
    for root in (S3Root("my-bucket", "a/b"), remote):
        assert isinstance(root, S3Root | DvcRoot)
        again = parse(root.pinned("0" * (64 if isinstance(root, S3Root) else 40)))
        assert isinstance(again, S3Root | DvcRoot) and again.pinned("1") == root.pinned("1")


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hunter2@bucket/a",
        "s3://b/../c",
        "s3://bucket/a/../../b",
        "gs://bucket/a",
        "https://host/data",
        "dvc+https://user:hunter2@host/set@v1:data",
        "dvc+https://hunter2@host/set@v1:data",
        "dvc+https://host/set?token=hunter2@v1:data",
        "dvc+ssh://git:hunter2@host/set@v1:data",
        "dvc+ssh://-oProxyCommand=touch/set@v1:data",
        "dvc+ssh://-x@host/set@v1:data",
        "dvc+ext::sh -c touch% x@v1:data",
        "dvc+http://host/set@v1:data",
        "dvc+file:///tmp@v1:data",
        "dvc+git@host:set@v1:data",
        "dvc+--upload-pack=touch@v1:data",
        "dvc+.@--output=x:data",
        "dvc+.@a..b:data",
        "dvc+.@v1:../data",
        "dvc+.@v1:/etc",
        "dvc+.@v1",
    ],
)
def test_what_is_unsafe_or_unknown_is_refused_and_no_secret_is_said(text: str) -> None:
    with pytest.raises(RadtransferError) as refused:
        parse(text)
    if "@host" in text or "@bucket" in text:
        assert "hunter2" not in str(refused.value)


@given(st.text(alphabet=st.sampled_from("ab./\\\n-"), max_size=12))
def test_a_clean_name_stays_below_its_folder(name: str) -> None:
    try:
        cleaned = clean(name, "here")
    except RadtransferError:
        assert ".." in name or name.startswith("/") or set(name) & {"\\", "\n"}
        return
    base = Path("/base")
    assert (base / cleaned).resolve().is_relative_to(base) and not cleaned.startswith("/")
    assert clean(cleaned, "here") == cleaned
