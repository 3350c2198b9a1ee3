"""From features to the scores of a candidate: heads, a stacker, and fitted classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from radtransfer.errors import RadtransferError
from radtransfer.fusion import FUSED
from radtransfer.fusion.calibration import Calibration, Method, fit_calibration
from radtransfer.fusion.grid import Settings
from radtransfer.fusion.scoring import Floats, raw_score
from radtransfer.fusion.search import Columns, fit, side_by_side
from radtransfer.fusion.stacking import carried, stack
from radtransfer.fusion.threshold import Rule


@dataclass(frozen=True)
class Features:
    """Fused features [N, sum of D], the networks' logits [N, B], and which columns are whose, in their order."""

    fused: Floats
    logits: Floats
    slices: dict[str, slice]

    @classmethod
    def load(cls, folder: Path, fit: str, blocks: Sequence[Mapping[str, Any]]) -> Features:
        """Those of one fit (:func:`radtransfer.artifacts.fits`) in a folder that ``fuse`` wrote.

        Raises:
            RadtransferError: a value is NaN or infinite.
        """
        slices = {str(block["backbone"]): slice(block["start"], block["stop"]) for block in blocks}
        arrays = []
        for name in ("fused", "logits"):
            path = folder / f"{fit}{name}.npy"
            values = np.load(path, allow_pickle=False).astype(np.float64)
            odd = np.argwhere(~np.isfinite(values))
            if len(odd):
                row, column = (int(place) for place in odd[0])
                ends = [one.stop for one in slices.values()] if name == "fused" else range(1, len(slices) + 1)
                whose = next(backbone for backbone, end in zip(slices, ends, strict=True) if column < end)
                raise RadtransferError(
                    f"{path}: row {row}, column {column} (of {whose}) is {values[row, column]}, the first of "
                    f"{len(odd)} values that are not finite; the training of that network diverged: lower the learning "
                    "rate, or make the features again"
                )
            arrays.append(values)
        return cls(arrays[0], arrays[1], slices)

    def columns(self, on: str) -> Columns:
        """Those of a backbone, or all."""
        if on != FUSED:
            block = self.fused[:, self.slices[on]]
            return Columns(block, (block.shape[1],))
        return Columns(self.fused, tuple(one.stop - one.start for one in self.slices.values()))

    def blocks(self, on: str) -> list[Floats]:
        """The columns [N, D] of a backbone, or of each."""
        return [self.fused[:, one] for name, one in self.slices.items() if on in (FUSED, name)]

    def logit(self, on: str) -> Floats:
        """[N] of a network's own head, or the mean of all heads."""
        return self.logits.mean(axis=1) if on == FUSED else self.logits[:, list(self.slices).index(on)]

    def without(self, backbone: str) -> Features:
        """Those of the other backbones."""
        left_out, place = self.slices[backbone], list(self.slices).index(backbone)
        width = left_out.stop - left_out.start
        slices = {
            name: slice(one.start - width, one.stop - width) if one.start >= left_out.stop else one
            for name, one in self.slices.items()
            if name != backbone
        }
        return Features(np.delete(self.fused, left_out, axis=1), np.delete(self.logits, place, axis=1), slices)


@dataclass(frozen=True, eq=False)
class Material:
    """All that candidates are made of.

    Attributes:
        first, final: features by which everything is chosen, and those that predict; the same where the networks were
            not refitted.
        refit: whether they were.
        train, validation: rows.
        labels: [N], -1 for test images.
        groups: [N].
        smallest_fit: images in the smallest fit of the cross-validation, which bounds the components.
        cv_folds: folds asked for.
        seed: of everything random.
        calibration, rule: how candidates are calibrated, and where they call an image positive.
        what: what is being done, for the progress shown.
    """

    first: Features
    final: Features
    refit: bool
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    labels: NDArray[np.int8]
    groups: NDArray[Any]
    smallest_fit: int
    cv_folds: int
    seed: int
    calibration: Method
    rule: Rule
    what: str

    def without(self, backbone: str) -> Material:
        """The same without a backbone."""
        first = self.first.without(backbone)
        return replace(self, first=first, final=self.final.without(backbone) if self.refit else first)


class Scored(NamedTuple):
    """Uncalibrated scores [N] of a candidate.

    Attributes:
        raw: by the first fit; those of validation images know none of their labels.
        final: by the one that predicts.
        estimator: that one; None for heads.
    """

    raw: Floats
    final: Floats
    estimator: Any | None = None


def heads(material: Material, on: str) -> Scored:
    """A network's own output, or the mean of all."""
    return Scored(material.first.logit(on), material.final.logit(on))


def stacked(material: Material) -> Scored | None:
    """The stacker on all heads; None where validation images cannot be cross-validated by group."""
    rows, logits = material.validation, material.first.logits
    found = stack(logits[rows], material.labels[rows], material.groups[rows], material.cv_folds, material.seed)
    if found is None:
        return None
    raw = raw_score(found.model, logits)
    raw[rows] = found.out_of_fold
    model = found.model
    if material.refit:
        model = carried(model, logits[material.train], material.final.logits[material.train])
    return Scored(raw, raw_score(model, material.final.logits), model)


def fitted(materials: Sequence[Material], chosen: Sequence[tuple[str, str, Settings]]) -> list[Scored]:
    """Classifiers with their settings, fitted on train and, where networks were refitted, on validation images too.

    Args:
        materials: of each classifier; they may differ in features alone.
        chosen: which columns, classifier and settings.
    """
    some = materials[0]
    both = np.union1d(some.train, some.validation)
    keys = [f"{materials.index(one)} {on}" for one, (on, _, _) in zip(materials, chosen, strict=True)]
    named = [(key, name, settings) for key, (_, name, settings) in zip(keys, chosen, strict=True)]

    def of(which: str, rows: NDArray[np.intp]) -> tuple[list[Any], list[Floats]]:
        columns: dict[str, Columns] = {}
        for key, material, (on, _, _) in zip(keys, materials, chosen, strict=True):
            features: Features = getattr(material, which)
            columns.setdefault(key, features.columns(on))
        estimators = fit(named, columns, rows, some.labels, some.smallest_fit, some.seed, some.what)
        pairs = list(zip(estimators, keys, strict=True))
        return estimators, side_by_side(lambda pair: raw_score(pair[0], columns[pair[1]].values), pairs, some.what)

    estimators, raw = of("first", some.train)
    final = raw
    if some.refit:
        estimators, final = of("final", both)
    return [Scored(*one) for one in zip(raw, final, estimators, strict=True)]


class Judged(NamedTuple):
    """A candidate's calibrated scores [N], its final calibration, and what validation says of it."""

    probability: Floats
    calibration: Calibration
    threshold: float
    validation_auroc: float


def judge(material: Material, scored: Scored) -> Judged:
    """Calibrate on validation; the scores of test images are the final ones, all others those of the first fit.

    A head is no classifier that is fitted again: where networks were refitted its calibration is carried over
    (:meth:`~radtransfer.fusion.scoring.Calibration.carried`).
    """
    rows, labels = material.validation, material.labels[material.validation]
    calibration = fit_calibration(scored.raw[rows], labels, material.calibration)
    probability = calibration(scored.raw)
    threshold, auroc = material.rule(probability[rows], labels), float(roc_auc_score(labels, probability[rows]))
    if scored.estimator is None and material.refit:
        calibration = calibration.carried(scored.raw[material.train], scored.final[material.train])
    final = calibration(scored.final)
    return Judged(np.where(material.labels < 0, final, probability), calibration, threshold, auroc)
