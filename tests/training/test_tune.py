"""What is chosen by what was measured, and how it comes into the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from radtransfer import cli, limits
from radtransfer.config import RunConfig
from radtransfer.configfile import load
from radtransfer.errors import RadtransferError
from radtransfer.training import tune
from radtransfer.training.tune import TRIES, Tried, cheaper, fewest, largest, ratio

CONFIG = """\
name: trial
target_layout: phantoms
target_path: phantoms
target_part: hand
source_layout: phantoms
source_path: phantoms
image_size: 64
backbones: [test_resnet, test_vit]  # small
batch_size: 8
threads: 1  # to be measured
"""


def tried(values: dict[Any, float], backbone: str = "a", **more: Any) -> list[Tried]:
    """So many seconds for an image, with one try that something else disturbed."""
    return [Tried(backbone, value, (seconds, seconds, 3 * seconds), **more) for value, seconds in values.items()]


def test_threads_are_as_few_as_cost_nothing() -> None:
    assert fewest(tried({1: 1.0, 2: 0.6, 4: 0.58, 8: 0.7})) == 2
    assert fewest(tried({1: 1.0, 2: 0.6, 4: 0.5})) == 4
    assert fewest(tried({1: 1.0})) == 1
    both = tried({1: 1.0, 2: 0.9}) + tried({1: 10.0, 2: 12.0}, "b")
    assert fewest(both) == 1, "what counts is the time of all together"


@pytest.mark.parametrize(
    ("seconds", "moved", "chosen"),
    [(0.9, 0.01, "bfloat16"), (0.92, 0.01, "float32"), (0.5, 0.06, "float32"), (1.2, 0.0, "float32")],
)
def test_bfloat16_must_be_clearly_faster_and_move_scores_little(seconds: float, moved: float, chosen: str) -> None:
    assert cheaper(tried({"float32": 1.0}) + tried({"bfloat16": seconds}, moved=moved)) == chosen


def test_a_lucky_try_does_not_make_it_faster() -> None:
    assert ratio((1.0, 1.0, 1.0), (0.4, 1.0, 1.1)) == 1.0
    assert ratio((1.0, 2.0, 2.0), (1.0, 1.0, 1.0)) == 1.0


def test_the_largest_batch_that_pays() -> None:
    assert largest(tried({8: 1.0, 16: 0.8, 32: 0.79, 64: 0.5})) == 16
    assert largest(tried({8: 1.0, 16: 0.8, 32: 0.6})) == 32
    assert largest(tried({8: 1.0, 16: 0.5}) + tried({8: 1.0}, "b")) == 8, "one had no memory for more"


class Stub:
    """A trial whose time is told, not taken; the clock is the number of seconds that all works have taken so far."""

    now = 0.0
    cost: Callable[[str, int, str, str], float]

    def __init__(self, backbone: str, input_size: int, batch_size: int, precision: str) -> None:
        self.about = (backbone, batch_size, precision)
        assert input_size == 0

    def train(self) -> None:
        Stub.now += Stub.cost(*self.about, "train") * self.about[1]

    def forward(self) -> None:
        Stub.now += Stub.cost(*self.about, "forward") * self.about[1]


def in_turn(works: Sequence[Callable[[], None]], tries: int) -> list[list[float]]:
    seen: list[list[float]] = [[] for _ in works]
    for _ in range(tries):
        for work, its in zip(works, seen, strict=True):
            before = Stub.now
            work()
            its.append(Stub.now - before)
    return seen


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration on a machine of four CPUs, where two threads and bfloat16 are faster, and larger batches too."""

    def cost(backbone: str, batch_size: int, precision: str, what: str) -> float:
        threads = min(torch.get_num_threads(), 2)
        batched = {8: 1.0, 16: 0.9, 32: 0.88}[batch_size]
        return (1 if what == "forward" else 3) * batched / threads / (2 if precision == "bfloat16" else 1)

    monkeypatch.setattr(Stub, "cost", staticmethod(cost), raising=False)
    monkeypatch.setattr(tune, "Trial", Stub)
    monkeypatch.setattr(tune, "in_turn", in_turn)
    monkeypatch.setattr(tune, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(tune, "moved", lambda *_: 0.01)
    monkeypatch.setattr(limits, "cpus", lambda: 4)
    path = tmp_path / "own.yaml"
    path.write_text(CONFIG)
    return path


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["radtransfer", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_what_was_measured_is_written(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(monkeypatch, "tune", "--config", str(config), "--dry-run") == 0
    said = capsys.readouterr().out
    assert config.read_text() == CONFIG and "not written: threads: 2 (was 1), precision: bfloat16 (was float32)" in said
    assert re.search(r"test_vit\W+bfloat16\W+1\.3\W+2\.00\W+4\.0\W+2\.00\W+1\.0%", said), said
    assert "batches of 16 are faster than those of 8, but the batch size is a part of the recipe" in said
    assert "32 images of noise" in said

    assert invoke(monkeypatch, "tune", "--config", str(config), "--backbone", "test_vit") == 0
    assert config.read_text() == CONFIG and "not written" in capsys.readouterr().out

    assert invoke(monkeypatch, "tune", "--config", str(config)) == 0
    assert config.read_text() == CONFIG.replace("threads: 1 ", "threads: 2 ") + "precision: bfloat16\n"
    assert load(config).batch_size == 8

    assert invoke(monkeypatch, "tune", "--config", str(config), "--write-batch-size") == 0
    assert (load(config).threads, load(config).precision, load(config).batch_size) == (2, "bfloat16", 16)
    capsys.readouterr()


def test_nothing_is_written_of_tries_that_something_disturbed(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calm, tries = Stub.cost, 0

    def disturbed(*about: Any) -> float:
        nonlocal tries
        tries += 1
        return calm(*about) * (1 + tries % 3)

    monkeypatch.setattr(Stub, "cost", staticmethod(disturbed))
    assert invoke(monkeypatch, "tune", "--config", str(config)) == 1
    assert config.read_text() == CONFIG and "other work disturbed them" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_a_batch_that_memory_does_not_do_for_is_the_end(
    config: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    calm, least = Stub.cost, 16

    def full(backbone: str, batch_size: int, *rest: str) -> float:
        if batch_size >= least:
            raise error
        return calm(backbone, batch_size, *rest)

    monkeypatch.setattr(Stub, "cost", staticmethod(full))
    found = tune._batches(load(config), "test_resnet", "float32", 1)
    assert [each.value for each in found] == [8]
    least = 8
    with pytest.raises(RadtransferError, match=r"tune: out of memory with batches of 8 .*; lower batch_size"):
        tune.tune(load(config), ["test_resnet"], None)


def test_a_backbone_that_the_run_does_not_have_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(monkeypatch, "tune", "--config", str(config), "--backbone", "resnet18") == 2


def test_it_measures(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network for real, on images that are really there."""
    from radtransfer.datasets.phantoms import make_phantoms

    monkeypatch.undo()
    monkeypatch.setattr(limits, "cpus", lambda: 1)
    monkeypatch.setattr(tune, "LARGEST", 8)
    monkeypatch.setattr(tune, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(tune, "load_imagenet", lambda network, mirror: torch.manual_seed(0))
    make_phantoms(
        config.parent / "phantoms", images_per_part=6, parts=["hand", "knee"], difficulty=0.2, size=80, seed=1
    )
    found = tune.tune(load(config), ["test_resnet"], config.parent)
    assert [each.value for each in found.precisions] == [
        "float32",
        "bfloat16",
    ] and "6 images of phantoms" in found.images
    assert all(len(each.train) == TRIES and min(each.train) > 0 for each in found.threads + found.batch_sizes)
    assert 0 < found.precisions[1].moved < 0.2 and found.batch_sizes[0].mib > 50
    assert found.chosen["threads"] == 1 and found.chosen["batch_size"] == 8


def test_images_are_those_of_the_run(tmp_path: Path) -> None:
    from radtransfer.datasets.phantoms import make_phantoms

    make_phantoms(tmp_path / "phantoms", images_per_part=40, parts=["hand", "knee"], difficulty=0.2, size=80, seed=1)
    given = RunConfig(
        name="a", target_layout="phantoms", target_path="phantoms", target_part="hand", source_layout="phantoms",
        source_path="phantoms", image_size=64,
    )  # fmt: skip
    images, about = tune.sample(given, tmp_path)
    assert images.shape == (32, 64, 64) and images.dtype == np.uint8 and about == "32 images of phantoms, hand"
    for file in (tmp_path / "phantoms").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(RadtransferError, match="0 of 32 images of phantoms, 'hand', could be decoded"):
        tune.sample(given, tmp_path)
