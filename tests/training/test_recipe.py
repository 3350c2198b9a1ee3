"""What a training may be asked to do beside the plain thing: spare layers, end early, learn more than one thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.training import loop
from radtransfer.training.augment import augment
from radtransfer.training.checkpoints import Checkpoints
from radtransfer.training.loop import Recipe, Training, train
from radtransfer.training.network import Network, load_network
from radtransfer.training.objective import Objective
from radtransfer.training.steps import finetune, pretrain
from tests.training.test_steps import RECIPE, SIDE, write_store

PLAIN = Recipe(epochs=2, batch_size=8, learning_rate=5e-3, weight_decay=0.01, seed=0)


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """Two body parts, told apart by a second bar below; abnormal images have a box around their bar, but for one."""
    opened = Store.open(write_store(tmp_path / "source", "source"))
    images, manifest = np.array(opened.images), opened.manifest.copy()
    leg = np.arange(len(images)) // 6 % 2 == 0
    images[leg, 23:29, 4:28] += 110
    manifest["body_part"] = np.where(leg, "leg", "hip")
    boxed = (manifest["label"] == 1) & (manifest.index != 1)
    manifest["boxes"] = pd.Series([[[4.0, 13.0, 28.0, 19.0]] if each else [] for each in boxed], index=manifest.index)
    return replace(opened, images=images, manifest=manifest)


@pytest.fixture
def kept_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained network keeps the heads that it was given."""
    monkeypatch.setattr(torch.nn.ModuleDict, "clear", lambda _: None)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network("test_resnet", SIDE)


def test_the_nearer_to_the_head_the_faster_a_layer_learns() -> None:
    training = Training(network(), replace(PLAIN, layer_decay=0.5))
    rates = {id(each): group["lr"] for group in training.optimizer.param_groups for each in group["params"]}
    decays = {id(each): group["weight_decay"] for group in training.optimizer.param_groups for each in group["params"]}
    named = dict(training.network.named_parameters())
    assert rates.keys() == {id(each) for each in named.values()}
    order = ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1", "fc"]
    seen = [rates[id(named[f"body.{layer}.weight"])] for layer in order if f"body.{layer}.weight" in named]
    assert seen == sorted(seen) and len(set(seen)) == len(seen) >= 5
    assert seen[-1] == loop.HEAD_RATE * PLAIN.learning_rate
    assert {decays[id(each)] for name, each in named.items() if each.ndim == 1} == {0.0}
    even = Training(network(), PLAIN).optimizer.param_groups
    assert {group["lr"] for group in even} == {PLAIN.learning_rate, loop.HEAD_RATE * PLAIN.learning_rate}


def test_a_frozen_body_stays_as_it_is_and_learns_when_its_time_comes(source: Store, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    for epochs, frozen in ((2, True), (3, False)):
        trained = network()
        place = tmp_path / str(epochs)
        place.mkdir()
        train(trained, source, replace(PLAIN, epochs=epochs, freeze_epochs=2), "t", Checkpoints(place))
        after = trained.state_dict()
        same = {name for name in before if torch.equal(before[name], after[name])}
        body = {name for name in before if ".fc." not in name}
        assert not same >= set(before) and (same >= body) is frozen


@pytest.mark.parametrize(("patience", "expected"), [(0, 12), (2, 4)])
def test_a_training_that_gets_no_better_ends_early_and_stays_ended(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, expected: int
) -> None:
    scores = iter([0.5, 0.7] + [0.6] * 20)
    monkeypatch.setattr(Objective, "validate", lambda *_: (next(scores), 1.0))
    recipe, checkpoints = replace(PLAIN, epochs=12, patience=patience), Checkpoints(tmp_path)
    outcomes = [train(network(), source, recipe, "t", checkpoints) for _ in range(2)]  # the second one is resumed
    for outcome in outcomes:
        assert len(outcome.history) == expected and outcome.best_epoch == 2
    assert outcomes[0] == outcomes[1]


def test_body_part_and_boxes_are_learnt_beside_the_abnormality(source: Store, tmp_path: Path, kept_heads: None) -> None:
    trained = network()
    objective = Objective(source, source.rows("train"), "both", boxes=True)
    recipe = replace(PLAIN, epochs=12, learning_rate=3e-3)
    outcome = train(trained, source, recipe, "t", Checkpoints(tmp_path), "both", boxes=True)
    assert outcome.validation_auroc > 0.8
    rows = source.rows("validation")
    images = torch.from_numpy(source.images[rows])
    abnormal = source.manifest["label"].to_numpy()[rows] == 1
    with torch.inference_mode():
        maps = trained.maps(images)
        parts = trained.heads["body_part"](trained.pooled(maps)).numpy()
        cells = trained.heads["boxes"](trained.as_map(maps)).squeeze(1)
    truth = source.manifest["body_part"].to_numpy()[rows] == "leg"
    assert roc_auc_score(truth, parts[:, 1]) > 0.85
    assert cells[abnormal].mean() > cells[~abnormal].mean()
    assert objective.validate(trained, rows, "t")[0] == outcome.validation_auroc


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "swin_s3_tiny_224"])
def test_maps_have_cells_whatever_the_backbone(backbone: str) -> None:
    bare = Network(backbone).eval()
    with torch.inference_mode():
        maps = bare.maps(torch.zeros(1, 64, 64, dtype=torch.uint8))
        cells = bare.as_map(maps)
    assert cells.shape[:2] == (1, bare.map_channels) and cells.shape[2] == cells.shape[3] > 1


def test_body_part_alone_is_chosen_by_its_own_score(source: Store, tmp_path: Path, kept_heads: None) -> None:
    trained = network()
    train(trained, source, replace(PLAIN, epochs=6), "t", Checkpoints(tmp_path), "body_part")
    rows = source.rows("validation")
    auroc, _ = Objective(source, source.rows("train"), "body_part").validate(trained, rows, "t")
    assert auroc > 0.9
    assert Objective(source, source.rows("train")).validate(trained, rows, "t")[0] < auroc


def test_abnormal_images_without_a_box_say_nothing_of_where(source: Store) -> None:
    objective = Objective(source, source.rows("train"), boxes=True)
    masks = torch.from_numpy(objective._masks(np.array([0, 1, 3]))).float()
    assert masks[2, 13:19, 4:28].min() == 255 and masks.sum() == 255 * 6 * 24
    cells = torch.zeros(3, 2, 2)
    told = objective._located(cells, masks, np.array([0, 1, 3]))
    cells[1] = 100.0
    assert objective._located(cells, masks, np.array([0, 1, 3])) == told
    cells[0] = 100.0
    assert objective._located(cells, masks, np.array([0, 1, 3])) > told


def test_masks_move_with_their_images() -> None:
    images = torch.zeros(64, 48, 48, dtype=torch.uint8)
    images[:, 12:24, 8:20] = 255
    moved, masks = augment(images, torch.Generator().manual_seed(0), images)
    assert masks is not None
    overlap = [
        ((view > 127) & (mask > 127)).sum() / (mask > 127).sum() for view, mask in zip(moved, masks, strict=True)
    ]
    assert np.median(overlap) > 0.9  # but for what is blotted out


def test_what_a_store_does_not_tell_cannot_be_learnt(source: Store) -> None:
    rows = source.rows("train")
    bare = source.manifest.assign(body_part="leg", boxes=[[] for _ in range(len(source.manifest))])
    without = replace(source, manifest=bare)
    with pytest.raises(RadtransferError, match=r"pretrain_task: both: all training images .* body part 'leg'"):
        Objective(without, rows, "both")
    with pytest.raises(RadtransferError, match="pretrain_boxes: no training image"):
        Objective(without, rows, boxes=True)
    alike = source.manifest.assign(
        body_part=source.manifest["body_part"].mask(source.manifest["split"] == "validation", "hip")
    )
    with pytest.raises(RadtransferError, match=r"pretrain_task: body_part: all validation images .* body part 'hip'"):
        Objective(replace(source, manifest=alike), rows, "body_part")
    Objective(replace(source, manifest=alike), rows, "both")  # chosen by the abnormality


def test_the_heads_of_pre_training_are_no_part_of_the_model(source: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Store, "open", classmethod(lambda *_: source))
    pretrain(
        source_store=tmp_path / "source", backbone="test_resnet", init="scratch", task="both", boxes=True,
        out=tmp_path / "model", **(RECIPE | {"layer_decay": 0.5, "freeze_epochs": 1}),
    )  # fmt: skip
    assert load_file(tmp_path / "model" / "weights.safetensors").keys() == network().state_dict().keys()
    load_network(tmp_path / "model")
    model = artifacts.read(tmp_path / "model", "model")
    assert (model.content["task"], model.content["boxes"]) == ("both", True)
    settings = model.made["settings"]
    assert (settings["layer_decay"], settings["freeze_epochs"]) == (1, 0), "from scratch nothing is spared"


def test_weights_that_know_something_are_spared(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", "target")
    arguments = RECIPE | {"layer_decay": 0.5, "freeze_epochs": 1, "backbone": "test_resnet", "target_store": store}
    before = write_store(tmp_path / "source", "source")
    pretrain(source_store=before, backbone="test_resnet", init="scratch", out=tmp_path / "pretrained", **RECIPE)
    finetune(tl_source="in_domain", pretrained=tmp_path / "pretrained", out=tmp_path / "model", **arguments)
    made = artifacts.read(tmp_path / "model", "model").made["settings"]
    assert (made["layer_decay"], made["freeze_epochs"]) == (0.5, 1)
