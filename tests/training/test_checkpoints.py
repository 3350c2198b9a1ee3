"""A training that is killed ends with the weights of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from radtransfer.errors import RadtransferError
from radtransfer.training import loop
from radtransfer.training.checkpoints import KEPT, Checkpoints
from radtransfer.training.network import Network
from radtransfer.training.steps import finetune
from tests.training.test_steps import RECIPE, write_store

ARGUMENTS: dict[str, Any] = RECIPE | {
    "backbone": "test_resnet", "tl_source": "scratch", "pretrained": None, "epochs": 5, "refit": True,
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


def stop_after(patched: pytest.MonkeyPatch, steps: int) -> None:
    """Kill a training when so many steps of it are done, the checkpoint after the last one not written."""
    offer, done = Checkpoints.offer, 0

    def counted(self: Checkpoints, training: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Killed
        offer(self, training)

    patched.setattr(Checkpoints, "offer", counted)


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
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left"), "checkpoint_minutes": 1e-9}
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, steps)
        with pytest.raises(Killed):
            finetune(out=tmp_path / "model", **arguments)
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
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left"), "checkpoint_minutes": 1e-9}
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 12)
        with pytest.raises(Killed):
            finetune(out=tmp_path / "model", **arguments)
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
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left"), "checkpoint_minutes": 1e-9}
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(Killed):
            finetune(out=tmp_path / "model", **arguments)
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
    one, other = (loop._Training(Network(name, 64), recipe) for name in ("test_resnet", "test_efficientnet"))
    kept = Checkpoints(tmp_path, 5)
    kept.save(one)
    before = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    kept.resume(other)
    assert "another network" in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in other.network.state_dict().items())


def test_two_are_kept(tmp_path: Path) -> None:
    training = loop._Training(Network("test_resnet", 64), loop.Recipe(1, 8, 1e-3, 0.01, 0))
    kept = Checkpoints(tmp_path, 5)
    for training.steps in (1, 2, 3, 11):
        kept.save(training)
    assert [int(name[:8]) for name in names(tmp_path)] == [3, 11] and len(names(tmp_path)) == KEPT
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_a_checkpoint_and_no_training(
    target: Path, uninterrupted: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(small_disk), "checkpoint_minutes": 1e-9}
    finetune(out=tmp_path / "model", **arguments)
    assert "no checkpoint after step" in capsys.readouterr().err
    assert equal(tmp_path / "model", uninterrupted)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(target: Path, tmp_path: Path) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left"), "checkpoint_minutes": 1e-9}
    real, calls = loop._loss, 0

    def loss(*given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*given) * (float("nan") if calls == 3 else 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_loss", loss)
        with pytest.raises(RadtransferError, match="the loss is nan in step 3; set a lower learning_rate"):
            finetune(out=tmp_path / "model", **arguments)
    assert [int(name[:8]) for name in names(tmp_path / "left")] == [1, 2]
    assert not (tmp_path / "model").exists()
