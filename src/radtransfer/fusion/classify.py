"""Classifiers on fused and single-network features: tuned on train, calibrated and chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.fusion import FUSED, HEAD, STACKING
from radtransfer.fusion.calibration import Method, check_method
from radtransfer.fusion.candidates import Features, Material, Scored, fitted, heads, judge, stacked
from radtransfer.fusion.grid import CLASSIFIERS, Settings, read_grid, read_names, space
from radtransfer.fusion.scoring import Floats, file_name, save_classifier
from radtransfer.fusion.search import Columns, Folds, Job, find, grouped_folds, possible
from radtransfer.fusion.threshold import Rule
from radtransfer.fusion.unfit import Detector, limit


def classify(
    *,
    fused: Path,
    cv_folds: int,
    seed: int,
    out: Path,
    cv_repeats: int = 0,
    classifiers: Sequence[str] = tuple(CLASSIFIERS),
    classifier_grid: Mapping[str, Any] | None = None,
    classifier_budget: int = 16,
    calibration: Method = "platt",
    threshold_rule: str = "youden",
) -> None:
    """Fit, calibrate and choose classifiers, and write **classifiers**.

    Candidates, in this order (ties of the choice go to the earlier, that is the simpler one): every network's own
    head, a logistic regression on every single block, the mean of all networks' heads and a stacker on them (late
    fusion), and the classifiers asked for on the fused features (early fusion). The classifiers are pipelines of
    block scaling, a reduction where it pays, and the estimator, so that everything learned stays inside the fold.

    1. Settings: stratified cross-validation by group on the **training** split, by AUROC (``cv_auroc``); see
       :mod:`radtransfer.fusion.search`. The features of training images come from networks that were fine-tuned on
       these very images, so ``cv_auroc`` is optimistic: it ranks settings of one classifier and is not comparable to
       anything else.
    2. Calibration (:func:`radtransfer.fusion.calibration.fit_calibration`) and threshold
       (:class:`radtransfer.fusion.threshold.Rule`): **validation** split.
    3. ``choice``: by AUROC on the **validation** split (``validation_auroc``), which neither the networks' weights
       nor the classifiers were fitted on; the stacker, which was, is judged there by out-of-fold scores
       (:mod:`radtransfer.fusion.stacking`). It is still the best of several and served early stopping, so it is
       optimistic too; the test split gives the fair figure.
    4. Where the networks were refitted, so are the classifiers, with the settings found in step 1, on train and
       validation images and the features of the refitted networks. These are the ones that are kept and that score
       the test images; choice, calibration and threshold stay those of the first fit. Heads and stacker are carried
       over to the refitted networks' logits.
    5. ``ablation``: the chosen fused candidate without each backbone in turn, by the same steps and settings; its
       scores are the columns ``without/BACKBONE`` of ``scores.parquet``. They are no candidates.
    6. ``unfit``: for every backbone and for the fused features, a detector of images unlike the training images
       (:mod:`radtransfer.fusion.unfit`), of the features that predict. Its limit is of the **validation** split, by the
       first fit. ``distances.parquet`` has the distances of all images, by the features that predict.

    ``scores.parquet`` has the calibrated scores of all images: where refitted, those of train and validation images
    are of the first fit. Labels of test images are not there to be read.

    Args:
        fused: fused features of one transfer-learning source.
        cv_folds: folds asked for; fewer are used if a class has fewer groups (``content.cv.folds_used``).
        seed: seed of folds, principal components, forests and boosting; the one the networks were trained with.
        out: folder to write.
        cv_repeats: how often the training split is cut into folds; 0: as its size asks for
            (:func:`radtransfer.fusion.search.grouped_folds`).
        classifiers: which of :data:`radtransfer.fusion.grid.CLASSIFIERS` are tried; single blocks get a logistic
            regression where it is among them.
        classifier_grid: values tried in place of the table's, ``{"svm_rbf.C": [1, 10]}``.
        classifier_budget: combinations of values tried for each classifier at most.
        calibration: how scores become probabilities.
        threshold_rule: where they become calls, see :meth:`radtransfer.fusion.threshold.Rule.read`.

    Raises:
        RadtransferError: an unknown classifier, setting, calibration or rule, a split that lacks a class, labels where
            none may be, features that are not finite, training images that cannot be cross-validated, or another seed.
    """
    names, grid = read_names(classifiers), read_grid(classifier_grid or {})
    check_method(calibration)
    rule = Rule.read(threshold_rule)
    source = artifacts.read(fused, "fused")
    about = source.content
    if about["seed"] != seed:
        raise RadtransferError(f"{fused}: was made with seed {about['seed']}, classify got {seed}; a run has one seed")
    index = pd.read_parquet(fused / "index.parquet")
    rows, labels = _labelled_rows(fused, index)
    train, groups = rows["train"], index["group_id"].to_numpy()
    folds = grouped_folds(labels[train], groups[train], cv_folds, cv_repeats, seed)
    if not folds:
        raise RadtransferError(
            f"{fused}: the training images cannot be cross-validated by group: too few groups hold a class; "
            "use more images"
        )
    repeats = sum(0 in held for _, held in folds)
    loaded = [Features.load(fused, fit, about["blocks"]) for fit in artifacts.fits(about)]
    material = Material(
        first=loaded[-1],
        final=loaded[0],
        refit=about["refit"],
        train=train,
        validation=rows["validation"],
        labels=labels,
        groups=groups,
        smallest_fit=min(len(fit) for fit, _ in folds),
        cv_folds=cv_folds,
        seed=seed,
        calibration=calibration,
        rule=rule,
        what=f"classify {about['tl_source']}",
    )
    backbones = list(material.first.slices)
    tried = {name: space(name, grid, classifier_budget, seed) for name in names}
    settings = {"cv_folds": cv_folds, "cv_repeats": cv_repeats, "seed": seed, "classifiers": names}
    settings |= {"classifier_grid": grid, "classifier_budget": classifier_budget}
    settings |= {"calibration": calibration, "threshold_rule": threshold_rule}
    inputs = {"fused": source}
    with (
        artifacts.writing(out, "classifiers", step="classify", settings=settings, inputs=inputs) as (folder, content),
        threadpool_limits(1),
    ):
        singles = [(on, "logistic_regression") for on in backbones if "logistic_regression" in names]
        jobs = [*singles, *((FUSED, name) for name in names)]
        found = dict(zip(jobs, _searched(jobs, tried, material, folds), strict=True))
        scored = {(on, HEAD): heads(material, on) for on in (*backbones, FUSED)}
        scored |= {(FUSED, STACKING): late} if (late := stacked(material)) else {}
        chosen = [(on, name, best) for (on, name), (best, _) in found.items()]
        scored |= dict(zip(jobs, fitted([material] * len(jobs), chosen), strict=True))

        candidates: list[dict[str, Any]] = []
        scores = index[["image_id", "split", "group_id"]].copy()
        for on, name in _ordered(scored, backbones):
            one = scored[on, name]
            judged = judge(material, one)
            params, cv_auroc = found.get((on, name), ({}, None))
            if name == STACKING and one.estimator is not None:
                params = dict(zip(backbones, one.estimator.coef_[0].tolist(), strict=True))
            file = f"{file_name(on)}--{name}.skops" if one.estimator is not None else None
            if file is not None:
                save_classifier(one.estimator, folder / file)
            scores[f"{on}/{name}"] = judged.probability
            candidates.append(
                {
                    "id": f"{on}/{name}",
                    "features": on,
                    "classifier": name,
                    "params": params,
                    "cv_auroc": cv_auroc,
                    "validation_auroc": judged.validation_auroc,
                    "calibration": judged.calibration.content,
                    "threshold": judged.threshold,
                    "file": file,
                }
            )
        best = _best([c for c in candidates if c["features"] == FUSED])
        ablation = _ablation(best, material)
        for entry, column in ablation:
            scores[entry["column"]] = column
        scores.to_parquet(folder / "scores.parquet", index=False)
        unfit = _write_detectors(material, index, folder)
        content.update(
            tl_source=about["tl_source"],
            seed=seed,
            store_digest=about["store_digest"],
            fused_digest=source.digest,
            blocks=about["blocks"],
            refit=about["refit"],
            cv={
                "folds_asked": cv_folds,
                "folds_used": len(folds) // repeats,
                "repeats": repeats,
                "settings": {name: len(values) for name, values in tried.items()},
            },
            calibration=calibration,
            threshold_rule=threshold_rule,
            candidates=candidates,
            unfit=unfit,
            choice={
                "fused": best["id"],
                "single": _best([c for c in candidates if c["classifier"] == HEAD and c["features"] != FUSED])["id"],
                "overall": _best(candidates)["id"],
            },
            ablation={
                "of": best["id"],
                "validation_auroc": best["validation_auroc"],
                "without": [entry for entry, _ in ablation],
            },
        )


def _searched(
    jobs: Sequence[tuple[str, str]], tried: dict[str, list[Settings]], material: Material, folds: Folds
) -> list[tuple[Settings, float]]:
    """Best settings and their AUROC for each pair of columns and classifier; a single block has nothing to weigh."""
    given = [
        Job(on, name, possible(tried[name] if on == FUSED else _unweighted(tried[name]), material.smallest_fit))
        for on, name in jobs
    ]
    columns: dict[str, Columns] = {}
    for on, _ in jobs:
        every = material.first.columns(on)
        columns[on] = Columns(every.values[material.train], every.widths)
    return find(given, columns, material.labels[material.train], folds, material.seed, material.what)


def _unweighted(tried: list[Settings]) -> list[Settings]:
    """Each combination of the other settings once."""
    found: list[Settings] = []
    for settings in tried:
        one = settings | {"weights": "columns"}
        if one not in found:
            found.append(one)
    return found


def _ordered(scored: Mapping[tuple[str, str], Scored], backbones: list[str]) -> list[tuple[str, str]]:
    """What was scored, the simpler first."""
    order = [(on, name) for name in (HEAD, "logistic_regression") for on in backbones]
    order += [(FUSED, name) for name in (HEAD, STACKING, *CLASSIFIERS)]
    return [key for key in order if key in scored]


def _ablation(best: Mapping[str, Any], material: Material) -> list[tuple[dict[str, Any], Floats]]:
    """For each backbone what validation says of a fused candidate without it, and its scores [N]; none for one."""
    backbones = list(material.first.slices)
    if len(backbones) == 1:
        return []
    parts = [material.without(backbone) for backbone in backbones]
    if best["classifier"] == HEAD:
        scored: list[Scored | None] = [heads(part, FUSED) for part in parts]
    elif best["classifier"] == STACKING:
        scored = [stacked(part) for part in parts]
    else:
        scored = list(fitted(parts, [(FUSED, best["classifier"], best["params"])] * len(parts)))
    entries = []
    for backbone, part, one in zip(backbones, parts, scored, strict=True):
        assert one is not None  # the folds of a stacker do not hang on its features
        judged = judge(part, one)
        entry = {
            "backbone": backbone,
            "column": f"without/{backbone}",
            "validation_auroc": judged.validation_auroc,
            "loss": best["validation_auroc"] - judged.validation_auroc,
            "threshold": judged.threshold,
        }
        entries.append((entry, judged.probability))
    return entries


def _write_detectors(material: Material, index: pd.DataFrame, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the detectors of single and fused features, and all distances; each one's file and limit.

    Where networks were refitted no image is left that they have not learnt: the limit, which the first fit sets on
    validation images, is carried over, in units of the median training image's distance.
    """
    distances = index[["image_id", "split", "group_id"]].copy()
    made = {}
    for on in (*material.first.slices, FUSED):
        first, final = material.first.blocks(on), material.final.blocks(on)
        detector = Detector.fit([block[material.train] for block in first])
        found = limit(detector.distance([block[material.validation] for block in first]))
        if material.refit:
            learnt = np.union1d(material.train, material.validation)
            detector = Detector.fit([block[learnt] for block in final])
        file = f"{file_name(on)}--unfit.safetensors"
        detector.save(folder / file)
        distances[on] = detector.distance(final)
        made[on] = {"file": file, "limit": found}
    distances.to_parquet(folder / "distances.parquet", index=False)
    return made


def _best(candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The candidate with the highest validation AUROC, the earlier one of equals."""
    return max(candidates, key=lambda candidate: float(candidate["validation_auroc"]))


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
