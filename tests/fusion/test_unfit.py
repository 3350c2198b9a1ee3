"""Images unlike the training images: the distance, its limit, and features that give little to go by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from radtransfer.errors import RadtransferError
from radtransfer.fusion.unfit import COMPONENTS, FALSE_ALARMS, Detector, limit

Floats = NDArray[np.float64]


def features(count: int, columns: int, seed: int = 0, place: float = 0.0) -> Floats:
    """Features that a few causes explain, up to noise, columns of very unlike size; ``place`` moves the images."""
    draw = np.random.default_rng(seed)
    causes = np.random.default_rng(99).normal(size=(5, columns))
    values = draw.normal(size=(count, 5)) @ causes + 0.3 * draw.normal(size=(count, columns)) + place
    return np.asarray(values * np.geomspace(0.01, 100, columns) + 3)


def test_it_is_the_distance_of_probabilistic_principal_components() -> None:
    """scikit-learn gives the likelihood; what it has beyond a constant is half the squared distance."""
    learnt, new = features(400, 60), features(50, 60, seed=1)
    detector = Detector.fit(learnt)
    standard = [(values - learnt.mean(axis=0)) / learnt.std(axis=0) for values in (learnt, new)]
    likelihood = PCA(COMPONENTS, svd_solver="full").fit(standard[0]).score_samples(standard[1])
    squared = (detector.distance(new) * detector.typical) ** 2
    assert squared - squared[0] == pytest.approx(-2 * (likelihood - likelihood[0]), rel=1e-3, abs=1e-2)
    assert np.median(detector.distance(learnt)) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-100, 100), st.floats(0.01, 100))
def test_units_of_the_columns_do_not_count(seed: int, shift: float, scale: float) -> None:
    learnt, new = features(80, 20, seed), features(10, 20, seed + 1)
    plain = Detector.fit(learnt).distance(new)
    assert Detector.fit(learnt * scale + shift).distance(new * scale + shift) == pytest.approx(plain, rel=2e-2)


@pytest.mark.parametrize(("count", "columns"), [(300, 40), (30, 400), (3, 50), (2, 5), (50, 1)])
def test_images_from_elsewhere_are_farther_whatever_the_shape(count: int, columns: int) -> None:
    detector = Detector.fit(features(count, columns))
    like, unlike = features(200, columns, seed=1), features(200, columns, seed=2, place=12)
    apart = np.r_[detector.distance(like), detector.distance(unlike)]
    assert np.isfinite(apart).all()
    assert roc_auc_score(np.repeat([0, 1], 200), apart) > 0.95


def test_constant_columns_neither_break_it_nor_decide_alone() -> None:
    learnt = np.column_stack([features(60, 30), np.full((60, 30), 2.0)])
    detector = Detector.fit(learnt)
    new = np.column_stack([features(40, 30, seed=1), np.full((40, 30), 2.0)])
    assert np.median(detector.distance(new)) < 3
    assert detector.distance(new + 1e-6) == pytest.approx(detector.distance(new), rel=1e-2)
    lit = new.copy()
    lit[:, 30:] += learnt[:, :30].std()
    assert (detector.distance(lit) > 3 * detector.distance(new)).all()


def test_features_that_are_the_same_for_all_images_call_none_unfit() -> None:
    detector = Detector.fit(np.full((20, 8), 0.7))
    found = detector.distance(np.full((5, 8), 0.7) + 1e-7)
    assert (found <= limit(found)).all() and limit(found) >= 1


def test_the_limit_is_passed_as_often_as_meant_however_few_set_it() -> None:
    """4,000 sets: the share of new ones beyond is off by at most 4 of its standard errors (wrong 1 in 15,000)."""
    draw = np.random.default_rng(5)
    for count in (5, 12, 200):
        sets = 4_000
        drawn = np.exp(1 + 0.2 * draw.normal(size=(sets, count)))
        new = np.exp(1 + 0.2 * draw.normal(size=sets))
        beyond = np.mean([one > limit(its) for its, one in zip(drawn, new, strict=True)])
        assert abs(beyond - FALSE_ALARMS) < 4 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / sets)


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    detector, new = Detector.fit(features(50, 30)), features(9, 30, seed=1)
    detector.save(tmp_path / "one.safetensors")
    Detector.fit(features(50, 30)).save(tmp_path / "same.safetensors")
    assert (Detector.load(tmp_path / "one.safetensors").distance(new) == detector.distance(new)).all()
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": None},
        {"more": np.ones(2, np.float32)},
        {"axes": np.ones((3, 29), np.float32)},
        {"scale": np.zeros(30, np.float32)},
        {"noise": np.full(1, np.nan, np.float32)},
    ],
)
def test_a_file_that_is_no_detector_is_refused(tmp_path: Path, changes: dict[str, NDArray[np.float32] | None]) -> None:
    path = tmp_path / "detector.safetensors"
    Detector.fit(features(50, 30)).save(path)
    parts = load_file(path) | changes
    save_file({name: part for name, part in parts.items() if part is not None}, path)
    with pytest.raises(RadtransferError, match="not a detector of unfit images"):
        Detector.load(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(RadtransferError, match="not a detector of unfit images"):
        Detector.load(path)
    with pytest.raises(RadtransferError, match="no such file"):
        Detector.load(tmp_path / "absent")
