"""One member of each family of backbones, the smallest, on all that is asked of a backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.explain.gradcam import gradcam
from radtransfer.fusion.extract import extract
from radtransfer.training import network as networks
from radtransfer.training.inference import infer
from radtransfer.training.loop import Recipe, Training
from radtransfer.training.network import Network, check_backbones, load_network
from radtransfer.training.steps import _save, finetune
from radtransfer.training.weights import PYPI_PACKAGES, imagenet_state
from tests.explain.conftest import by_heads
from tests.training.test_steps import RECIPE, write_store

FAMILIES = {
    "EfficientNet-Lite": ("tf_efficientnet_lite0", 64),
    "EfficientNet": ("efficientnet_b0", 64),
    "ResNet": ("resnet10t", 64),
    "DenseNet": ("densenet121", 64),
    "Xception": ("legacy_xception", 96),
    "Xception, aligned": ("xception41", 64),
    "ConvNeXt": ("convnext_atto", 64),
    "MobileNet v2": ("mobilenetv2_035", 64),
    "MobileNet v3": ("mobilenetv3_small_050", 64),
    "MobileNet v4": ("mobilenetv4_conv_small_035", 64),
    "ViT": ("vit_tiny_patch16_224", 64),
    "ViT at its own size": ("vit_tiny_patch16_224", 0),
    "DeiT": ("deit_tiny_patch16_224", 64),
    "Swin": ("swin_tiny_patch4_window7_224", 0),
    "Swin v2": ("swinv2_tiny_window8_256", 128),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_saved_read_and_explained(family: str, tmp_path: Path) -> None:
    backbone, side = FAMILIES[family]
    torch.manual_seed(0)
    training = Training(Network(backbone, side), Recipe(1, 4, 1e-3, 0.01, 0))
    network = training.network.train()
    images = torch.randint(0, 256, (4, 72, 72), dtype=torch.uint8)  # one channel, and of another size
    assert network.input_size == (side or 224) and network.prepare(images).shape == (4, 3) + 2 * (network.input_size,)
    assert network.features(images).shape == (4, network.feature_dim) and network(images).shape == (4,)

    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _ in range(2):  # a body has no gradient while its head is all but zero
        training.learn(binary_cross_entropy_with_logits(network(images), torch.arange(4) % 2.0), 1.0)
    still = [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])]
    assert len(still) < 0.05 * len(before), still

    _, logits = infer(network.eval(), images.numpy())
    with artifacts.writing(tmp_path / "model", "model", step="finetune", settings={}) as (folder, content):
        _save(network, folder / networks.WEIGHTS)
        content.update(backbone=backbone, input_size=network.input_size)
    again = load_network(tmp_path / "model")
    assert np.array_equal(infer(again, images.numpy())[1], logits) and np.isfinite(logits).all()

    torch.nn.init.uniform_(again.body.get_classifier().weight)  # decided: a positive logit has a map
    predict, few = by_heads(again), images[:2].numpy()
    heat = gradcam(predict, few, predict.passed(few)).maps
    assert heat.shape == (2, 72, 72) and heat.min() >= 0 and 0.3 < heat.max() <= 1
    assert heat.std(axis=(1, 2)).max() > 1e-3


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_repeating_a_grey_image_is_summing_the_filters(backbone: str) -> None:
    """What the first convolution gives for three equal channels is what filters summed over channels give for one."""
    network = Network(backbone, 0 if backbone == "test_vit" else 64).double()
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    grey = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    summed = torch.nn.functional.conv2d(
        grey, first.weight.sum(1, keepdim=True), first.bias, first.stride, first.padding, first.dilation
    )
    torch.testing.assert_close(first(grey.expand(-1, 3, -1, -1)), summed)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tf_eficientnet_lite0", "did you mean tf_efficientnet_lite0"),
        ("resnet-50", "did you mean resnet50"),
        ("ResNet50", "did you mean resnet50"),
        ("deit_tiny", "did you mean deit_tiny_patch16_224, "),
        ("swin_tiny", "did you mean swin_tiny_patch4_window7_224"),
        ("resnet51.a1_in1k", "no model 'resnet51.a1_in1k'; did you mean resnet51q"),
        ("resnet50.a1_in2k", "no weights 'a1_in2k' of 'resnet50.a1_in2k'; it knows resnet50.a1_in1k, "),
        ("resnet50.", "no weights '' of"),
        ("xception", "its name there is now legacy_xception"),
        ("vit_small_patch16_224_dino", "its name there is now vit_small_patch16_224.dino"),
        ("hf-hub:timm/resnet50.a1_in1k", "did you mean"),
        ("", "list them with timm.list_models"),
    ],
)
def test_a_name_that_timm_does_not_know(name: str, said: str) -> None:
    with pytest.raises(RadtransferError) as error:
        check_backbones([name])
    assert str(error.value).startswith("backbones: timm ") and said in str(error.value)


def test_a_backbone_whose_head_or_features_are_others() -> None:
    with pytest.raises(
        RadtransferError, match="deit_tiny_distilled_patch16_224 has 2 heads; expected one linear layer"
    ):
        Network("deit_tiny_distilled_patch16_224")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks.timm, "create_model", lambda *_, **__: torch.nn.Sequential(torch.nn.Linear(3, 1)))
        with pytest.raises(RadtransferError, match="test_resnet has a head of class NoneType; expected one linear"):
            Network("test_resnet", 64)
    odd = Network("test_resnet", 64)
    odd.body.global_pool = torch.nn.Identity()
    with pytest.raises(RadtransferError, match=r"test_resnet gives features \(2, 96, 2, 2\) of 2 images; expected one"):
        odd(torch.zeros(2, 64, 64))


@pytest.mark.parametrize(
    ("backbone", "side", "why"),
    [
        ("test_vit", 100, "patches of 16 px do not fill them"),
        ("test_vit", 8, "patches of 16 px do not fill them"),
        ("maxvit_tiny_tf_224", 100, r"height \(25\) must be divisible by window \(3\)"),
    ],
)
def test_a_size_that_does_not_fit(backbone: str, side: int, why: str) -> None:
    said = (
        rf"{backbone} does not take images of {side} px \({why}\); it was published for (160|224) px: set input_size to"
    )
    with pytest.raises(RadtransferError, match=said):
        Network(backbone, side)


def test_a_tag_goes_through_mirror_model_and_extraction(tmp_path: Path) -> None:
    name = "test_resnet.r160_in1k"
    weights = tmp_path / "mirror" / f"{name}.safetensors"
    weights.parent.mkdir()
    save_file(timm.create_model(name).state_dict(), weights)
    (weights.parent / "SHA256SUMS").write_text(f"{artifacts.file_sha256(weights)}  {weights.name}\n")
    store = write_store(tmp_path / "store", "target")
    finetune(
        target_store=store, backbone=name, tl_source="imagenet", pretrained=None, out=tmp_path / "model",
        **(RECIPE | {"epochs": 1, "weights_mirror": str(weights.parent)}),
    )  # fmt: skip
    extract(store=store, models=[tmp_path / "model"], threads=1, out=tmp_path / "features")
    (model,) = artifacts.read(tmp_path / "features", "features").content["models"]
    assert model["backbone"] == name and load_network(tmp_path / "model").backbone == name


def test_a_tag_names_the_package_weights_too() -> None:
    plain, origin = imagenet_state("tf_efficientnet_lite0")
    tagged, same = imagenet_state("tf_efficientnet_lite0.in1k")
    assert origin == same and origin["where"] == PYPI_PACKAGES["tf_efficientnet_lite0"][0]
    assert all(torch.equal(tensor, tagged[name]) for name, tensor in plain.items())
