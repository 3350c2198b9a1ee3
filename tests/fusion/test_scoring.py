"""Scores, calibration, thresholds, and classifier files that nothing foreign hides in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import FunctionTransformer

from radtransfer.errors import RadtransferError
from radtransfer.fusion.scoring import load_classifier, raw_score, save_classifier


def test_a_classifier_file_comes_back_the_same_and_equal_ones_have_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
    for number in range(2):
        save_classifier(RandomForestClassifier(10, random_state=0).fit(features, labels), tmp_path / f"{number}.skops")
    assert (tmp_path / "0.skops").read_bytes() == (tmp_path / "1.skops").read_bytes()
    fitted = RandomForestClassifier(10, random_state=0).fit(features, labels)
    assert np.array_equal(raw_score(load_classifier(tmp_path / "0.skops"), features), raw_score(fitted, features))
    assert np.isfinite(raw_score(fitted, features)).all()


def test_foreign_types_and_rubbish_are_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(np.linalg.norm), tmp_path / "foreign.skops")
    with pytest.raises(RadtransferError, match="which no classifier of radtransfer has"):
        load_classifier(tmp_path / "foreign.skops")
    (tmp_path / "rubbish.skops").write_bytes(b"\x80\x04not a zip file")
    with pytest.raises(RadtransferError, match="not a classifier that can be loaded"):
        load_classifier(tmp_path / "rubbish.skops")
    with pytest.raises(RadtransferError, match="no such file"):
        load_classifier(tmp_path / "absent.skops")


def test_decision_function_is_preferred_to_probabilities() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    labels = (features[:, 0] > 0).astype(int)
    linear = LogisticRegression().fit(features, labels)
    assert np.array_equal(raw_score(linear, features), linear.decision_function(features))


def test_a_sure_network_still_orders_what_it_is_sure_of() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3))
    network = MLPClassifier((8,), alpha=0.1, solver="lbfgs", max_iter=1000, random_state=0).fit(
        features, features[:, 0] > 0
    )
    probability = network.predict_proba(features)[:, 1]
    sure = probability[(probability > 0.999) & (probability < 1)]
    assert len(sure) > 10
    assert len(np.unique(raw_score(network, features)[np.isin(probability, sure)])) == len(np.unique(sure))
