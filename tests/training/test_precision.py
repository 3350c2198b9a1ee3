"""Networks that compute in bfloat16, and those to which a mirrored image means something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.explain.gradcam import contribution
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.extract import extract
from radtransfer.fusion.predictor import Predictor
from radtransfer.preprocess.store import Store
from radtransfer.training import loop, objective, runtime
from radtransfer.training.augment import augment
from radtransfer.training.inference import infer
from radtransfer.training.network import Network, load_network
from radtransfer.training.steps import finetune
from tests.training.test_checkpoints import equal, killed_after, names
from tests.training.test_steps import RECIPE, SIDE, write_store

ARGUMENTS: dict[str, Any] = RECIPE | {
    "backbone": "test_resnet", "tl_source": "scratch", "pretrained": None, "epochs": 2, "refit": True,
    "precision": "bfloat16", "mirror": False, "checkpoint_minutes": 1e-9,
}  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "target", "target")


@pytest.fixture(scope="module")
def model(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    finetune(target_store=target, out=out, **ARGUMENTS)
    return out


def views(network: Network, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    stored = torch.from_numpy(images)
    with torch.inference_mode():
        return network.features(stored), network.features(stored.flip(-1))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_bfloat16_rounds_inside_the_body_alone(backbone: str) -> None:
    network = Network(backbone, precision="bfloat16")
    images = torch.randint(0, 256, (4, 40, 40), dtype=torch.uint8)
    inside: list[torch.dtype] = []
    layer = next(module for module in network.body.modules() if isinstance(module, torch.nn.Conv2d))
    layer.register_forward_hook(lambda *call: inside.append(call[2].dtype))
    logits = network(images)
    logits.sum().backward()
    assert inside == [torch.bfloat16] and logits.dtype == network.features(images).dtype == torch.float32
    assert {each.grad.dtype for each in network.parameters() if each.grad is not None} == {torch.float32}
    network.eval()
    with torch.inference_mode():
        rough = network.features(images)
        network.precision = "float32"
        exact = network.features(images)
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_a_killed_bfloat16_training_ends_as_one_that_was_not(
    target: Path, model: Path, tmp_path: Path, steps: int
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    killed_after(steps, out=tmp_path / "model", **arguments)
    assert names(tmp_path / "left")
    finetune(out=tmp_path / "model", **arguments)
    assert equal(tmp_path / "model", model)


@pytest.mark.parametrize("other", [{"precision": "float32"}, {"mirror": True}])
def test_a_checkpoint_is_of_one_precision_and_one_meaning_of_mirror_images(
    target: Path, model: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    arguments = ARGUMENTS | {"target_store": target, "checkpoints": str(tmp_path / "left")}
    killed_after(3, out=tmp_path / "model", **arguments)
    left = names(tmp_path / "left")
    finetune(out=tmp_path / "other", **(arguments | other))
    assert names(tmp_path / "left") == left, "taken up by another training, or removed"
    weights = [load_file(folder / "weights.safetensors") for folder in (tmp_path / "other", model)]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    said = artifacts.read(tmp_path / "other", "model").content
    assert (said["precision"], said["mirror"]) == (other.get("precision", "bfloat16"), other.get("mirror", False))


def test_a_model_is_asked_as_it_was_trained(target: Path, model: Path, tmp_path: Path) -> None:
    """Extraction, in batches, and prediction, of a few images at a time, give the same scores."""
    network = load_network(model)
    assert (network.precision, network.mirror) == ("bfloat16", False)
    extract(store=target, models=[model], threads=1, out=tmp_path / "features")
    logits = np.load(tmp_path / "features" / "0-logits.npy")
    images = np.asarray(Store.open(target).images)
    predict = Predictor((network,), None, Calibration(1.0, 0.0), 0.5)
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    for few in (1, 7, len(images)):
        scores = np.concatenate([predict(images[start : start + few]) for start in range(0, len(images), few)])
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    network.precision = "float32"
    assert np.abs(predict(images) - expected).max() > 1e-5


def test_mirror_images_count_only_where_they_mean_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)
    for mirror in (True, False):
        network = Network("test_resnet", SIDE, mirror=mirror).eval()
        upright, mirrored = views(network, images)
        expected = (upright + mirrored) / 2 if mirror else upright
        np.testing.assert_array_equal(infer(network, images)[0], expected.numpy())


def test_a_training_mirrors_only_where_it_means_the_same(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def watched(*given: Any, flip: bool, **more: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen.append(flip)
        return augment(*given, flip=flip, **more)

    monkeypatch.setattr(objective, "augment", watched)
    for mirror in (True, False):
        finetune(target_store=target, out=tmp_path / str(mirror), **(ARGUMENTS | {"epochs": 1, "mirror": mirror}))
    half = len(seen) // 2
    assert seen == [True] * half + [False] * half and half


def test_maps_are_of_the_views_that_the_score_is_of() -> None:
    torch.manual_seed(1)
    network = Network("test_resnet", 64, precision="bfloat16").eval()
    pulls = np.ones((2, network.feature_dim))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    network.mirror = False
    upright = contribution(network, images, pulls)
    mirrored = contribution(network, images[:, :, ::-1], pulls)[:, :, ::-1]
    network.mirror = True
    np.testing.assert_allclose(contribution(network, images, pulls), (upright + mirrored) / 2, atol=1e-5)
    assert np.abs(upright - mirrored).max() > 0.01


def test_a_model_from_before_is_float32_and_mirrored(model: Path, tmp_path: Path) -> None:
    before = artifacts.read(model, "model").content

    def made(name: str, content: dict[str, Any]) -> Path:
        with artifacts.writing(tmp_path / name, "model", step="finetune", settings={}) as (folder, said):
            (folder / "weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes())
            said.update(content)
        return tmp_path / name

    network = load_network(made("old", {key: before[key] for key in before if key not in ("precision", "mirror")}))
    assert (network.precision, network.mirror) == ("float32", True)
    for odd in ({"precision": "float16"}, {"mirror": "yes"}, {"precision": ["float32"]}):
        with pytest.raises(RadtransferError, match="expected one of float32, bfloat16, and true or false"):
            load_network(made(f"odd-{next(iter(odd.values()))}", before | odd))


def test_only_trainings_round_float32_on_a_gpu() -> None:
    """Scores of trained weights must not hang on the device; the flags stand with or without one."""
    try:
        for tf32 in (True, False):
            runtime.settle(1, 0, tf32=tf32)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
    finally:
        runtime.settle(1, 0)


def test_the_fused_optimiser_goes_on_from_a_checkpoint() -> None:
    """As on a GPU, where AdamW is fused and counts its steps on the device."""

    def step(training: loop.Training) -> None:
        torch.manual_seed(training.steps)
        training.learn(training.network.train()(torch.rand(4, SIDE, SIDE) * 255).square().mean(), 1.0)

    def begun() -> loop.Training:
        torch.manual_seed(0)
        training = loop.Training(Network("test_resnet", SIDE), loop.Recipe(1, 4, 1e-3, 0.01, 0))
        groups = loop._groups(training.network, loop.Recipe(1, 4, 1e-3, 0.01, 0))
        training.optimizer = torch.optim.AdamW(groups, fused=True)
        return training

    whole, first, second = begun(), begun(), begun()
    for _ in range(4):
        step(whole)
    step(first)
    step(first)
    _, tensors, said = first.state()
    second.restore({name: tensor.clone() for name, tensor in tensors.items()}, said)
    step(second)
    step(second)
    expected = whole.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.network.state_dict().items())
