"""Pre-training and fine-tuning on a set that a tiny network can learn."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.store import Store
from radtransfer.training import loop, steps
from radtransfer.training.checkpoints import Checkpoints
from radtransfer.training.inference import infer
from radtransfer.training.loop import Recipe, train
from radtransfer.training.network import Network, check_backbones, load_network
from radtransfer.training.schedule import SMALLEST, rate, side
from radtransfer.training.steps import finetune, pretrain

SIDE = 32
RECIPE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "layer_decay": 1.0,
    "freeze_epochs": 0,
    "patience": 0,
    "input_size": SIDE,
    "weights_mirror": "",
    "seed": 0,
    "threads": 1,
    "checkpoints": "",
    "checkpoint_minutes": 5,
}


def never(folder: Path) -> Checkpoints:
    """No checkpoint within the time of a test, but the last."""
    return Checkpoints(folder)


def write_store(path: Path, role: str, count: int = 80, seed: int = 0, *, one_class: bool = False) -> Path:
    """A store of noise in which abnormal images carry a bright bar across the middle.

    A larger one of the same seed begins with the images of a smaller one.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(count, np.int8) if one_class else (np.arange(count) % 2).astype(np.int8)
    images = rng.integers(0, 120, (count, SIDE, SIDE)).astype(np.uint8)
    images[labels == 1, 13:19, 4:28] += 110
    splits = ["train", "validation", "test" if role == "target" else "train"]
    rows = [
        {
            "image_id": f"set/{index:03d}.png",
            "label": int(label),
            "label_name": ("normal", "abnormal")[label],
            "body_part": "hand",
            "group_id": f"group{index:03d}",
            "split": splits[(index // 2) % 3],
            "boxes": [],
            "source_file": f"set/{index:03d}.png",
            "sha256": hashlib.sha256(images[index].tobytes()).hexdigest(),
            "flags": [],
            "width": SIDE,
            "height": SIDE,
        }
        for index, label in enumerate(labels)
    ]
    with artifacts.writing(path, "image-store", step="preprocess", settings={}) as (folder, content):
        store.write(folder, rows, images, SIDE, [], count)
        content.update(
            name="bars", layout="class_folders", role=role, part="hand", images=count, size=SIDE,
            classes={"0": "normal", "1": "abnormal"}, positive_class="abnormal", synthetic=True,
            grouping="near_duplicate", counts={}, groups={}, files_found=count, rejected=[], notes=[],
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "target", "target")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    source = write_store(folder / "source", "source", seed=1)
    pretrain(source_store=source, backbone="test_resnet", init="scratch", out=folder / "test_resnet", **RECIPE)
    return folder / "test_resnet"


def test_a_network_learns_and_the_best_epoch_is_kept(target: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    opened = Store.open(target)
    network = Network("test_resnet", SIDE)
    outcome = train(network, opened, Recipe(6, 8, 5e-3, 0.01, 0), "test", never(tmp_path))
    assert outcome.validation_auroc > 0.9
    assert outcome.validation_auroc == max(row["validation_auroc"] for row in outcome.history)
    assert outcome.history[outcome.best_epoch - 1]["validation_auroc"] == outcome.validation_auroc
    rows = opened.rows("validation")
    _, logits = infer(network, opened.images[rows])
    labels = opened.manifest["label"].to_numpy()[rows]
    assert np.mean(logits[labels == 1][:, None] > logits[labels == 0]) == pytest.approx(outcome.validation_auroc)


@pytest.mark.parametrize(("full", "epochs"), [(320, 12), (224, 5), (160, 1), (100, 7), (2048, 2)])
def test_images_grow_to_the_full_size(full: int, epochs: int) -> None:
    sides = [side(epoch, epochs, full) for epoch in range(1, epochs + 1)]
    assert sides == sorted(sides) and sides[-1] == full and sides[0] >= min(full, SMALLEST)
    assert epochs == 1 or full <= SMALLEST or sides[0] < full


def test_only_epochs_at_the_full_size_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radtransfer.training.schedule.SMALLEST", 16)
    network = Network("test_resnet", 64)
    sizes: list[int] = []
    prepare = Network.prepare
    monkeypatch.setattr(Network, "prepare", lambda self, images: sizes.append(self.input_size) or prepare(self, images))
    outcome = train(
        network,
        Store.open(write_store(tmp_path / "store", "target")),
        Recipe(4, 8, 5e-3, 0.01, 0),
        "test",
        never(tmp_path),
    )
    assert set(sizes) == {row["input_size"] for row in outcome.history} == {32, 64}
    assert outcome.history[outcome.best_epoch - 1]["input_size"] == 64 == network.input_size


def test_an_image_and_its_mirror_image_score_alike() -> None:
    network = Network("test_resnet", SIDE).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.uint8)
    features, logits = infer(network, images)
    mirrored, _ = infer(network, np.ascontiguousarray(images[:, :, ::-1]))
    np.testing.assert_allclose(features, mirrored, atol=1e-6)
    with torch.inference_mode():
        views = network(torch.from_numpy(images)), network(torch.from_numpy(images).flip(-1))
    np.testing.assert_allclose(logits, (views[0] + views[1]) / 2, atol=1e-5)
    assert (views[0] - views[1]).abs().max() > 1e-5


def test_test_images_are_never_read(tmp_path: Path) -> None:
    weights = []
    for name, scramble in (("a", False), ("b", True)):
        path = write_store(tmp_path / name, "target")
        opened = Store.open(path)
        if scramble:
            test = opened.rows("test")
            images = np.array(opened.images)
            images[test] = 255
            opened.manifest.loc[test, "label"] = 1
            opened = replace(opened, images=images)
        torch.manual_seed(0)
        network = Network("test_resnet", SIDE)
        train(network, opened, Recipe(1, 8, 1e-3, 0.01, 0), "test", never(tmp_path))
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_same_seed_same_model_other_seed_another(target: Path, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = RECIPE | {"seed": seed, "epochs": 1}
        finetune(
            target_store=target, backbone="test_resnet", tl_source="scratch", pretrained=None, out=tmp_path / name,
            **arguments,
        )  # fmt: skip
        digests.append(artifacts.read(tmp_path / name, "model", verify=True).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_refit_adds_the_validation_images_and_nothing_else(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit that chooses is the one without refit, to the bit; the other starts the same and sees both splits."""
    arguments = RECIPE | {
        "target_store": target,
        "backbone": "test_resnet",
        "tl_source": "imagenet",
        "pretrained": None,
    }
    arguments |= {"weights_mirror": "", "epochs": 3}
    starts: list[dict[str, torch.Tensor]] = []
    seen: list[set[int]] = []
    epochs = loop._epochs

    def watched(training: Any, opened: Store, rows: Any, *rest: Any) -> Any:
        starts.append({name: tensor.clone() for name, tensor in training.network.state_dict().items()})
        seen.append(set(rows.tolist()))
        return epochs(training, opened, rows, *rest)

    monkeypatch.setattr(loop, "_epochs", watched)
    monkeypatch.setattr(steps, "load_imagenet", lambda network, mirror: {"where": "a test"})
    finetune(out=tmp_path / "once", **arguments)
    finetune(out=tmp_path / "twice", refit=True, **arguments)
    splits = [set(Store.open(target).rows(split).tolist()) for split in ("train", "validation", "test")]
    assert seen == [splits[0], splits[0], splits[0] | splits[1]] and not seen[2] & splits[2]
    assert all(torch.equal(starts[0][name], start[name]) for start in starts[1:] for name in start)
    once, first, final = (
        load_network(tmp_path / name, fit).state_dict()
        for name, fit in (("once", ""), ("twice", artifacts.SELECTION), ("twice", ""))
    )
    assert all(torch.equal(once[name], first[name]) for name in once)
    assert not all(torch.equal(once[name], final[name]) for name in once)
    told = [artifacts.read(tmp_path / name, "model").content for name in ("once", "twice")]
    assert [one.pop("refit") for one in told] == [False, True] and told[0] == told[1]


def test_in_domain_starts_from_the_pretrained_body(target: Path, pretrained: Path, tmp_path: Path) -> None:
    before = load_network(pretrained).state_dict()
    finetune(
        target_store=target, backbone="test_resnet", tl_source="in_domain", pretrained=pretrained,
        out=tmp_path / "model", **(RECIPE | {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0}),
    )  # fmt: skip
    after = load_network(tmp_path / "model").state_dict()
    assert torch.allclose(before["body.layer1.0.conv1.weight"], after["body.layer1.0.conv1.weight"], atol=1e-6)
    content = artifacts.read(tmp_path / "model", "model").content
    assert content["source_steps"] == artifacts.read(pretrained, "model").content["source_steps"] > 0
    assert content["pretrained_digest"] == artifacts.read(pretrained, "model").digest
    assert content["target_steps"] > 0 and content["tl_source"] == "in_domain"


def test_what_does_not_fit_is_refused(target: Path, pretrained: Path, tmp_path: Path) -> None:
    arguments = RECIPE | {"out": tmp_path / "model"}
    with pytest.raises(RadtransferError, match="in_domain only"):
        finetune(target_store=target, backbone="test_resnet", tl_source="scratch", pretrained=pretrained, **arguments)
    with pytest.raises(RadtransferError, match="expected a pre-trained test_efficientnet, found test_resnet"):
        finetune(
            target_store=target, backbone="test_efficientnet", tl_source="in_domain", pretrained=pretrained, **arguments
        )
    pretrain(
        source_store=write_store(tmp_path / "source", "source"), backbone="test_vit", init="scratch",
        **(arguments | {"epochs": 1, "out": tmp_path / "fixed"}),
    )  # fmt: skip
    with pytest.raises(RadtransferError, match=r"weights.safetensors: not weights of test_vit for 64 px"):
        finetune(
            target_store=target, backbone="test_vit", tl_source="in_domain", pretrained=tmp_path / "fixed",
            **(arguments | {"input_size": 64}),
        )  # fmt: skip
    lonely = write_store(tmp_path / "lonely", "target", one_class=True)
    with pytest.raises(RadtransferError, match="fewer than two classes"):
        finetune(target_store=lonely, backbone="test_resnet", tl_source="scratch", pretrained=None, **arguments)
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".model*"))


def test_a_pretrained_model_is_taken_up_as_it_is(pretrained: Path, tmp_path: Path) -> None:
    arguments = RECIPE | {"backbone": "test_resnet", "init": "scratch", "pretrained_models": str(pretrained.parent)}
    wider = write_store(tmp_path / "wider", "source", count=120, seed=1)
    pretrain(source_store=wider, out=tmp_path / "model", **arguments)
    assert artifacts.read(tmp_path / "model", "model", verify=True).digest == artifacts.read(pretrained, "model").digest

    narrower = write_store(tmp_path / "narrower", "source", seed=2)
    with pytest.raises(RadtransferError, match=r"80 of the 80 images that .*test_resnet has seen are not among"):
        pretrain(source_store=narrower, out=tmp_path / "other", **arguments)
    assert not list(tmp_path.glob("*other*"))


def test_a_model_from_before_there_was_a_choice_of_tasks_is_taken_up(pretrained: Path, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "models" / "test_resnet")
    _again(tmp_path / "models" / "test_resnet", say_nothing_of=("task", "boxes"))
    arguments = RECIPE | {"backbone": "test_resnet", "init": "scratch", "source_store": pretrained.parent / "source"}
    pretrain(out=tmp_path / "model", pretrained_models=str(tmp_path / "models"), **arguments)
    assert "task" not in artifacts.read(tmp_path / "model", "model").content
    with pytest.raises(RadtransferError, match="has task 'abnormality', this run needs 'both'"):
        pretrain(out=tmp_path / "other", pretrained_models=str(tmp_path / "models"), task="both", **arguments)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: folder.rename(folder.parent / "elsewhere"),
            "expected an artifact of kind 'model'.* found none",
        ),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "weights.safetensors: its sha256"),
        (lambda folder: _again(folder, init="imagenet"), "has init 'imagenet', this run needs 'scratch'"),
        (lambda folder: _again(folder, stage="finetune"), "has stage 'finetune', this run needs 'pretrain'"),
        (lambda folder: _again(folder, backbone="test_vit"), "has backbone 'test_vit', this run needs 'test_resnet'"),
        (lambda folder: _again(folder, leave_out="seen.txt"), "does not list the images it has seen"),
    ],
)
def test_a_pretrained_model_that_does_not_fit_is_refused(
    pretrained: Path, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(pretrained, tmp_path / "models" / "test_resnet")
    harm(tmp_path / "models" / "test_resnet")
    with pytest.raises(RadtransferError, match=message):
        pretrain(
            source_store=pretrained.parent / "source", backbone="test_resnet", init="scratch", out=tmp_path / "model",
            pretrained_models=str(tmp_path / "models"), **RECIPE,
        )  # fmt: skip
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".model*"))


def _again(folder: Path, leave_out: str = "", say_nothing_of: tuple[str, ...] = (), **changed: str) -> None:
    """Make a model anew with other content, seal and all."""
    before = artifacts.read(folder, "model")
    old = folder.rename(folder.parent / "old")
    with artifacts.writing(folder, "model", step="pretrain", settings={}) as (staging, content):
        for name in ("weights.safetensors", "history.csv", "seen.txt"):
            if name != leave_out:
                shutil.copy(old / name, staging / name)
        content.update({key: value for key, value in before.content.items() if key not in say_nothing_of}, **changed)


def test_imagenet_without_weights_stops(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RadtransferError, match="weights_mirror"):
        finetune(
            target_store=target, backbone="test_resnet", tl_source="imagenet", pretrained=None,
            out=tmp_path / "model", **RECIPE,
        )  # fmt: skip
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_logit_is_the_head_of_the_features(backbone: str) -> None:
    network = Network(backbone).eval()
    images = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    with torch.inference_mode():
        features = network.features(images)
        assert features.shape == (3, network.feature_dim)
        assert torch.equal(network.head(features), network(images))
        assert network(images).shape == (3,)
        assert torch.equal(network.prepare(images), network.prepare(images.float()))


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_resnet", "test_vit"])
def test_every_head_starts_undecided(backbone: str) -> None:
    network = Network(backbone, 0 if backbone == "test_vit" else 64).train()
    images = torch.randint(0, 256, (8, 64, 64), dtype=torch.uint8)
    assert network(images).abs().max() < 1.0


def test_unknown_backbone_names_near_matches() -> None:
    with pytest.raises(RadtransferError, match="did you mean tf_efficientnet_lite0"):
        check_backbones(["tf_eficientnet_lite0"])


def test_rate_warms_up_and_ends_near_zero() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) < 16
    assert rates[0] < 0.1 and rates[-1] < 0.01
