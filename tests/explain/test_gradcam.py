from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from radtransfer.errors import RadtransferError
from radtransfer.explain.gradcam import Heat, contribution, gradcam
from radtransfer.fusion.predictor import Predictor
from radtransfer.training.network import Network
from tests.explain.conftest import by_heads

RegionNetwork = Callable[..., Network]
RNG = np.random.default_rng(0)
BRIGHT = np.full((2, 64, 64), 250, np.uint8)


def linear(*weights: float) -> LogisticRegression:
    """A fitted logistic regression with these weights."""
    model = LogisticRegression().fit(np.eye(2, len(weights)), [0, 1])
    model.coef_ = np.array([weights])
    return model


def heat(predict: Predictor, images: np.ndarray, batch_size: int = 16) -> Heat:
    return gradcam(predict, images, predict.passed(images), batch_size)


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

    found = heat(by_heads(network), images, batch_size=2).maps

    assert found.shape == images.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max(axis=(1, 2)).tolist() == [1, 1, 1]
    assert found.std(axis=(1, 2)).min() > 0.01
    np.testing.assert_allclose(found[2:], heat(by_heads(network), images[2:]).maps, atol=1e-5)
    assert before == {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 8)])
def test_mass_lies_where_the_network_looks(region_network: RegionNetwork, rows: slice) -> None:
    found = heat(by_heads(region_network(rows, slice(2, 6))), BRIGHT).maps[0]
    inside = found[8 * rows.start : 8 * rows.stop, 16:48]
    assert inside.sum() / found.sum() > 0.75
    assert inside.mean() > 0.9


def test_map_of_the_mirror_image_counts_half(region_network: RegionNetwork) -> None:
    """A network that looks at the left side alone sees the right side in the mirror image."""
    network = region_network(slice(0, 8), slice(0, 3))
    found = heat(by_heads(network), BRIGHT).maps[0]
    np.testing.assert_allclose(found, found[:, ::-1], atol=1e-6)
    assert found[:, 30:34].max() < 0.05
    network.mirror = False
    alone = heat(by_heads(network), BRIGHT).maps[0]
    assert alone[:, :16].mean() > 0.9 and alone[:, 40:].max() == 0


def test_nothing_for_the_positive_class_gives_an_empty_map(region_network: RegionNetwork) -> None:
    against = by_heads(region_network(slice(0, 4), slice(0, 4), gain=-1.0))
    assert heat(against, BRIGHT).maps.max() == 0
    for image in (np.zeros_like(BRIGHT), BRIGHT):
        nowhere = by_heads(region_network(slice(0, 0), slice(0, 0)))
        assert heat(nowhere, image).maps.max() == 0


def test_the_mean_over_a_last_map_is_what_the_features_add(region_network: RegionNetwork) -> None:
    network = region_network(slice(0, 4), slice(2, 6))
    images = RNG.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    ((features, _),) = by_heads(network).passed(images)
    pulls = RNG.normal(size=features.shape)
    found = contribution(network, images, pulls)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), (pulls * features).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "stage", "cells"), [("test_resnet", "layer3", 10), ("test_efficientnet", "blocks.3", 10)]
)
def test_a_stage_that_still_tells_places_apart_is_read_place_by_place(backbone: str, stage: str, cells: int) -> None:
    """Activation times gradient, by hand: of the last stage with cells of 16 px, not of the last one."""
    torch.manual_seed(2)
    network = Network(backbone, 160, mirror=False).eval()
    images = RNG.integers(0, 256, (2, 160, 160), dtype=np.uint8)
    pulls = RNG.normal(size=(2, network.feature_dim))
    kept: list[torch.Tensor] = []
    network.body.get_submodule(stage).register_forward_hook(lambda _, given, made: kept.append(made))
    (torch.from_numpy(pulls).float() * network.features(torch.from_numpy(images))).sum().backward(inputs=kept)
    by_hand = (kept[0] * kept[0].grad).sum(1).detach() * cells**2
    assert by_hand.shape == (2, cells, cells)
    wide = torch.nn.functional.interpolate(by_hand[:, None], size=(160, 160), mode="bilinear", align_corners=False)
    network.body.get_submodule(stage)._forward_hooks.clear()
    np.testing.assert_allclose(contribution(network, images, pulls), wide[:, 0].numpy(), rtol=1e-3, atol=1e-4)


def test_backbones_count_as_much_as_they_move_the_decision(region_network: RegionNetwork) -> None:
    top, bottom = region_network(slice(0, 4), slice(0, 8)), region_network(slice(4, 8), slice(0, 8), gain=5.0)

    def sides(predict: Predictor) -> tuple[float, float]:
        found = heat(predict, BRIGHT)
        assert found.fidelity.tolist() == [1, 1]
        return float(found.maps[0, :28].mean()), float(found.maps[0, 36:].mean())

    heads = by_heads(top, bottom)
    assert sides(heads) == pytest.approx((0.2, 1.0), abs=0.01), "the mean of the logits"
    fused = by_heads(top, bottom, estimator=linear(3.0, 1.0))
    assert sides(fused) == pytest.approx((1.0, 1 / 3), abs=0.01), "heads have no part in what features decide"
    assert sides(by_heads(top, bottom, estimator=linear(1.0, -1.0))) == pytest.approx((1.0, 0.0), abs=0.01)
    stacked = by_heads(top, bottom, estimator=linear(5.0, 2.0), on_heads=True)
    assert sides(stacked) == pytest.approx((0.5, 1.0), abs=0.01)


def test_a_forest_is_explained_by_the_nearest_line_and_says_how_near(region_network: RegionNetwork) -> None:
    top, bottom = region_network(slice(0, 4), slice(0, 8)), region_network(slice(4, 8), slice(0, 8))
    ((at, _), _) = by_heads(top, bottom).passed(BRIGHT[:1])
    features = at[0, 0] + RNG.normal(size=(200, 2))
    forest = RandomForestClassifier(50, random_state=0).fit(features, features[:, 0] > at[0, 0])
    found = heat(by_heads(top, bottom, estimator=forest), BRIGHT)
    assert found.maps[0, :28].mean() > 0.95 and found.maps[0, 36:].mean() < 0.2
    assert 0.3 < found.fidelity[0] < 0.95 and found.fidelity[0] == found.fidelity[1]


def test_a_backbone_without_feature_map_is_named(region_network: RegionNetwork) -> None:
    network = region_network(slice(0, 4), slice(0, 4))
    network.backbone = "odd_net"
    passed = by_heads(network).passed(np.zeros((1, 64, 64), np.uint8))
    network.body.forward_features = lambda x: x.flatten(1)  # type: ignore[method-assign]
    with pytest.raises(RadtransferError, match=r"odd_net.*leave it out of backbones"):
        gradcam(by_heads(network), np.zeros((1, 64, 64), np.uint8), passed)
