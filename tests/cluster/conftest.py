"""The command line against the stub of KFP's API server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kfp
import pytest

from radtransfer import cli
from radtransfer_pipelines.cluster import connection, submit
from radtransfer_pipelines.compile import compile_one
from tests.cluster.kfp_stub import Stub

CONFIG = Path(__file__).parents[2] / "configs" / "fracatlas-hand-quick.yaml"
IMAGE = "registry.example/radtransfer@sha256:"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _no_other_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a cluster of their own."""
    for name in list(os.environ):
        if name.startswith(("RADTRANSFER_KFP_", "KF_PIPELINES_", "AWS_", "KUBERNETES_SERVICE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(connection, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server; the test fails on any request that the OpenAPI does not know."""
    with Stub().serving() as server:
        monkeypatch.setenv(connection.HOST, server.url)
        yield server
    assert server.problems == []


@pytest.fixture
def radtransfer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls the command line in this process, which has kfp already."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["radtransfer", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Done(int(stop.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages of one pipeline for two images, by the image's digest."""
    folder = tmp_path_factory.mktemp("packages")
    return {digest: compile_one("transfer_fusion", folder / digest, image=IMAGE + digest) for digest in ("1", "2")}


@pytest.fixture
def submitting(radtransfer: Command, packages: dict[str, Path]) -> Command:
    """`radtransfer submit` of the quick configuration."""

    def call(*arguments: str, package: str = "1") -> Done:
        return radtransfer("submit", "--config", str(CONFIG), "--package", str(packages[package]), *arguments)

    return call
