"""A registry in a folder, and the same in S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from radtransfer import storage
from radtransfer.cache import VARIABLE
from radtransfer.registry.versions import Registry
from tests.weed import KEYS


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a prefix in a bucket of moto's."""
    for variable in (*storage.ENDPOINTS, "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "WAITS", (0, 0))
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="models")
        yield "s3://models/team/registry"


@pytest.fixture(params=["folder", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a registry that is not there yet."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    assert not os.environ.get("AWS_ENDPOINT_URL_S3")
    return str(request.getfixturevalue("bucket"))


@pytest.fixture
def registry(where: str) -> Registry:
    """An empty one."""
    return Registry.open(where, write=True)
