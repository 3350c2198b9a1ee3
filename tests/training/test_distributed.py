"""A training by several processes is that of one process, and ends well however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.training import checkpoints, distributed, steps
from radtransfer.training.augment import augment
from radtransfer.training.checkpoints import ASKED_TO_END
from radtransfer.training.network import Network
from radtransfer.training.steps import finetune
from tests.training.test_checkpoints import ROOT, names
from tests.training.test_errors import edit
from tests.training.test_steps import RECIPE, write_store

ARGUMENTS: dict[str, Any] = RECIPE | {
    "backbone": "test_convnext", "tl_source": "scratch", "pretrained": None, "epochs": 12, "batch_size": 9,
}  # fmt: skip
WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "target", "target")


def together(count: int, **arguments: Any) -> None:
    """Fine-tune in so many processes, as if there were so many GPUs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "processes", lambda: count)
        finetune(**arguments)


def with_dropout(backbone: str, input_size: int, **settings: Any) -> Network:
    """A network whose training depends on the random state of its process."""
    network = Network(backbone, input_size, **settings)
    network.body.head.drop = nn.Dropout(0.3)  # type: ignore[union-attr]
    return network


def train_with_dropout(target: Path, place: Path, out: Path) -> None:
    """In two processes, with a checkpoint after every step."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(steps, "Network", with_dropout)
        often = {"checkpoints": str(place), "checkpoint_minutes": 1e-9}
        together(2, target_store=target, out=out, **(ARGUMENTS | often))


@pytest.fixture(scope="module")
def uninterrupted(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_with_dropout(target, folder / "left", folder / "model")
    return folder / "model"


def ranks(of: int) -> list[psutil.Process]:
    """The processes that train for a process, in the order of their ranks."""
    found = [child for child in psutil.Process(of).children() if "RANK" in child.environ()]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def after(count: int, place: Path, act: Callable[[], object]) -> None:
    """Do something in another thread when so many steps more are done than there are checkpoints for."""
    before = max([int(name[:8]) for name in names(place)], default=0)

    def wait() -> None:
        until = time.monotonic() + 120
        while not any(int(name[:8]) >= before + count for name in names(place)) and time.monotonic() < until:
            time.sleep(0.002)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_two_processes_train_as_one(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of nine, of which one takes five and the other four; the body is frozen at first; then a second fit.

    Rounding alone tells them apart: about 1e-8 in the losses, 1e-5 in weights that moved by 1e-1. A mean that is not
    weighted by 5 and 4, or a part that is augmented otherwise, moves the losses by more than 1e-3.
    """
    monkeypatch.setattr(steps, "load_imagenet", lambda network, mirror: {"where": "a test"})
    histories, weights = [], list[dict[str, torch.Tensor]]()
    for count in (1, 2):
        arguments = ARGUMENTS | {"tl_source": "imagenet", "freeze_epochs": 2, "refit": True}
        together(count, target_store=target, out=tmp_path / str(count), **arguments)
        histories.append(pd.read_csv(tmp_path / str(count) / "history.csv"))
        fits = {fit: load_file(tmp_path / str(count) / f"{fit}{WEIGHTS}") for fit in ("", artifacts.SELECTION)}
        weights.append({f"{fit}{name}": tensor for fit, tensors in fits.items() for name, tensor in tensors.items()})
        assert artifacts.read(tmp_path / str(count), "model").content["processes"] == count
    losses = [history[["train_loss", "validation_loss"]].to_numpy() for history in histories]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)
    assert (losses[0][0] - losses[0][-1]).min() > 0.02
    pd.testing.assert_frame_equal(histories[0], histories[1], rtol=0, atol=1e-3)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [False, True])
def test_new_heads_are_those_of_one_process(boxes: bool, tmp_path: Path) -> None:
    """They are drawn when the processes are up, each with a random state of its own; the averages start from them.

    The epoch is validated after one step, when a tenth of the average is still what it began as. With boxes, two epochs
    at a rate that moves weights: what is learnt of cells is balanced in each part of a batch by itself, so that the
    losses agree to 1e-2 and no better.
    """
    source = write_store(tmp_path / "source", "source")

    def two_parts(manifest: pd.DataFrame) -> None:
        manifest["body_part"] = np.where(manifest.index // 6 % 2 == 0, "leg", "hip")
        boxed = manifest["label"] == 1
        manifest["boxes"] = pd.Series([[[4.0, 13.0, 28.0, 19.0]] if each else [] for each in boxed], manifest.index)

    edit(source, two_parts)
    histories = []
    for count in (1, 2):
        arguments = {**RECIPE, "epochs": 1, "batch_size": 54, "learning_rate": 1e-9, "weight_decay": 0.0}
        if boxes:
            arguments |= {"epochs": 2, "batch_size": 27, "learning_rate": 1e-3}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(distributed, "processes", lambda count=count: count)
            steps.pretrain(
                source_store=source, backbone="test_convnext", init="scratch",
                task="both" if boxes else "body_part", boxes=boxes, out=tmp_path / str(count), **arguments,
            )  # fmt: skip
        histories.append(pd.read_csv(tmp_path / str(count) / "history.csv"))
    pd.testing.assert_frame_equal(*histories, rtol=0, atol=1e-2 if boxes else 1e-5)


@pytest.mark.slow
def test_processes_share_a_training_in_bfloat16(target: Path, tmp_path: Path) -> None:
    """Its gradients are float32 and so is what is sent: rounding is that of the arithmetic, about 1e-2 in a loss."""
    histories = []
    for count in (1, 2):
        together(count, target_store=target, out=tmp_path / str(count), **ARGUMENTS | {"precision": "bfloat16"})
        histories.append(pd.read_csv(tmp_path / str(count) / "history.csv"))
    pd.testing.assert_frame_equal(*histories, rtol=0, atol=0.05)
    assert histories[0]["train_loss"].iloc[0] - histories[0]["train_loss"].iloc[-1] > 0.02


@pytest.mark.parametrize("asked", [False, True])
def test_a_signal_before_the_processes_are_up_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    class UpError(RuntimeError):
        """The processes would be started now."""

    def up(*_: object) -> None:
        raise UpError

    monkeypatch.setattr(distributed, "_launch", up)
    ending = threading.Event()
    if asked:
        ending.set()
    arguments = Network("test_convnext", 32), checkpoints.Checkpoints(tmp_path, ending=ending)
    with pytest.raises(SystemExit if asked else UpError) as ended:
        distributed.call(2, print, *arguments)
    assert not asked or ended.value.code == ASKED_TO_END


@pytest.mark.slow
def test_whatever_ends_it_the_same_again_ends_as_if_nothing_had(
    target: Path, uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of two processes killed, all asked to end, the one that started them killed: then to the end, bit-equal."""
    place, out = tmp_path / "left", tmp_path / "model"
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        ranks(os.getpid())[1].kill()

    after(3, place, kill)
    with pytest.raises(RadtransferError, match=r"process 1 \(of 0 to 1, .* of this training was killed by SIGKILL"):
        train_with_dropout(target, place, out)
    assert time.monotonic() - killed[0] < 20
    assert "Traceback" not in capfd.readouterr().err

    after(3, place, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train_with_dropout(target, place, out)
    said = capfd.readouterr().err
    assert ended.value.code == ASKED_TO_END and signal.getsignal(signal.SIGTERM) == before
    assert said.count("goes on after step") == said.count("asked to end") == 1

    script = "import sys; from pathlib import Path; from tests.training.test_distributed import train_with_dropout; "
    script += "train_with_dropout(*map(Path, sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", script, target, place, out], cwd=ROOT)
    acted = threading.Event()
    trained: list[psutil.Process] = []

    def kill_parent() -> None:
        trained.extend(ranks(process.pid))
        process.kill()
        acted.set()

    after(3, place, kill_parent)
    assert acted.wait(120) and len(trained) == 2
    process.wait()
    assert not psutil.wait_procs(trained, timeout=10)[1]

    assert not out.exists()
    taken = max(int(name[:8]) for name in names(place))
    train_with_dropout(target, place, out)
    assert f"goes on after step {taken}" in capfd.readouterr().err and 9 <= taken < 36
    again, whole = (load_file(folder / WEIGHTS) for folder in (out, uninterrupted))
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert (out / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    assert not names(place)


@pytest.mark.slow
def test_an_error_of_one_is_that_of_the_training(
    target: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RadtransferError, match=r"^a batch of 2 images cannot be shared by 3 processes .* batch_size"):
        together(3, target_store=target, out=tmp_path / "model", **(ARGUMENTS | {"batch_size": 2}))
    assert not capfd.readouterr().err and not (tmp_path / "model").exists()


def test_batch_normalisation_over_processes_needs_gpus(target: Path, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="test_resnet has batch normalisation"):
        together(2, target_store=target, out=tmp_path / "m", **(ARGUMENTS | {"backbone": "test_resnet"}))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_batch_normalisation_of_the_whole_batch_takes_the_layers_place(backbone: str) -> None:
    """As it is done before the processes train; by itself a process computes the same with and without."""
    torch.manual_seed(0)
    network = Network(backbone, 64)
    images = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    expected = [network.train()(images), network.eval()(images)]
    torch.manual_seed(0)
    converted = timm.layers.convert_sync_batchnorm(Network(backbone, 64))
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    for one, other in zip(expected, [converted.train()(images), converted.eval()(images)], strict=True):
        torch.testing.assert_close(one, other)
    assert converted.state_dict().keys() == network.state_dict().keys()


def test_fewer_images_than_processes_are_scored_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_count", lambda: 3)
    rows = np.array([4, 7])
    assert distributed.split(torch.from_numpy, rows).tolist() == [4, 7]


def test_a_part_of_a_batch_is_augmented_as_in_the_batch() -> None:
    images = torch.randint(0, 256, (7, 16, 16), dtype=torch.uint8)
    whole, _ = augment(images, torch.Generator().manual_seed(0))
    for part in (slice(0, None, 2), slice(1, None, 2)):
        generator = torch.Generator().manual_seed(0)
        its, _ = augment(images[part], generator, of=(7, part))
        torch.testing.assert_close(its, whole[part], rtol=0, atol=1e-3)
