"""The search: what GridSearchCV finds, with what settings share done once; its table; and odd input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from radtransfer.config import RunConfig
from radtransfer.configfile import load
from radtransfer.errors import RadtransferError
from radtransfer.fusion import search
from radtransfer.fusion.blocks import BlockScaler
from radtransfer.fusion.classifiers import LinearSVM, classifier, pipeline
from radtransfer.fusion.grid import CLASSIFIERS, read_grid, read_names, space
from radtransfer.fusion.scoring import load_classifier, raw_score, save_classifier
from radtransfer.fusion.search import Columns, Folds, Job, find, fit, grouped_folds

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
WIDTHS = (10, 5, 7)
QUICK = {"random_forest.components": 6, "random_forest.min_samples_leaf": [5, 2]}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers that take little time; nothing here is about how good they are."""
    for name, value in (("TREES", 8), ("ROUNDS", 6), ("ITERATIONS", 25)):
        monkeypatch.setattr(f"radtransfer.fusion.classifiers.{name}", value)


def made(seed: int, count: int = 90, shift: float = 0.7) -> tuple[Columns, NDArray[np.int8], Folds]:
    """Columns of three blocks, labels that they tell a little about, and grouped folds."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(np.int8)
    values = rng.normal(size=(count, sum(WIDTHS))) * rng.uniform(0.1, 10, sum(WIDTHS))
    values[:, :4] += shift * values[:, :4].std(axis=0) * labels[:, None]
    return Columns(values, WIDTHS), labels, grouped_folds(labels, np.arange(count) // 2, 3, 1, seed)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_choice_is_that_of_grid_search_over_plain_pipelines(name: str) -> None:
    columns, labels, folds = made(3)
    smallest = min(len(inside) for inside, _ in folds)
    tried = space(name, QUICK | {f"{name}.reduction": ["none", "pca", "anova"], f"{name}.components": [4, 500]}, 99, 0)
    ((best, auroc),) = find([Job("fused", name, tried)], {"fused": columns}, labels, folds, 0, "test")
    grid = []
    for one in tried:
        steps = dict(pipeline(name, one, WIDTHS, min(smallest - 1, sum(WIDTHS)), 0).steps)
        if isinstance(steps["classifier"], LinearSVM):
            steps["classifier"] = SVC(kernel="linear", C=one["C"], class_weight="balanced")
        reduction = steps.get("pca") or steps.get("select") or "passthrough"
        grid.append({"scale": [steps["scale"]], "reduce": [reduction], "classifier": [steps["classifier"]]})
    plain = GridSearchCV(
        Pipeline([(step, "passthrough") for step in grid[0]]), grid, scoring="roc_auc", cv=folds, refit=False
    ).fit(columns.values, labels)
    assert tried[plain.best_index_] == best
    assert auroc == pytest.approx(plain.best_score_, abs=1e-9)


def test_many_at_once_are_each_one_alone_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, labels, folds = made(4)
    given = {"fused": columns, "b": Columns(columns.values[:, 10:15], (5,))}
    jobs = [Job("fused", name, space(name, QUICK, 99, 0)) for name in CLASSIFIERS]
    jobs.append(Job("b", "logistic_regression", space("logistic_regression", {}, 99, 0)))
    together = find(jobs, given, labels, folds, 0, "test")
    monkeypatch.setattr(search.limits, "cpus", lambda: 5)
    assert find(jobs, given, labels, folds, 0, "test") == together
    for job, found in zip(jobs, together, strict=True):
        assert find([job], given, labels, folds, 0, "test") == [found]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    groups=st.integers(2, 20),
    folds=st.integers(2, 6),
    repeats=st.integers(0, 3),
)
def test_folds_keep_groups_together_and_hold_out_every_image_once_a_repeat(
    seed: int, groups: int, folds: int, repeats: int
) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, 60)
    labels = rng.integers(0, 2, 60).astype(np.int8)
    parts = grouped_folds(labels, group, folds, repeats, seed)
    for inside, held in parts:
        assert not set(group[inside]) & set(group[held])
        assert set(labels[inside]) == set(labels[held]) == {0, 1}
    times = np.bincount(np.concatenate([held for _, held in parts]), minlength=60) if parts else np.zeros(60)
    assert len(set(times.tolist())) == 1 and times[0] in ({repeats or search.REPEATS} if parts else {0})


def test_small_sets_are_cut_three_times_and_large_ones_once() -> None:
    for each, repeats in ((search.SMALL - 1, 3), (search.SMALL, 1)):
        labels = np.repeat([0, 1], each).astype(np.int8)
        assert len(grouped_folds(labels, np.arange(2 * each), 4, 0, 0)) == 4 * repeats


def test_too_few_groups_give_fewer_folds_and_a_class_in_one_group_none() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.int8)
    assert len(grouped_folds(labels, np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7]), 5, 1, 0)) == 2
    assert grouped_folds(labels, np.array([0, 0, 0, 0, 2, 3, 4, 5, 6, 7]), 5, 1, 0) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_blocks_weigh_what_they_are_said_to(seed: int, scale: float) -> None:
    columns, labels, _ = made(seed)
    parts = [slice(0, 10), slice(10, 15), slice(15, 22)]
    values = columns.values * np.repeat([1, scale, 1], WIDTHS)
    plain = StandardScaler().fit_transform(values)
    for weights in ("equal", "columns", "signal"):
        found = BlockScaler(WIDTHS, weights).fit(values, labels).transform(values)  # type: ignore[arg-type]
        inertia = np.array([found[:, part].var(axis=0).sum() for part in parts])
        assert inertia.sum() == pytest.approx(sum(WIDTHS))
        if weights == "equal":
            np.testing.assert_allclose(inertia, inertia[0])
        elif weights == "columns":
            np.testing.assert_array_equal(found, plain)
        else:
            assert inertia[0] > inertia[1:].max()  # the only one with a signal
            assert (inertia >= inertia.max() / 100 * (1 - 1e-9)).all()


def test_equal_blocks_are_standardised_columns() -> None:
    values, labels = np.random.default_rng(0).normal(size=(30, 6)), np.arange(30) % 2
    found = BlockScaler((3, 3)).fit(values, labels).transform(values)
    np.testing.assert_array_equal(found, StandardScaler().fit_transform(values))
    alone = BlockScaler((6,), "signal").fit(values, labels).transform(values)
    np.testing.assert_array_equal(alone, found)


def test_the_linear_machine_is_that_of_scikit_learn() -> None:
    columns, labels, _ = made(5)
    values = StandardScaler().fit_transform(columns.values)
    ours, plain = LinearSVM(0.1).fit(values, labels), SVC(kernel="linear", C=0.1, class_weight="balanced")
    plain.fit(values, labels)
    np.testing.assert_allclose(ours.decision_function(values), plain.decision_function(values), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(values), plain.predict(values))


def test_boosting_is_that_of_scikit_learn_where_there_are_few_values() -> None:
    """Ten values a column, as many times each: both bin them alike. Otherwise they cut a little beside each other."""
    rng = np.random.default_rng(4)
    values = np.stack([rng.permutation(np.arange(200) % 10) for _ in range(6)], axis=1) / 7
    labels = (values[:, 0] + rng.normal(size=200) > 1).astype(np.int8)
    ours = classifier("gradient_boosting", {"max_leaf_nodes": 4, "learning_rate": 0.1}, 0)
    bare = clone(ours["boosting"]).fit(values, labels)
    np.testing.assert_allclose(ours.fit(values, labels).decision_function(values), bare.decision_function(values))


def test_every_classifier_comes_back_from_its_file(tmp_path: Path) -> None:
    columns, labels, _ = made(6)
    tried = {"weights": ["signal"], "reduction": ["none", "pca", "anova"], "components": [5]}
    chosen = [
        ("fused", name, one)
        for name in CLASSIFIERS
        for one in space(name, {f"{name}.{key}": value for key, value in tried.items()}, 99, 0)[:3]
    ]
    for number, fitted in enumerate(fit(chosen, {"fused": columns}, np.arange(90), labels, 60, 0, "test")):
        save_classifier(fitted, tmp_path / f"{number}.skops")
        back = load_classifier(tmp_path / f"{number}.skops")
        np.testing.assert_array_equal(raw_score(back, columns.values), raw_score(fitted, columns.values))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("case", ["constant", "separable", "duplicates"])
def test_degenerate_features_give_finite_scores(name: str, case: str) -> None:
    columns, labels, folds = made(7)
    values = {
        "constant": np.full_like(columns.values, 3.0),
        "separable": columns.values + 1000.0 * labels[:, None],
        "duplicates": np.repeat(columns.values[::3], 3, axis=0),
    }[case]
    given = {"fused": Columns(values, WIDTHS)}
    tried = space(name, QUICK, 99, 0)
    ((best, auroc),) = find([Job("fused", name, tried)], given, labels, folds, 0, "test")
    (fitted,) = fit([("fused", name, best)], given, np.arange(90), labels, 60, 0, "test")
    score = raw_score(fitted, values)
    assert np.isfinite(score).all()
    if case == "constant":
        assert auroc == pytest.approx(0.5, abs=0.1) and np.ptp(score) <= 1e-9  # 0.5 but for rounding
    if case == "separable":
        assert auroc > 0.99 and score[labels == 1].min() > score[labels == 0].max()


def test_a_larger_grid_is_drawn_from_and_keeps_the_tamest() -> None:
    grid = {"svm_rbf.C": [1, 2, 3, 4, 5]}
    whole = space("svm_rbf", grid, 99, 0)
    drawn = space("svm_rbf", grid, 4, 0)
    assert len(whole) == 10 and len(drawn) == 4 and drawn[0] == whole[0]
    assert all(one in whole for one in drawn) and drawn == space("svm_rbf", grid, 4, 0)
    assert any(space("svm_rbf", grid, 4, seed) != drawn for seed in range(1, 9))
    assert space("svm_rbf", grid, 1, 0) == whole[:1]


def test_the_defaults_are_values_that_may_be_given() -> None:
    for name, known in CLASSIFIERS.items():
        given = {f"{name}.{key}": list(setting.tried) for key, setting in known.items()}
        assert read_grid(given) == given
        assert len(space(name, {}, 16, 0)) == np.prod([len(setting.tried) for setting in known.values()])


def test_numbers_come_back_from_kfp_as_what_they_are() -> None:
    found = read_grid({"knn.n_neighbors": [3.0, 3, 5.0], "svm_rbf.gamma": ["scale", 1], "lda.shrinkage": 0})
    assert found == {"knn.n_neighbors": [3, 5], "svm_rbf.gamma": ["scale", 1.0], "lda.shrinkage": [0.0]}
    kinds = [type(value) for value in itertools.chain(*found.values())]
    assert kinds == [int, int, str, float, float]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"svm.C": [1]}, "unknown classifier 'svm'; did you mean svm_"),
        ({"svm_rbf.c": [1]}, "has no setting 'c'; known: C, components"),
        ({"svm_rbf.gama": [1]}, "did you mean gamma"),
        ({"knn": [1]}, "has no setting ''"),
        ({"svm_rbf.C": [0]}, "0 is no value for it; expected a number from"),
        ({"svm_rbf.C": ["scale"]}, "'scale' is no value"),
        ({"knn.n_neighbors": [2.5]}, "expected a whole number from 1 to 1000"),
        ({"knn.n_neighbors": [True]}, "True is no value"),
        ({"knn.n_neighbors": [float("nan")]}, "nan is no value"),
        ({"mlp.hidden": [float("inf")]}, "inf is no value"),
        ({"lda.weights": ["equl"]}, "expected equal or columns or signal"),
        ({"lda.shrinkage": []}, "name at least one"),
    ],
)
def test_what_is_no_grid_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(RadtransferError, match=message.replace("(", r"\(")):
        read_grid(grid)


def test_names_are_checked_and_put_in_the_order_of_the_table() -> None:
    assert read_names(["knn", "lda"]) == ["lda", "knn"]
    for names, message in ((["svmrbf"], "did you mean svm_rbf"), (["lda", "lda"], "each once"), ([], "at least one")):
        with pytest.raises(RadtransferError, match=message):
            read_names(names)


def test_a_configuration_refuses_them_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    given = ["name: a", "target_layout: mura", "target_path: a", "target_part: hand", "source_layout: mura"]
    path.write_text("\n".join([*given, "source_path: b"]))
    config: RunConfig = load(path, ["classifiers=[knn, lda]", "classifier_grid={knn.n_neighbors: [3.0]}"])
    assert config.classifiers == ["lda", "knn"] and config.classifier_grid == {"knn.n_neighbors": [3]}
    for override in ("classifiers=[kn]", "classifier_grid={kn.n_neighbors: [3]}"):
        with pytest.raises(RadtransferError, match="did you mean knn"):
            load(path, [override])
