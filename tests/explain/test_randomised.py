"""Maps under random weights, and how alike two maps are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from radtransfer.explain.faithfulness import TILES
from radtransfer.explain.gradcam import gradcam
from radtransfer.explain.randomised import alike, randomised
from radtransfer.training.network import Network
from tests.explain.conftest import by_heads

RNG = np.random.default_rng(4)
WHOLE = (0.0, 0.0, 140.0, 140.0)


def coarse(count: int) -> np.ndarray:
    """Maps that are constant over each cell."""
    return np.kron(RNG.random((count, TILES, TILES)), np.ones((20, 20))).astype(np.float32)


def test_alike_is_the_rank_correlation_over_cells() -> None:
    first, second = coarse(4), coarse(4)
    second[1] = np.exp(3 * first[1])
    second[2] = -first[2]
    found = alike(first, second, [WHOLE] * 4)
    assert found[1:3].tolist() == pytest.approx([1, -1])
    told = spearmanr(first[0, 10::20, 10::20].ravel(), second[0, 10::20, 10::20].ravel()).statistic
    assert found[0] == pytest.approx(told)


def test_padding_is_left_out_and_a_flat_map_is_like_none() -> None:
    heat = coarse(2)
    other = heat.copy()
    other[0, :, :40] = 9.0
    assert alike(heat[:1], other[:1], [(40.0, 0.0, 140.0, 140.0)]) == pytest.approx(1)
    assert alike(heat[:1], other[:1], [WHOLE]) < 0.9
    assert alike(heat, np.ones_like(heat), [WHOLE] * 2).tolist() == [0, 0]


def test_random_weights_keep_their_values_and_lose_their_places() -> None:
    torch.manual_seed(0)
    predict = by_heads(Network("test_resnet", 64).eval())
    once, again, other = (randomised(predict, seed) for seed in (1, 1, 2))
    before = dict(predict.networks[0].body.named_parameters())
    for name, shuffled in once.networks[0].body.named_parameters():
        assert torch.equal(shuffled.flatten().sort().values, before[name].flatten().sort().values)
    weight = "layer3.0.conv1.weight"
    assert not torch.equal(once.networks[0].body.get_parameter(weight), before[weight])
    images = RNG.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    kept = predict(images)
    assert np.array_equal(once(images), again(images)) and not np.allclose(once(images), other(images))
    maps = [gradcam(one, images, one.passed(images)).maps for one in (predict, once)]
    assert np.abs(alike(*maps, [(0.0, 0.0, 64.0, 64.0)] * 3)).max() < 0.6
    assert np.array_equal(predict(images), kept), "the predictor itself is left alone"
