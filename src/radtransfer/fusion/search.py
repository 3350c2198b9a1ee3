"""The search for settings: grid search by grouped cross-validation, with what settings share done once a fold.

It finds what scikit-learn's ``GridSearchCV`` finds over the same pipelines. Shared are, inside every fold:

- scaling and reduction, by all settings of all classifiers that are fed the same;
- the Gram matrix, by all settings of the linear SVM, which then never sees a column again;
- squared distances, by all settings of the RBF SVM, and one kernel by those of equal gamma;
- the nearest neighbours, by all k.

Every fit is one thread's, so results do not hang on how many run side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from radtransfer import limits
from radtransfer.fusion.classifiers import Fed, classifier
from radtransfer.fusion.grid import Settings
from radtransfer.progress import track

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]
Rows = NDArray[np.intp]
Folds = list[tuple[Rows, Rows]]
Task = TypeVar("Task")
Done = TypeVar("Done")

SMALL = 50
"""Groups of the rarer class below which the cross-validation is repeated."""

REPEATS = 3


@dataclass(frozen=True)
class Job:
    """A classifier whose settings are sought.

    Attributes:
        on: which columns it is fitted on.
        name: of the classifier.
        settings: what is tried, in this order; of equals the first is found.
    """

    on: str
    name: str
    settings: list[Settings]


@dataclass(frozen=True)
class Columns:
    """The columns of some of the features.

    Attributes:
        values: [N, D].
        widths: of the blocks in them.
    """

    values: Floats
    widths: tuple[int, ...]


def grouped_folds(labels: Labels, groups: NDArray[Any], folds: int, repeats: int, seed: int) -> Folds:
    """Stratified folds that keep groups together; each has both classes on both sides.

    Args:
        labels: [N].
        groups: [N].
        folds: asked for; where a class has fewer groups, or a fold would lack a class, there are fewer.
        repeats: each cuts anew; 0: :data:`REPEATS` where a class has fewer than :data:`SMALL` groups, else 1.
        seed: of the cuts.

    Returns:
        rows to fit on and rows held out, for every fold of every repeat; empty where there cannot be two folds.
    """
    rarest = min(len(set(groups[labels == label].tolist())) for label in (0, 1))
    repeats = repeats or (REPEATS if rarest < SMALL else 1)
    for count in range(min(folds, rarest), 1, -1):
        parts: Folds = []
        for repeat in range(repeats):
            splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed + repeat)
            parts += splitter.split(np.zeros(len(labels)), labels, groups)
        if all(len(set(labels[side].tolist())) == 2 for part in parts for side in part):
            return parts
    return []


def possible(settings: list[Settings], smallest_fit: int) -> list[Settings]:
    """Those of a classifier's settings that so many images allow: k nearest neighbours need k of them."""
    return [one for one in settings if one.get("n_neighbors", 1) <= smallest_fit] or [settings[0] | {"n_neighbors": 1}]


def limit(columns: Columns, smallest_fit: int) -> int:
    """Components at most: one less than images, and no more than columns."""
    return min(smallest_fit - 1, int(columns.values.shape[1]))


def find(
    jobs: Sequence[Job], columns: dict[str, Columns], labels: Labels, folds: Folds, seed: int, what: str
) -> list[tuple[Settings, float]]:
    """The settings of each job with the highest mean AUROC over the folds, and that AUROC.

    Args:
        jobs: what is sought.
        columns: of the training images, by :attr:`Job.on`.
        labels: [N] of the training images.
        folds: of :func:`grouped_folds`.
        seed: of principal components, forest, boosting and MLP.
        what: what is being done, for the progress shown.
    """
    smallest = min(len(fit) for fit, _ in folds)
    aurocs = [np.zeros((len(job.settings), len(folds))) for job in jobs]
    shared: dict[tuple[str, Fed], dict[int, list[int]]] = {}
    for number, job in enumerate(jobs):
        for place, settings in enumerate(job.settings):
            fed = Fed.of(settings, limit(columns[job.on], smallest))
            shared.setdefault((job.on, fed), {}).setdefault(number, []).append(place)

    def work(task: tuple[int, str, Fed]) -> None:
        fold, on, fed = task
        fit, held = folds[fold]
        given = columns[on]
        steps = Pipeline(fed.steps(given.widths, seed))
        inside = steps.fit_transform(given.values[fit], labels[fit])
        outside = steps.transform(given.values[held])
        for number, places in shared[on, fed].items():
            tried = [jobs[number].settings[place] for place in places]
            scores = _held_out(jobs[number].name, tried, inside, labels[fit], outside, seed)
            for place, score in zip(places, scores, strict=True):
                aurocs[number][place, fold] = roc_auc_score(labels[held], score)

    tasks = [(fold, on, fed) for on, fed in shared for fold in range(len(folds))]
    side_by_side(work, tasks, what)
    found = []
    for job, values in zip(jobs, aurocs, strict=True):
        means = np.average(values, axis=1)
        best = int(np.argmax(means))
        found.append((job.settings[best], float(means[best])))
    return found


def fit(
    chosen: Sequence[tuple[str, str, Settings]],
    columns: dict[str, Columns],
    rows: Rows,
    labels: Labels,
    smallest_fit: int,
    seed: int,
    what: str,
) -> list[Pipeline]:
    """Fit classifiers on all given rows, those that are fed the same on one fit of scaling and reduction.

    Args:
        chosen: columns, name and settings of each.
        columns: of all images.
        rows: to fit on.
        labels: [N] of all images.
        smallest_fit: as in the search, so that there are as many components.
        seed, what: as of :func:`find`.
    """
    shared: dict[tuple[str, Fed], list[int]] = {}
    for number, (on, _, settings) in enumerate(chosen):
        shared.setdefault((on, Fed.of(settings, limit(columns[on], smallest_fit))), []).append(number)
    found: dict[int, Pipeline] = {}

    def work(key: tuple[str, Fed]) -> None:
        on, fed = key
        steps = Pipeline(fed.steps(columns[on].widths, seed))
        inside = steps.fit_transform(columns[on].values[rows], labels[rows])
        for number in shared[key]:
            _, name, settings = chosen[number]
            found[number] = Pipeline(
                [*steps.steps, ("classifier", classifier(name, settings, seed).fit(inside, labels[rows]))]
            )

    side_by_side(work, list(shared), what)
    return [found[number] for number in range(len(chosen))]


def side_by_side(work: Callable[[Task], Done], tasks: Sequence[Task], what: str) -> list[Done]:
    """Do all tasks, as many at a time as the container has CPUs, each with one thread."""
    held: list[Any] = []
    with (
        _quiet(),
        threadpool_limits(1),
        ThreadPoolExecutor(limits.cpus(), initializer=lambda: held.append(threadpool_limits(1))) as pool,
    ):  # OpenMP counts its threads for each thread that calls it
        return list(track(pool.map(work, tasks), what, len(tasks)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of what is meant: constant columns are ranked last, the MLP stops after so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="(?s)Features? .* (is|are) constant|Bins whose width")
        warnings.filterwarnings("ignore", message="invalid value|divide by zero")
        yield


def _held_out(
    name: str, tried: Sequence[Settings], inside: Floats, labels: Labels, outside: Floats, seed: int
) -> Iterator[Floats]:
    """Scores of the images held out [M] for each setting, from reduced features [N, D] and [M, D]."""
    match name:
        case "svm_linear":
            gram, across = inside @ inside.T, outside @ inside.T
            for settings in tried:
                yield _margin(settings["C"], gram, across, labels)
        case "svm_rbf":
            near, far = euclidean_distances(inside, squared=True), euclidean_distances(outside, inside, squared=True)
            spread = float(inside.var())
            automatic = {"auto": 1 / inside.shape[1], "scale": 1 / (inside.shape[1] * spread) if spread else 1.0}
            wanted = [settings["gamma"] for settings in tried]
            gammas = [automatic[gamma] if isinstance(gamma, str) else float(gamma) for gamma in wanted]
            scores: dict[int, Floats] = {}
            for gamma in dict.fromkeys(gammas):
                gram, across = np.exp(-gamma * near), np.exp(-gamma * far)
                for place, settings in enumerate(tried):
                    if gammas[place] == gamma:
                        scores[place] = _margin(settings["C"], gram, across, labels)
            yield from (scores[place] for place in range(len(tried)))
        case "knn":
            most = max(settings["n_neighbors"] for settings in tried)
            distances, which = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(inside).kneighbors(outside)
            for settings in tried:
                yield _votes(distances[:, : settings["n_neighbors"]], labels[which[:, : settings["n_neighbors"]]])
        case _:
            for settings in tried:
                fitted = classifier(name, settings, seed).fit(inside, labels)
                linear = hasattr(fitted, "decision_function")
                yield fitted.decision_function(outside) if linear else fitted.predict_proba(outside)[:, 1]


def _margin(C: float, gram: Floats, across: Floats, labels: Labels) -> Floats:
    """Margins [M] of a support vector machine from its kernel inside [N, N] and to the images held out [M, N]."""
    machine = SVC(kernel="precomputed", C=C, class_weight="balanced").fit(gram, labels)
    return np.asarray(across[:, machine.support_] @ machine.dual_coef_[0] + machine.intercept_[0], np.float64)


def _votes(distances: Floats, labels: NDArray[np.int8]) -> Floats:
    """Share of votes [M] for class 1 of the nearest [M, k], weighted by 1 / distance; one at no distance decides."""
    with np.errstate(divide="ignore"):
        weights = 1 / distances
    endless = np.isinf(weights)
    decided = endless.any(axis=1)
    weights[decided] = endless[decided]
    return np.asarray((weights * labels).sum(axis=1) / weights.sum(axis=1), np.float64)
