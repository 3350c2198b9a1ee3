"""Classifiers on fused and single-network features: tuned on train, calibrated and chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import parallel_config
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.fusion import FUSED, HEAD
from radtransfer.fusion.scoring import (
    Floats,
    calibrate,
    file_name,
    fit_calibration,
    raw_score,
    save_classifier,
    youden_threshold,
)
from radtransfer.progress import track

SEARCH: dict[str, dict[str, list[Any]]] = {
    "logistic_regression": {"C": [1e-4, 1e-3, 1e-2, 1e-1]},
    "svm_linear": {"C": [1e-5, 1e-4, 1e-3, 1e-2]},
    "svm_rbf": {"C": [0.3, 1.0, 3.0], "gamma": ["scale", "auto"]},
    "knn": {"n_neighbors": [31, 15, 7, 3]},
    "random_forest": {"min_samples_leaf": [5, 1]},
    "gradient_boosting": {"max_leaf_nodes": [4, 8], "learning_rate": [0.05, 0.1]},
}
"""What is tried for each classifier; the tamest first, since of equal cross-validation scores the first is taken."""

COMPONENTS = 64
"""Principal components fed to the RBF SVM, k-NN and gradient boosting."""

TREES = 300
ROUNDS = 60
BINS = 64
"""Histogram bins of gradient boosting for each component; its time grows with them, and 255 see no more here."""


def classify(*, fused: Path, cv_folds: int, seed: int, out: Path) -> None:
    """Fit, calibrate and choose classifiers, and write **classifiers**.

    Candidates, in this order (ties of the choice go to the earlier, that is the simpler one): every network's own
    head, a logistic regression on every single block, the mean of all networks' heads (late fusion), and the six
    classifiers of :data:`SEARCH` on the fused features (early fusion). The classifiers are pipelines of
    standardisation, principal components where they pay, and the classifier, so that everything learned stays inside
    the fold.

    1. Hyper-parameters: stratified cross-validation by group on the **training** split, by AUROC (``cv_auroc``). The
       features of training images come from networks that were fine-tuned on these very images, so ``cv_auroc`` is
       optimistic: it ranks settings of one classifier and is not comparable to anything else.
    2. Calibration (Platt) and threshold (Youden): **validation** split.
    3. ``choice``: by AUROC on the **validation** split (``validation_auroc``), which neither the networks' weights
       nor the classifiers were fitted on. It is still the best of several and served early stopping, so it is
       optimistic too; the test split gives the fair figure.

    4. Where the networks were refitted, so are the classifiers, with the settings found in step 1, on train and
       validation images and the features of the refitted networks. These are the ones that are kept and that score
       the test images; choice, calibration and threshold stay those of the first fit. A head is no classifier that is
       fitted again: its calibration is carried over (:meth:`~radtransfer.fusion.scoring.Calibration.carried`).

    ``scores.parquet`` has the calibrated scores of all images: where refitted, those of train and validation images
    are of the first fit. Labels of test images are not there to be read.

    Args:
        fused: fused features of one transfer-learning source.
        cv_folds: folds asked for; fewer are used if a class has fewer groups (``content.cv.folds_used``).
        seed: seed of folds, principal components, forests and boosting; the one the networks were trained with.
        out: folder to write.

    Raises:
        RadtransferError: a split lacks a class, labels are where none may be, or the seed is another one.
    """
    source = artifacts.read(fused, "fused")
    about = source.content
    if about["seed"] != seed:
        raise RadtransferError(f"{fused}: was made with seed {about['seed']}, classify got {seed}; a run has one seed")
    loaded = [_Columns.load(fused, fit, about) for fit in artifacts.fits(about)]
    final, first = loaded[0], loaded[-1]
    index = pd.read_parquet(fused / "index.parquet")
    rows, labels = _labelled_rows(fused, index)
    train, validation = rows["train"], rows["validation"]
    y_train, y_validation = labels[train], labels[validation]
    fitted, tested = np.union1d(train, validation), (index["split"] == "test").to_numpy()
    folds = _folds(fused, y_train, index["group_id"].to_numpy()[train], cv_folds, seed)
    smallest_fit = min(len(fit) for fit, _ in folds)

    backbones = [block["backbone"] for block in about["blocks"]]
    jobs: list[tuple[str, str]] = [(backbone, HEAD) for backbone in backbones]
    jobs += [(backbone, "logistic_regression") for backbone in backbones]
    jobs += [(FUSED, name) for name in (HEAD, *SEARCH)]
    candidates: list[dict[str, Any]] = []
    scores = index[["image_id", "split", "group_id"]].copy()
    settings = {"cv_folds": cv_folds, "seed": seed}
    with (
        artifacts.writing(out, "classifiers", step="classify", settings=settings, inputs={"fused": source}) as (
            folder,
            content,
        ),
        threadpool_limits(1),
        parallel_config("loky", inner_max_num_threads=1),  # as many processes as the container has CPUs
    ):
        for on, name in track(jobs, f"classify {about['tl_source']}", len(jobs)):
            file: str | None = None
            params: dict[str, Any] = {}
            cv_auroc: float | None = None
            if name == HEAD:
                raw, final_raw = first.logit(on), final.logit(on)
            else:
                matrix = first.features(on)
                search = GridSearchCV(
                    _pipeline(name, min(COMPONENTS, smallest_fit - 1, matrix.shape[1]), seed),
                    _grid(name, smallest_fit),
                    scoring="roc_auc",
                    cv=folds,
                    error_score="raise",
                    n_jobs=-1,
                ).fit(matrix[train], y_train)
                params = {key.removeprefix("classifier__"): value for key, value in search.best_params_.items()}
                cv_auroc = float(search.best_score_)
                file = f"{file_name(on)}--{name}.skops"
                estimator = search.best_estimator_
                raw = final_raw = raw_score(estimator, matrix)
                if about["refit"]:
                    matrix = final.features(on)
                    estimator = clone(estimator).fit(matrix[fitted], labels[fitted])
                    final_raw = raw_score(estimator, matrix)
                save_classifier(estimator, folder / file)
            calibration = fit_calibration(raw[validation], y_validation)
            probability = calibrate(raw, calibration.slope, calibration.intercept)
            if name == HEAD and about["refit"]:
                calibration = calibration.carried(raw[train], final_raw[train])
            scores[f"{on}/{name}"] = np.where(
                tested, calibrate(final_raw, calibration.slope, calibration.intercept), probability
            )
            candidates.append(
                {
                    "id": f"{on}/{name}",
                    "features": on,
                    "classifier": name,
                    "params": params,
                    "cv_auroc": cv_auroc,
                    "validation_auroc": float(roc_auc_score(y_validation, probability[validation])),
                    "calibration": {"slope": calibration.slope, "intercept": calibration.intercept},
                    "threshold": youden_threshold(probability[validation], y_validation),
                    "file": file,
                }
            )
        scores.to_parquet(folder / "scores.parquet", index=False)
        content.update(
            tl_source=about["tl_source"],
            seed=seed,
            store_digest=about["store_digest"],
            fused_digest=source.digest,
            blocks=about["blocks"],
            refit=about["refit"],
            cv={"folds_asked": cv_folds, "folds_used": len(folds)},
            candidates=candidates,
            choice={
                "fused": _best([c for c in candidates if c["features"] == FUSED]),
                "single": _best([c for c in candidates if c["classifier"] == HEAD and c["features"] != FUSED]),
                "overall": _best(candidates),
            },
        )


@dataclass(frozen=True)
class _Columns:
    """Fused features [N, sum of D], the networks' logits [N, B], and which columns are whose."""

    fused: Floats
    logits: Floats
    slices: dict[str, slice]

    @classmethod
    def load(cls, folder: Path, fit: str, about: dict[str, Any]) -> _Columns:
        fused, logits = (
            np.load(folder / f"{fit}{name}.npy", allow_pickle=False).astype(np.float64) for name in ("fused", "logits")
        )
        return cls(fused, logits, {one["backbone"]: slice(one["start"], one["stop"]) for one in about["blocks"]})

    def features(self, on: str) -> Floats:
        """The columns of a backbone, or all."""
        return self.fused if on == FUSED else self.fused[:, self.slices[on]]

    def logit(self, on: str) -> Floats:
        """[N] of a network's own head, or the mean of all heads."""
        return self.logits.mean(axis=1) if on == FUSED else self.logits[:, list(self.slices).index(on)]


def _best(candidates: list[dict[str, Any]]) -> str:
    """Id of the candidate with the highest validation AUROC, the earlier one of equals."""
    return str(max(candidates, key=lambda candidate: candidate["validation_auroc"])["id"])


def _labelled_rows(fused: Path, index: pd.DataFrame) -> tuple[dict[str, NDArray[np.intp]], NDArray[np.int8]]:
    """Row numbers of the train and validation splits, and labels [N] (-1 where there is none)."""
    labels = index["label"].fillna(-1).to_numpy(np.int8)
    split = index["split"].to_numpy()
    if (labels[split == "test"] != -1).any():
        raise RadtransferError(
            f"{fused / 'index.parquet'}: test images carry labels, which nothing before evaluate may see; run extract"
        )
    rows = {name: np.flatnonzero(split == name) for name in ("train", "validation")}
    for name, positions in rows.items():
        found = {label: int((labels[positions] == label).sum()) for label in (0, 1)}
        if not all(found.values()):
            raise RadtransferError(
                f"{fused / 'index.parquet'}: split {name!r} has {found[1]} positive and {found[0]} negative images; "
                "both classes are needed, use more images"
            )
    return rows, labels


def _folds(
    fused: Path, labels: NDArray[np.int8], groups: NDArray[Any], folds: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Stratified folds that keep groups together; each has both classes on both sides."""
    usable = min([folds] + [len(set(groups[labels == label].tolist())) for label in (0, 1)])
    for count in range(usable, 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        parts = list(splitter.split(np.zeros(len(labels)), labels, groups))
        if all(len(set(labels[side].tolist())) == 2 for part in parts for side in part):
            return parts
    raise RadtransferError(
        f"{fused}: the training images cannot be cross-validated by group: too few groups hold a class; use more images"
    )


def _grid(name: str, smallest_fit: int) -> dict[str, list[Any]]:
    """What of :data:`SEARCH` can be tried where the smallest fit has so many images (k-NN needs k of them)."""
    grid = {f"classifier__{key}": values for key, values in SEARCH[name].items()}
    if name == "knn":
        grid["classifier__n_neighbors"] = [k for k in SEARCH[name]["n_neighbors"] if k <= smallest_fit] or [1]
    return grid


def _pipeline(name: str, components: int, seed: int) -> Pipeline:
    """The unfitted pipeline of a classifier. Linear models and the forest take all columns."""
    pca = ("pca", PCA(components, svd_solver="randomized", random_state=seed))
    scale = ("scale", StandardScaler())
    classifier: Any
    match name:
        case "logistic_regression":
            classifier, steps = LogisticRegression(class_weight="balanced", max_iter=2000), [scale]
        case "svm_linear":
            classifier, steps = SVC(kernel="linear", class_weight="balanced"), [scale]
        case "svm_rbf":
            classifier, steps = SVC(kernel="rbf", class_weight="balanced"), [scale, pca]
        case "knn":
            classifier, steps = KNeighborsClassifier(weights="distance", algorithm="brute"), [scale, pca]
        case "random_forest":
            classifier = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed)
            steps = [scale]
        case _:
            classifier = HistGradientBoostingClassifier(
                max_iter=ROUNDS, max_bins=BINS, class_weight="balanced", early_stopping=False, random_state=seed
            )
            steps = [scale, pca]
    return Pipeline([*steps, ("classifier", classifier)])
