"""What goes wrong in a training is one clear error, and what was reached is kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from radtransfer import cli
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import SCHEMA
from radtransfer.training import checkpoints, loop, memory, objective
from radtransfer.training.inference import infer
from radtransfer.training.loop import Recipe
from radtransfer.training.network import Network
from radtransfer.training.objective import Objective
from radtransfer.training.steps import finetune
from tests.training.test_steps import RECIPE, SIDE, write_store

ARGUMENTS: dict[str, Any] = RECIPE | {"backbone": "test_resnet", "tl_source": "scratch", "pretrained": None}
ARGUMENTS |= {"checkpoint_minutes": 1e-9}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_store(tmp_path / "target", "target")


def left(folder: Path) -> list[int]:
    """Steps of the checkpoints that are left, all of whose numbers are finite."""
    files = sorted(folder.rglob("*.safetensors"))
    for path in files:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values() if tensor.is_floating_point())
    return [int(path.name[:8]) for path in files]


def edit(store: Path, change: Callable[[pd.DataFrame], object]) -> None:
    manifest = pq.read_table(store / "manifest.parquet").to_pandas()
    change(manifest)
    pq.write_table(pa.Table.from_pandas(manifest, schema=SCHEMA, preserve_index=False), store / "manifest.parquet")


def move(**where: Any) -> Callable[[pd.DataFrame], object]:
    """Set columns of the rows that lie in ``of`` from row ``after`` on."""

    def change(rows: pd.DataFrame) -> None:
        chosen = (rows["split"] == where["of"]) & (rows.index > where.get("after", -1))
        for column in where.keys() & {"split", "label"}:
            rows.loc[chosen, column] = where[column]

    return change


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["radtransfer", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_rate_that_is_far_too_high(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target-store", target, "--backbone", "test_resnet", "--tl-source", "scratch", "--threads", 1]
    arguments += ["--input-size", SIDE, "--batch-size", 8, "--learning-rate", 1e30, "--checkpoints", tmp_path / "left"]
    assert command(monkeypatch, "finetune", *arguments, "--out", tmp_path / "model") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        r"radtransfer: error: finetune scratch test_resnet: the (loss|norm of the gradient) is (nan|inf)", said
    )
    assert said.endswith("set a lower learning_rate (it is 1e+30)")
    left(tmp_path / "left")
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_no_number_spoils_no_checkpoint(target: Path, tmp_path: Path) -> None:
    """The loss is one: only the step after it would have shown it."""
    real, calls = Objective.loss, 0

    def loss(*given: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = real(*given, **more)
        return value + (value * 0).sqrt() if calls == 3 else value

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Objective, "loss", loss)
        with pytest.raises(RadtransferError, match="the norm of the gradient is nan in step 3; set a lower learning"):
            finetune(
                target_store=target, out=tmp_path / "model", **(ARGUMENTS | {"checkpoints": str(tmp_path / "left")})
            )
    assert left(tmp_path / "left") == [1, 2]


def test_validation_logits_that_are_no_numbers(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = Network.head

    def odd(self: Network, features: torch.Tensor) -> torch.Tensor:
        logits = head(self, features)
        return logits if self.training else logits / 0

    monkeypatch.setattr(Network, "head", odd)
    with pytest.raises(
        RadtransferError, match="a validation score is not a number after epoch 1; set a lower learning"
    ):
        finetune(target_store=target, out=tmp_path / "model", **(ARGUMENTS | {"checkpoints": str(tmp_path / "left")}))
    assert left(tmp_path / "left") == [1, 2]
    assert not (tmp_path / "model").exists()


def test_numbers_that_are_not_finite_are_not_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = loop.Training(Network("test_resnet", SIDE), Recipe(1, 8, 1e-3, 0.01, 0))
    kept = checkpoints.Checkpoints(tmp_path)
    kept.save(training)
    training.steps = 1
    with torch.no_grad():
        training.network.body.get_classifier().bias.fill_(float("inf"))
    kept.save(training)
    assert "no checkpoint after step 1 (network/body.fc.bias is not finite)" in capsys.readouterr().err
    assert left(tmp_path) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move(of="validation", label=2, after=70), "image set/074.png of split 'validation' the label 2, one of 2"),
        (move(of="train", label=None), "image set/000.png of split 'train' the label none, one of 28"),
        (move(of="train", split="test"), "'train' holds 0 images of fewer"),
        (move(of="train", split="test", after=0), "'train' holds 1 images of fewer"),
        (move(of="validation", label=1), "'validation' holds 26 images of fewer"),
    ],
)
def test_a_store_that_cannot_be_learnt_from(
    target: Path, tmp_path: Path, change: Callable[[pd.DataFrame], object], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    edit(target, change)
    arguments = ["--target-store", target, "--backbone", "test_resnet", "--tl-source", "scratch"]
    assert command(monkeypatch, "finetune", *arguments, "--out", tmp_path / "model") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"radtransfer: error: {target}: ") and message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_labels_of_test_images_are_not_looked_at(target: Path, tmp_path: Path) -> None:
    edit(target, move(of="test", label=None))
    finetune(target_store=target, out=tmp_path / "model", **(ARGUMENTS | {"epochs": 1}))


def test_no_step_sees_one_image_alone(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RadtransferError, match="batch_size: 1 is too small; batch normalisation needs 2"):
        finetune(target_store=target, out=tmp_path / "model", **(ARGUMENTS | {"batch_size": 1}))
    edit(target, move(of="train", split="test", after=6))
    seen: list[int] = []
    augment = objective.augment
    monkeypatch.setattr(
        objective,
        "augment",
        lambda images, *rest, **more: (seen.append(len(images)), augment(images, *rest, **more))[1],
    )
    for number, (size, expected) in enumerate({2: [2], 3: [3], 16: [3]}.items()):  # of three images
        seen.clear()
        finetune(
            target_store=target, out=tmp_path / f"model{number}", **(ARGUMENTS | {"epochs": 1, "batch_size": size})
        )
        assert seen == expected


def allocating(limit: int, module: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a function of images fail as a full accelerator does when there are more than so many."""
    real = getattr(module, name)

    def full(*arguments: Any, **keywords: Any) -> Any:
        images = next(each for each in arguments if isinstance(each, torch.Tensor))
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore of it")
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, full)


@pytest.mark.parametrize(
    ("limit", "tried", "advice"),
    [
        (5, True, r"4 of 32 px were tried and fit: set batch_size to 4, or give"),
        (1, True, "no smaller batch fits: set a smaller input_size"),
        (5, False, r"set batch_size to 4 \(half of it, which was not tried\), or give"),
    ],
)
def test_memory_that_runs_out_in_training(target: Path, tmp_path: Path, limit: int, tried: bool, advice: str) -> None:
    arguments = ARGUMENTS | {"checkpoints": str(tmp_path / "left"), "target_store": target}
    with pytest.MonkeyPatch.context() as patched:
        allocating(limit, objective, patched, "augment")
        patched.setattr(memory, "may_try", lambda: tried)
        said = r"in step 1 with 8 images \(CUDA out of memory. Tried to allocate 20.00 GiB.\); " + advice
        with pytest.raises(RadtransferError, match=said):
            finetune(out=tmp_path / "model", **arguments)
    assert not left(tmp_path / "left")  # the steps that were tried leave nothing


def test_memory_that_runs_out_in_inference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    network = Network("test_resnet", SIDE).eval()
    images = np.random.default_rng(0).integers(0, 256, (37, SIDE, SIDE)).astype(np.uint8)
    features, logits = infer(network, images)
    with pytest.MonkeyPatch.context() as patched:
        allocating(7, Network, patched, "features")
        halved, of_halves = infer(network, images, what="extract")
        assert "extract: warning: 32 images do not fit into memory, now 16 at a time" in capsys.readouterr().err
        np.testing.assert_allclose(features, halved, atol=1e-6)
        np.testing.assert_allclose(logits, of_halves, atol=1e-6)
    allocating(0, Network, monkeypatch, "features")
    with pytest.raises(RadtransferError, match=r"extract: out of memory with one image at a time \(CUDA out of memory"):
        infer(network, images, what="extract")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_without_memory_says_what_fits(target: Path, tmp_path: Path) -> None:
    """And what it says fits there fits."""
    arguments = ARGUMENTS | {"target_store": target, "epochs": 1, "batch_size": 26, "input_size": 1024}
    try:
        torch.cuda.set_per_process_memory_fraction(1e9 / torch.cuda.get_device_properties(0).total_memory)
        with pytest.raises(RadtransferError, match=r"26 images .*tried and fit: set batch_size to") as stop:
            finetune(out=tmp_path / "model", **arguments)
        advised = int(str(stop.value).rpartition("batch_size to ")[2].partition(",")[0])
        finetune(out=tmp_path / "model", **(arguments | {"batch_size": advised}))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


SCRIPT = """
import resource, sys
from radtransfer import cli
from radtransfer.training import loop, steps
learn = loop.Training.learn
def limited(self, loss, share):  # the first step fits, the rest of the training gets no new memory
    if not self.steps:
        learn(self, loss, share)
        size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * size + 2 ** 26,) * 2)
        return
    learn(self, loss, share)
loop.Training.learn = limited
loop.side = lambda epoch, epochs, full: 32 if loop_state.setdefault("first", epoch) == epoch else full
loop_state = {}
sys.argv = ["radtransfer", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_process_without_memory_says_what_fits(target: Path, tmp_path: Path) -> None:
    """A real limit: the second epoch, at the full size, asks for more than the address space may grow by."""
    arguments = ["finetune", "--target-store", target, "--backbone", "test_resnet", "--tl-source", "scratch"]
    arguments += ["--threads", 1, "--epochs", 2, "--batch-size", 16, "--input-size", 512]
    arguments += ["--checkpoints", tmp_path / "left", "--out", tmp_path / "model"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    said = done.stderr.splitlines()[-1]
    assert re.search(
        r"out of memory in step 2 with 16 images \(.*can't allocate memory.*\); set batch_size to 8 \(", said
    )


def test_a_disk_too_full_for_the_model_keeps_the_training(
    target: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left"), "refit": True}
    with pytest.raises(
        RadtransferError, match=r"weights.safetensors: cannot be written .*make room or name another path"
    ):
        finetune(out=small_disk / "model", **arguments)
    assert not (small_disk / "model").exists()
    kept = left(tmp_path / "left")
    assert kept
    finetune(out=tmp_path / "model", **arguments)
    assert f"goes on after step {kept[-1]}" in capsys.readouterr().err
    assert not left(tmp_path / "left")
