from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.explain.superpixels import lime
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.predictor import Predictor, of_bundle, of_candidate
from radtransfer.training.network import Network, load_network

RegionNetwork = Callable[..., Network]
TOP, BOTTOM = (slice(0, 4), slice(0, 8)), (slice(4, 8), slice(0, 8))


def reading(column: int) -> LogisticRegression:
    """A classifier on two features that reads only one of them."""
    estimator = LogisticRegression().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    estimator.coef_ = np.where(np.arange(2) == column, 6.0, 0.0)[None]
    estimator.intercept_ = np.array([-3.0])
    return estimator


@pytest.mark.parametrize(("column", "seen"), [(0, slice(0, 32)), (1, slice(32, 64))])
def test_lime_explains_the_classifier_behind_the_fused_features(
    region_network: RegionNetwork, column: int, seen: slice
) -> None:
    """Both networks' features are there; only the classifier decides which half of the image counts."""
    rows = np.indices((64, 64)).sum(axis=0)
    image = np.where(rows // 4 % 2, 255, 0).astype(np.uint8)  # stripes, which a blur turns to plain grey
    networks = (region_network(*TOP), region_network(*BOTTOM))
    predict = Predictor(networks, reading(column), Calibration(1.0, 0.0), 0.5)
    found = lime(predict, image, (0, 0, 64, 64), samples=200, seed=0)
    half = np.zeros((64, 64), bool)
    half[seen] = True
    blind = [k for k in range(len(found.weights)) if not half[found.segments == k].any()]
    assert len(blind) > 3
    within = [k for k in range(len(found.weights)) if half[found.segments == k].all()]
    assert np.abs(found.weights[within]).mean() > 0.01
    assert np.abs(found.weights[blind]).mean() < 0.15 * np.abs(found.weights[within]).mean()


def test_half_that_the_classifier_ignores_changes_nothing(region_network: RegionNetwork) -> None:
    images = np.full((2, 64, 64), 250, np.uint8)
    images[1, 32:] = 128
    networks = (region_network(*TOP), region_network(*BOTTOM))
    top, bottom = (Predictor(networks, reading(column), Calibration(1.0, 0.0), 0.5)(images) for column in (0, 1))
    assert top[0] == top[1]
    assert bottom[0] > bottom[1] + 0.3


def test_head_and_calibration(region_network: RegionNetwork) -> None:
    network = region_network(*TOP)
    images = np.full((3, 64, 64), 250, np.uint8)
    images[1:] = 90
    raw = network(torch.from_numpy(images)).detach().numpy().astype(float)
    expected: NDArray[np.float64] = 1 / (1 + np.exp(-(2.0 * raw - 0.3)))
    np.testing.assert_allclose(Predictor((network,), None, Calibration(2.0, -0.3), 0.5)(images), expected, rtol=1e-6)


def test_gives_the_evaluated_scores(mini_run: Any) -> None:
    store = np.load(mini_run.store / "images.npy")
    rows = [int(image_id[5:7]) for image_id in mini_run.scores["image_id"]]
    held = artifacts.read(mini_run.classifiers[0], "classifiers")
    networks = {path.name.split("-")[-1]: load_network(path) for path in mini_run.models[:2]}
    backwards = list(reversed(held.content["blocks"]))  # the columns say the order, not the list
    predict = of_candidate(held.content["candidates"][0], backwards, networks, held.path)
    expected = mini_run.scores["imagenet/fused/logistic_regression/seed3"]
    np.testing.assert_allclose(predict(store[rows]), expected, atol=1e-6)
    np.testing.assert_allclose(of_bundle(mini_run.bundle)(store[rows]), expected, atol=1e-6)

    del networks["test_vit"]
    with pytest.raises(RadtransferError, match="test_vit"):
        of_candidate(held.content["candidates"][0], backwards, networks, held.path)
