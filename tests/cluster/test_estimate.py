"""What a run is said to take, before it is sent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from radtransfer.configfile import load
from radtransfer_pipelines.cluster import command, estimate
from radtransfer_pipelines.cluster.estimate import Size, counted, priced
from radtransfer_pipelines.plan import Work
from tests.cluster.conftest import CONFIG, Command
from tests.cluster.kfp_stub import Stub

SIZES = {"a": Size(1_000_000, 100), "b": Size(3_000_000, 300)}


def work(step: str, seconds: float) -> Work:
    return Work(step, "a", 1, 1, 1, seconds)


def test_hours_and_bytes() -> None:
    """Trainings hold 4 cores, extraction 2; features once as they are and once fused, of three sources."""
    config = load(CONFIG, ["image_size=100", "refit=false"])
    rows = [work("pretrain", 1800), work("finetune", 5400), work("extract", 3600)]
    found = priced(config, rows, SIZES, 300, 700, 0)
    assert found.core_hours == pytest.approx(0.5 * 4 + 1.5 * 4 + 1 * 2) and found.gpu_hours is None
    assert found.stored == {
        "images": 1000 * 100 * 100,
        "models": 4 * 4_000_000 * 4,
        "features": 2 * 3 * 300 * 400 * 4,
        "bundle": 4 * 4_000_000,
    }
    refitted = priced(load(CONFIG, ["refit=true"]), rows, SIZES, 300, 700, 1)
    assert refitted.gpu_hours == pytest.approx(2.0)
    assert (
        refitted.stored["models"] == 4 * 4_000_000 * 7 and refitted.stored["features"] == 2 * found.stored["features"]
    )
    lines = refitted.lines()
    assert "about 10.0 core-hours" in lines[0] and "at most 2.0 GPU-hours" in lines[1] and "GiB" in lines[2]


@pytest.mark.parametrize(
    ("root", "of_one"), [("s3://bucket/sets", False), ("s3://bucket/deep/FracAtlas#" + "0" * 64, True)]
)
def test_images_in_a_bucket_are_counted(monkeypatch: pytest.MonkeyPatch, root: str, of_one: bool) -> None:
    place = "deep/FracAtlas" if of_one else "sets/FracAtlas"
    keys = [f"{place}/images/{name}" for name in ("1.jpg", "2.JPG", "3.png", "4.dcm")] + [f"{place}/dataset.csv"]
    keys.append(f"{place}2/1.jpg")

    def bucket(name: str) -> SimpleNamespace:
        assert name == "bucket"
        return SimpleNamespace(list=lambda prefix: (SimpleNamespace(key=key) for key in keys if key.startswith(prefix)))

    monkeypatch.setattr(estimate, "Bucket", bucket)
    assert counted(load(CONFIG), root) == (4, 4)
    assert counted(load(CONFIG), "/data") is None


def test_the_estimate_is_shown_before_anything_is_sent(
    stub: Stub, submitting: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on a network that is small enough for that, in this process, which has PyTorch already."""
    monkeypatch.setattr(command, "apart", lambda function, *arguments: function(*arguments))
    options = ["--set", "backbones=[test_resnet]", "--set", "input_size=32", "--set", "batch_size=4"]
    done = submitting(*options, "--images", "40", "60", "--dry-run")
    assert done.code == 0 and stub.asked == [], done.err
    assert "core-hours at the speed of this machine" in done.err and "artifacts: about 0.0" in done.err
    assert done.out.startswith("{") and '"data_root": "/data"' in done.out
    done = submitting("--set", "backbones=[tset_resnet]", "--images", "40", "60")
    assert done.code == 2 and "test_resnet" in done.err and stub.asked == []


def test_what_cannot_be_estimated_is_said(stub: Stub, submitting: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "give their numbers by --images TARGET SOURCE" in submitting("--dry-run").err
    both = ["--set", "equal_steps=true", "--set", "pretrained_models=/data/models"]
    assert "no estimate: with equal_steps" in submitting("--dry-run", *both).err
    monkeypatch.setattr("radtransfer.storage.WAITS", ())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    done = submitting("--dry-run", "--data-root", "s3://bucket/sets")
    assert done.code == 0 and "no estimate: the images could not be counted (s3://bucket/sets/FracAtlas/" in done.err
