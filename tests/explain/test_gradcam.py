from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from radtransfer.errors import RadtransferError
from radtransfer.explain.gradcam import gradcam
from radtransfer.training.network import Network

RegionNetwork = Callable[..., Network]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "backbone",
    ["test_resnet", "test_efficientnet", "test_convnext", "test_mambaout", "test_vit", "test_vit2", "test_vit_relpos"],
)
def test_finds_the_last_feature_map(backbone: str) -> None:
    torch.manual_seed(1)
    network = Network(backbone, 160).eval()
    torch.nn.init.uniform_(network.body.get_classifier().weight)  # decided: a positive logit has a map
    images = RNG.integers(0, 256, (3, 72, 72), dtype=np.uint8)
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}

    heat = gradcam([network], images, batch_size=2)

    assert heat.shape == images.shape and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() <= 1
    assert heat.max(axis=(1, 2)).min() > 0.5  # each map is scaled on its own
    assert heat.std(axis=(1, 2)).min() > 0.01
    np.testing.assert_allclose(heat[2:], gradcam([network], images[2:]), atol=1e-5)
    assert before == {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 8)])
def test_mass_lies_where_the_network_looks(region_network: RegionNetwork, rows: slice) -> None:
    images = np.full((1, 64, 64), 250, np.uint8)
    heat = gradcam([region_network(rows, slice(2, 6))], images)[0]
    inside = heat[8 * rows.start : 8 * rows.stop, 16:48]
    assert inside.sum() / heat.sum() > 0.75
    assert inside.mean() > 0.9


def test_map_of_the_mirror_image_counts_half(region_network: RegionNetwork) -> None:
    """A network that looks at the left side alone sees the right side in the mirror image."""
    heat = gradcam([region_network(slice(0, 8), slice(0, 3))], np.full((1, 64, 64), 250, np.uint8))[0]
    np.testing.assert_allclose(heat, heat[:, ::-1], atol=1e-6)
    assert heat[:, :20].mean() == pytest.approx(0.5, abs=0.02) and heat[:, 30:34].max() < 0.05


def test_nothing_for_the_positive_class_gives_an_empty_map(region_network: RegionNetwork) -> None:
    images = np.full((1, 64, 64), 250, np.uint8)
    assert gradcam([region_network(slice(0, 4), slice(0, 4), gain=-1.0)], images).max() == 0


def test_networks_weigh_the_same(region_network: RegionNetwork) -> None:
    images = np.full((2, 64, 64), 250, np.uint8)
    top = region_network(slice(0, 4), slice(0, 8), gain=100.0)
    bottom = region_network(slice(4, 8), slice(0, 8), gain=0.01)
    both = gradcam([top, bottom], images)
    np.testing.assert_allclose(both, (gradcam([top], images) + gradcam([bottom], images)) / 2, atol=1e-6)
    assert both[0, 40:].mean() == pytest.approx(0.5, abs=0.05)


def test_a_backbone_without_feature_map_is_named(region_network: RegionNetwork) -> None:
    network = region_network(slice(0, 4), slice(0, 4))
    network.backbone = "odd_net"
    network.body.forward_features = lambda x: x.flatten(1)  # type: ignore[method-assign]
    with pytest.raises(RadtransferError, match=r"odd_net.*leave it out of backbones"):
        gradcam([network], np.zeros((1, 64, 64), np.uint8))
