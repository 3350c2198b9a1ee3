"""Late fusion that learns: honest scores, and a stacker that follows its networks through a refit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from radtransfer.fusion.stacking import carried, stack

Floats = NDArray[np.float64]


def logits(seed: int, count: int, networks: int, shift: float) -> tuple[Floats, NDArray[np.int8], NDArray[np.int_]]:
    """Logits that tell as much of the label as ``shift`` standard deviations, and groups of two."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(np.int8)
    return rng.normal(size=(count, networks)) + shift * labels[:, None], labels, np.arange(count) // 2


def test_scores_of_its_own_images_do_not_flatter() -> None:
    """Forty networks that know nothing: in sample a stacker looks good, out of fold it does not.

    n = 90 images, 20 draws (seeds 0 to 19): the mean out-of-fold AUROC has a standard error of about .013 about .5 or a
    little less, so that it exceeds .56 less than once in 10,000 times.
    """
    inside, outside = [], []
    for seed in range(20):
        values, labels, groups = logits(seed, 90, 40, 0.0)
        found = stack(values, labels, groups, 5, seed)
        assert found is not None
        inside.append(roc_auc_score(labels, found.model.decision_function(values)))
        outside.append(roc_auc_score(labels, found.out_of_fold))
    assert np.mean(inside) > 0.7 and np.mean(outside) < 0.56


def test_networks_that_know_more_weigh_more() -> None:
    values, labels, groups = logits(0, 300, 3, 0.0)
    values[:, 1] += 1.5 * labels
    found = stack(values, labels, groups, 5, 0)
    assert found is not None
    weights = found.model.coef_[0]
    assert weights[1] > 3 * np.abs(weights[[0, 2]]).max()
    assert roc_auc_score(labels, found.out_of_fold) > 0.75


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_stacker_is_carried_over_a_shift_and_a_scale(scale: float) -> None:
    values, labels, groups = logits(1, 120, 3, 1.0)
    found = stack(values, labels, groups, 5, 0)
    assert found is not None
    again = values * [scale, 1, scale] + [1.0, -2.0, 0.0]
    model = carried(found.model, values[:60], again[:60])
    np.testing.assert_allclose(model.decision_function(again), found.model.decision_function(values), atol=1e-9)


def test_networks_that_say_the_same_of_everything_are_no_matter() -> None:
    values, labels, groups = logits(2, 60, 2, 1.0)
    values[:, 1] = 7.0
    found = stack(values, labels, groups, 5, 0)
    assert found is not None and np.isfinite(found.out_of_fold).all()
    assert found.model.coef_[0, 1] == pytest.approx(0, abs=1e-9)
    assert np.isfinite(carried(found.model, values, values * 0).decision_function(values)).all()


def test_separable_logits_and_too_few_groups() -> None:
    values, labels, groups = logits(3, 60, 2, 100.0)
    found = stack(values, labels, groups, 5, 0)
    assert found is not None and roc_auc_score(labels, found.out_of_fold) == 1.0
    assert np.isfinite(found.model.coef_).all()
    assert stack(values, labels, labels, 5, 0) is None
