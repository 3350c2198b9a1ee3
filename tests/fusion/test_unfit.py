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


def features(count: int, columns: int, seed: int = 0, place: float = 0.0) -> list[Floats]:
    """Two networks' features that a few causes explain, up to noise; ``place`` turns the images elsewhere."""
    draw = np.random.default_rng(seed)
    fixed = np.random.default_rng(99).normal(size=(7, columns))
    values = fixed[5] + draw.normal(size=(count, 5)) @ fixed[:5] / 4 + 0.1 * draw.normal(size=(count, columns))
    values += place * fixed[6]
    return [np.asarray(10 * values[:, : columns // 2]), np.asarray(values[:, columns // 2 :])]


def test_it_is_the_distance_of_probabilistic_principal_components() -> None:
    """scikit-learn gives the likelihood; what it has beyond a constant is half the squared distance."""
    learnt, new = features(400, 60), features(50, 60, seed=1)
    detector = Detector.fit(learnt)
    units = [
        np.hstack([block / np.sqrt((block**2).sum(axis=1, keepdims=True)) for block in blocks])
        for blocks in (learnt, new)
    ]
    likelihood = PCA(COMPONENTS, svd_solver="full").fit(units[0]).score_samples(units[1])
    squared = (detector.distance(new) * detector.typical) ** 2
    assert squared - squared[0] == pytest.approx(-2 * (likelihood - likelihood[0]), rel=1e-3, abs=1e-2)
    assert np.median(detector.distance(learnt)) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_the_length_of_features_does_not_count(seed: int, scale: float) -> None:
    """Not of any network's, in training or after."""
    learnt, new = features(80, 20, seed), features(10, 20, seed + 1)
    longer = [new[0] * scale, new[1] * np.linspace(0.1, 3, 10)[:, None]]
    detector, unlike = Detector.fit(learnt), Detector.fit([learnt[0], learnt[1] * scale])
    assert detector.distance(longer) == pytest.approx(detector.distance(new), rel=1e-6)
    assert unlike.distance(new) == pytest.approx(detector.distance(new), rel=1e-4)


@pytest.mark.parametrize(("count", "columns"), [(300, 40), (30, 400), (600, 600), (3, 50), (2, 6)])
def test_images_from_elsewhere_are_farther_whatever_the_shape(count: int, columns: int) -> None:
    detector = Detector.fit(features(count, columns))
    like, unlike = features(200, columns, seed=1), features(200, columns, seed=2, place=3)
    apart = np.r_[detector.distance(like), detector.distance(unlike)]
    assert np.isfinite(apart).all()
    assert roc_auc_score(np.repeat([0, 1], 200), apart) > 0.95
    assert (Detector.fit(features(count, columns)).distance(like) == apart[:200]).all()  # nothing is drawn


def test_many_images_are_learnt_from_in_part_and_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, new = features(900, 40), features(250, 40, seed=1)
    whole = Detector.fit(learnt)
    monkeypatch.setattr("radtransfer.fusion.unfit.MOST", 300)
    parts = [[block[rows] for block in new] for rows in (slice(7), slice(7, None))]
    assert whole.distance(new) == pytest.approx(np.concatenate([whole.distance(part) for part in parts]))
    third = Detector.fit(learnt)
    assert not np.array_equal(third.mean, whole.mean)
    assert np.corrcoef(third.distance(new), whole.distance(new))[0, 1] > 0.9


def test_constant_columns_neither_break_it_nor_go_unseen() -> None:
    """Ten columns that are 0 in training; one image in which they are not."""
    learnt, new = ([*features(60, 30, seed), np.zeros((60, 10))] for seed in (0, 1))
    with_constants = [[blocks[0], np.hstack(blocks[1:])] for blocks in (learnt, new)]
    detector = Detector.fit(with_constants[0])
    found = detector.distance(with_constants[1])
    assert np.median(found) < 2
    lit = [with_constants[1][0], with_constants[1][1].copy()]
    lit[1][:, 15:] += new[1].mean()
    assert (detector.distance(lit) > 2 * found).all()


def test_features_that_are_the_same_for_all_images_call_none_unfit() -> None:
    """Nor features that are 0: no direction at all."""
    for value in (0.7, 0.0):
        detector = Detector.fit([np.full((20, 8), value)])
        found = detector.distance([np.full((5, 8), value) * (1 + 1e-7 * np.arange(8))])
        assert limit(found) >= 1 and (found < 1).all()


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
        {"variances": np.zeros(24, np.float32)},
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
    header = b'{"mean":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(RadtransferError, match="not a detector of unfit images"):
        Detector.load(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(RadtransferError, match="not a detector of unfit images"):
        Detector.load(path)
    with pytest.raises(RadtransferError, match="no such file"):
        Detector.load(tmp_path / "absent")
