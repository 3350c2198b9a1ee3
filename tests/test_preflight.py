"""What is amiss with a run is found before anything is computed, all at once, each with what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radtransfer import __version__, preflight, storage
from radtransfer.configfile import complaints
from radtransfer.errors import RadtransferError
from radtransfer.provenance import code_version
from tests.weed import Weed

BACKBONE = "tf_efficientnet_lite0"
Look = Callable[..., list[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("T", "S"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").touch()
    return tmp_path / "data"


@pytest.fixture
def whole(data: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Preflight of a run that would do; returns what is amiss."""
    monkeypatch.setattr(storage, "WAITS", (0.01,))
    settings = {"name": "n", "target_layout": "class_folders", "target_path": "T", "target_part": "T"}
    settings |= {"source_layout": "class_folders", "source_path": "S", "backbones": [BACKBONE]}

    def call(registry: str = "", data_root: str = "", versions: tuple[str, ...] = (), **changed: Any) -> list[str]:
        given = {key: value for key, value in (settings | changed).items() if value is not None}
        try:
            preflight.preflight(given, data_root=data_root or str(data), registry=registry, versions=versions)
        except RadtransferError as error:
            head, *problems = str(error).splitlines()
            assert head == f"this run would fail, for {len(problems)} reason(s):"
            return problems
        return []

    return call


@pytest.fixture
def look(whole: Look, monkeypatch: pytest.MonkeyPatch) -> Look:
    """The same without a look at weights, which takes seconds."""
    monkeypatch.setattr(preflight, "_weights", lambda *_: None)
    return whole


def test_nothing_is_amiss_with_a_run_that_can_be_made(whole: Look, tmp_path: Path) -> None:
    places = {"registry": str(tmp_path / "registry"), "checkpoints": str(tmp_path / "checkpoints")}
    versions = (__version__, code_version(), f"{code_version()}/graph", "")
    assert whole(versions=versions, **places) == []
    assert not list((tmp_path / "checkpoints").rglob("*.*"))


def test_weights_and_names_of_all_backbones(whole: Look, tmp_path: Path) -> None:
    first, second = whole(backbones=["tf_efficientnet_lite", BACKBONE], weights_mirror=str(tmp_path))
    assert "timm has no model 'tf_efficientnet_lite'; did you mean tf_efficientnet_lite0" in first
    assert f"{BACKBONE}.safetensors is missing; put it there or set weights_mirror to ''" in second


def test_all_parameters_that_make_no_sense_are_told_with_what_would(look: Look) -> None:
    problems = look(
        pretrain_task="all", test_fraction=2, bacbones=1, calibration="plat", target_layout="mure", classifiers=["knm"]
    )
    said = "\n".join(problems)
    assert len(problems) == 6
    assert "pretrain_task: Input should be 'abnormality', 'body_part' or 'both' (got 'all')" in said
    assert "test_fraction: Input should be less than 0.6 (got 2)" in said
    assert "unknown key 'bacbones'; did you mean backbones?" in said
    assert "calibration: Input should be 'platt', 'temperature' or 'isotonic'" in said
    assert "target_layout: unknown layout 'mure'; did you mean mura?" in said
    assert "classifiers: " in said and "knn" in said


def test_what_lacks_a_needed_entry_is_looked_at_no_further(look: Look) -> None:
    (first, last) = look(target_path=None)
    assert "target_path: Field required" in first and "were not looked at: first put the parameters right" in last


def test_as_kfp_hands_values_on() -> None:
    """Numbers in mappings as text."""
    given = {"name": "n", "target_layout": "l", "target_path": "t", "target_part": "p", "source_layout": "l"}
    config, problems = complaints(given | {"source_path": "s", "seed": "3", "learning_rate": "5e-04"})
    assert problems == [] and config is not None and (config.seed, config.learning_rate) == (3, 5e-4)


def test_another_version_of_the_package(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADTRANSFER_IMAGE", "it@sha256:0")
    package, code = look(versions=("0.0.9", "0.0.9+abc/def"))
    assert f"image it@sha256:0: holds radtransfer {__version__}, and the pipeline was made with 0.0.9" in package
    assert f"holds radtransfer {code_version()}, and the pipeline was made with 0.0.9+abc/def; build the" in code


def test_data_that_is_not_there(look: Look, data: Path) -> None:
    (data / "S" / "a.png").unlink()
    assert look() == [
        f"- data_root: {data / 'S'}: is empty, a data set is expected there; put it there, or set its path"
    ]
    (problem,) = look(external={"layout": "class_folders", "path": "E", "part": "E"}, source_path="T")
    assert "external: " in problem and f"{data / 'E'}: is no folder" in problem
    (problem,) = look(data_root=f"dvc+{data}@main:data", source_path="T")
    assert "is not the top of a git repository" in problem


def test_a_store_that_cannot_be_reached(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        problems = look(data_root="s3://bucket/data", checkpoints="s3://bucket/c", registry="s3://bucket/r")
    assert [problem.split(":")[0] for problem in problems] == ["- data_root", "- checkpoints", "- registry"]
    assert all("the storage failed 2 times in a row (EndpointConnectionError" in problem for problem in problems)


def test_places_in_a_store(look: Look, server: Weed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("T", "S"):
        server.client.put_object(Bucket="radtransfer", Key=f"sets/{name}/a.png", Body=b"x")
    places = {
        "checkpoints": "s3://radtransfer/c",
        "registry": "s3://radtransfer/r",
        "data_root": "s3://radtransfer/sets",
    }
    assert look(**places) == []
    left = [each["Key"] for each in server.client.list_objects_v2(Bucket="radtransfer")["Contents"]]
    assert left == ["r/registry.json", "sets/S/a.png", "sets/T/a.png"], "the object that was stored is gone again"
    (data,) = look(**places | {"data_root": "s3://radtransfer/else"})
    assert "nothing in 'else/S', where a data set is expected" in data
    for key, value in server.reader.items():
        monkeypatch.setenv(key, value)
    problems = look(**places | {"registry": "s3://radtransfer/new"})
    assert ["access denied; give the credentials" in problem for problem in problems] == [True, True]
    for key in server.reader:
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    problems = look(**places)
    assert len(problems) == 3
    assert all("the Secret that the parameter `secret` names is missing" in problem for problem in problems)


def test_models_that_are_not_there(look: Look, tmp_path: Path) -> None:
    (problem,) = look(pretrained_models=str(tmp_path))
    assert problem.startswith("- pretrained_models: ") and str(tmp_path / BACKBONE) in problem
    (problem,) = look(pretrained_models=f"{tmp_path / 'none'}#hand@3")
    assert "there is no model registry" in problem


def test_a_folder_that_cannot_be_written(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = look(checkpoints=str(tmp_path / "file"))
    assert problem.startswith("- checkpoints: ") and "File exists" in problem


def test_a_pseudonym_key_that_is_too_short(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADTRANSFER_PSEUDONYM_KEY", "short")
    (problem,) = look()
    assert "RADTRANSFER_PSEUDONYM_KEY is too short; set it to a secret of 16 characters or more" in problem
