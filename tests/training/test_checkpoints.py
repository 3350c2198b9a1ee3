"""A training that is killed ends with the weights of one that was not."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from radtransfer.cache import CHECKPOINTS, VARIABLE, held
from radtransfer.datasets.fetch import UNFINISHED, collect
from radtransfer.errors import RadtransferError
from radtransfer.storage import Bucket
from radtransfer.training import loop
from radtransfer.training.checkpoints import KEPT, Checkpoints
from radtransfer.training.network import Network
from radtransfer.training.objective import Objective
from radtransfer.training.steps import finetune
from tests.training.test_steps import RECIPE, write_store
from tests.weed import Weed

ROOT = Path(__file__).resolve().parents[2]

ARGUMENTS: dict[str, Any] = RECIPE | {
    "backbone": "test_resnet", "tl_source": "scratch", "pretrained": None, "epochs": 5, "refit": True,
    "checkpoint_minutes": 1e-9,
}  # fmt: skip
STEPS = 5 * 3 + 2 * 6
"""Of both fits together; the second stops at the epoch that the first kept."""
FILES = ("weights.safetensors", "selection_weights.safetensors")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "target", "target")


@pytest.fixture(scope="module")
def uninterrupted(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "model"
    finetune(target_store=target, out=out, **ARGUMENTS)
    return out


class Killed(BaseException):
    """As if the process had been killed."""


def killed_after(steps: int, **arguments: Any) -> None:
    """Kill a training when so many steps of it are done, the checkpoint after the last one not written."""
    offer, done = Checkpoints.offer, 0

    def counted(self: Checkpoints, training: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Killed
        offer(self, training)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "offer", counted)
        with pytest.raises(Killed):
            finetune(**arguments)


def equal(one: Path, other: Path) -> bool:
    """Whether two models have the same weights and histories, to the bit."""
    weights = [(load_file(one / name), load_file(other / name)) for name in FILES]
    same = all(torch.equal(first[key], second[key]) for first, second in weights for key in first)
    return same and (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("steps", [1, 2, 4, 15, 16, 17, 26])
def test_a_killed_training_ends_as_one_that_was_not(
    target: Path, uninterrupted: Path, tmp_path: Path, steps: int
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    killed_after(steps, out=tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()
    assert (steps == 1) != bool(names(tmp_path / "left"))
    taken = 0
    step = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *rest: Any) -> Any:
        nonlocal taken
        taken += 1
        return step(self, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", counted)
        finetune(out=tmp_path / "model", **arguments)
    assert taken == STEPS - (steps - 1)
    assert equal(tmp_path / "model", uninterrupted)
    assert not names(tmp_path / "left")


def test_a_damaged_checkpoint_is_passed_over(
    target: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    killed_after(12, out=tmp_path / "model", **arguments)
    older, newest = sorted((tmp_path / "left").rglob("*.safetensors"))
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    finetune(out=tmp_path / "model", **arguments)
    said = capsys.readouterr().err
    assert f"checkpoint {newest.name} is passed over" in said and f"goes on after step {int(older.name[:8])}" in said
    assert equal(tmp_path / "model", uninterrupted)


def test_a_checkpoint_of_another_training_is_not_taken(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    killed_after(5, out=tmp_path / "model", **arguments)
    for other in (
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"target_store": write_store(tmp_path / "other", "target", seed=3)},
    ):
        finetune(out=tmp_path / f"model-{next(iter(other))}", **arguments | other)
        assert "goes on" not in capsys.readouterr().err
    finetune(out=tmp_path / "model", **arguments)
    assert "goes on after step 4" in capsys.readouterr().err


def test_one_with_the_weights_of_another_network_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = loop.Recipe(1, 8, 1e-3, 0.01, 0)
    one, other = (loop.Training(Network(name, 64), recipe) for name in ("test_resnet", "test_efficientnet"))
    kept = Checkpoints(tmp_path)
    kept.save(one)
    before = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    kept.resume(other)
    assert "another network" in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in other.network.state_dict().items())


def test_two_are_kept(tmp_path: Path) -> None:
    training = loop.Training(Network("test_resnet", 64), loop.Recipe(1, 8, 1e-3, 0.01, 0))
    kept = Checkpoints(tmp_path)
    for training.steps in (1, 2, 3, 11):
        kept.save(training)
    assert [int(name[:8]) for name in names(tmp_path)] == [3, 11] and len(names(tmp_path)) == KEPT
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_a_checkpoint_and_no_training(
    target: Path, uninterrupted: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(small_disk)}
    finetune(out=tmp_path / "model", **arguments)
    assert "no checkpoint after step" in capsys.readouterr().err
    assert equal(tmp_path / "model", uninterrupted)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(target: Path, tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    real, calls = Objective.loss, 0

    def loss(*given: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*given, **more) * (float("nan") if calls == 3 else 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Objective, "loss", loss)
        with pytest.raises(RadtransferError, match="the loss is nan in step 3; set a lower learning_rate"):
            finetune(out=tmp_path / "model", **arguments)
    assert [int(name[:8]) for name in names(tmp_path / "left")] == [1, 2]
    assert not (tmp_path / "model").exists()


SCRIPT = """
import sys
from pathlib import Path
from tests.training.test_checkpoints import ARGUMENTS
from radtransfer.training.steps import finetune
store, place, out = map(Path, sys.argv[1:4])
finetune(target_store=store, out=out, **(ARGUMENTS | {"checkpoints": str(place), "checkpoint_minutes": 1e-9}))
"""


def start(target: Path, place: Path | str, out: Path) -> subprocess.Popen[str]:
    """The same training in a process of its own, with a checkpoint after every step."""
    command = [sys.executable, "-c", SCRIPT, str(target), str(place), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(place: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the newest checkpoint below a folder is of so many steps, or the process has ended."""
    while process.poll() is None and not any(int(name[:8]) >= count for name in names(place)):
        time.sleep(0.002)


@pytest.mark.slow
def test_three_kills_at_random_moments_change_nothing(target: Path, uninterrupted: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng()
    for _ in range(3):
        process = start(target, tmp_path / "left", tmp_path / "model")
        wait_for(tmp_path / "left", int(rng.integers(1, 12)), process)
        time.sleep(float(rng.uniform(0, 0.1)))  # at times within the writing of a checkpoint
        process.kill()
        process.communicate()
    process = start(target, tmp_path / "left", tmp_path / "model")
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "goes on after step" in said
    assert equal(tmp_path / "model", uninterrupted)
    assert not names(tmp_path / "left")


@pytest.mark.slow
def test_sigterm_leaves_a_last_checkpoint(target: Path, uninterrupted: Path, tmp_path: Path) -> None:
    hourly = SCRIPT.replace("1e-9", "60")
    command = [sys.executable, "-c", hourly, str(target), str(tmp_path / "left"), str(tmp_path / "model")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "epoch 2/5" not in said:  # under way, and no checkpoint due
        said += process.stderr.readline()
        assert process.poll() is None, said
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, said + rest
    assert "asked to end" in rest and len(names(tmp_path / "left")) == 1
    process = start(target, tmp_path / "left", tmp_path / "model")
    _, said = process.communicate()
    assert process.returncode == 0 and "goes on after step" in said
    assert equal(tmp_path / "model", uninterrupted)


@pytest.mark.slow
def test_another_machine_goes_on_from_object_storage_that_failed_meanwhile(
    target: Path, uninterrupted: Path, tmp_path: Path, server: Weed, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("radtransfer.storage.WAITS", (0.01,))
    place = "s3://radtransfer/training"
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": place}
    offer, offered = Checkpoints.offer, 0

    def failing(self: Checkpoints, training: Any) -> None:
        nonlocal offered
        offered += 1
        if offered == 4:
            server.kill()
        if offered == 6:
            server.start()
        if offered == 9:
            raise Killed
        offer(self, training)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "offer", failing)
        with pytest.raises(Killed):
            finetune(out=tmp_path / "model", **arguments)
    said = capsys.readouterr().err
    assert "no checkpoint after step 4" in said and "no checkpoint after step 5" in said
    bucket = Bucket("radtransfer")
    assert [int(Path(each.key).name[:8]) for each in bucket.list("training/")] == [7, 8]
    finetune(out=tmp_path / "model", **arguments)
    assert "goes on after step 8" in capsys.readouterr().err
    assert equal(tmp_path / "model", uninterrupted)
    assert not list(bucket.list("training/"))


def test_the_cache_keeps_them_and_gc_lists_and_removes_them(target: Path, tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"target_store": target}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, str(tmp_path / "cache"))
        killed_after(9, out=tmp_path / "model", **arguments)
        size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
        with held(next((tmp_path / "cache" / CHECKPOINTS).glob("*.lock")).with_suffix(""), fcntl.LOCK_SH):
            assert [each.state for each in collect()[0]] == ["in use"]
        for dry_run in (True, False):
            (left,), freed = collect(dry_run=dry_run)
            assert (left.uri, left.files, left.bytes, freed) == (UNFINISHED[CHECKPOINTS], 2, size, size)
        assert collect() == ([], 0)


def test_without_a_home_a_training_runs_and_says_so(
    target: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    finetune(target_store=target, out=tmp_path / "model", **ARGUMENTS)
    assert "no checkpoints will outlast this process (Could not determine home" in capsys.readouterr().err
    assert equal(tmp_path / "model", uninterrupted)
