"""The control "trained as long": how many steps it adds, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.training.control import extra_steps, lengthened
from radtransfer.training.loop import Recipe
from radtransfer.training.steps import finetune, pretrain
from tests.training.test_steps import RECIPE, write_store


@given(st.integers(2, 5000), st.integers(0, 20000), st.integers(2, 64), st.integers(1, 30), st.integers(0, 9))
def test_steps_are_as_many_but_for_less_than_an_epoch(
    images: int, extra: int, batch: int, epochs: int, patience: int
) -> None:
    short = Recipe(epochs, batch, 1e-3, 0.0, 0, patience=patience)
    longer = lengthened(short, images, extra)
    per_epoch = images // min(batch, images)
    assert 0 <= longer.epochs * per_epoch - (epochs * per_epoch + extra) < per_epoch
    assert longer.patience / longer.epochs >= patience / epochs and (longer.patience > 0) == (patience > 0)
    assert longer.freeze_epochs == short.freeze_epochs and (extra or longer == short)


def test_pre_training_is_counted_before_it_has_begun(tmp_path: Path) -> None:
    """17 images in batches of 8 are 2 steps an epoch; a model that is taken up says what it was given."""
    told = {"images": 17, "batch_size": 8, "epochs": 3}
    assert extra_steps("imagenet", "b", "", **told) == extra_steps("scratch", "b", "", **told) == 6
    assert extra_steps("in_domain", "b", "", **told) == 0
    for given_steps, steps in (({"planned_steps": 40}, 40), ({}, 30)):
        out = tmp_path / str(steps) / "b"
        with artifacts.writing(out, "model", step="pretrain", settings={}) as (_, content):
            content.update(source_steps=30, **given_steps)
        assert extra_steps("imagenet", "b", str(out.parent), **told) == steps
    with pytest.raises(RadtransferError, match="other"):
        extra_steps("imagenet", "other", str(tmp_path), **told)


def test_networks_are_trained_as_long_as_in_domain_ones(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", "source", seed=1, count=90)
    target = write_store(tmp_path / "target", "target", count=60)
    arguments = {"backbone": "test_resnet"} | RECIPE
    pretrain(source_store=source, init="scratch", out=tmp_path / "pretrained" / "test_resnet", **arguments)
    related = artifacts.read(tmp_path / "pretrained" / "test_resnet", "model").content
    images = len(Store.open(source).rows("train"))
    told = {"images": images, "batch_size": RECIPE["batch_size"], "epochs": RECIPE["epochs"]}
    extra = extra_steps("scratch", "test_resnet", "", **told)
    assert extra == related["source_steps"] == related["planned_steps"]
    assert extra == extra_steps("scratch", "test_resnet", str(tmp_path / "pretrained"), **told)
    finetune(
        target_store=target, tl_source="in_domain", pretrained=tmp_path / "pretrained" / "test_resnet",
        out=tmp_path / "in_domain", **arguments,
    )  # fmt: skip
    for name in ("longer", "again"):
        finetune(
            target_store=target, tl_source="scratch", pretrained=None, out=tmp_path / name, extra_steps=extra,
            **arguments,
        )  # fmt: skip
    longer, again, other = (artifacts.read(tmp_path / name, "model") for name in ("longer", "again", "in_domain"))
    assert longer.digest == again.digest
    took = other.content["source_steps"] + other.content["target_steps"]
    per_epoch = other.content["target_steps"] // RECIPE["epochs"]
    assert 0 <= longer.content["target_steps"] - took < per_epoch
    assert longer.content["extra_steps"] == extra and other.content["extra_steps"] == 0
    with pytest.raises(RadtransferError, match="leave them out"):
        finetune(
            target_store=target, tl_source="in_domain", pretrained=tmp_path / "pretrained" / "test_resnet",
            out=tmp_path / "no", extra_steps=1, **arguments,
        )  # fmt: skip
