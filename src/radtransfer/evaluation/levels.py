"""What is counted: test images, studies, or images that were changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.entries import Entry
from radtransfer.evaluation.intervals import Resamples, resample
from radtransfer.evaluation.metrics import Floats
from radtransfer.preprocess.store import Store
from radtransfer.robustness import CONTROL, MASKED


@dataclass(frozen=True, eq=False, kw_only=True)
class Units:
    """What is counted, images or studies: label and leakage group of each."""

    name: Literal["image", "study"]
    labels: NDArray[np.bool_]
    groups: NDArray[np.object_]
    unit: NDArray[np.intp]
    """[T] the unit of each test image."""

    pooling: Literal["none", "mean", "max"] = "none"
    corruption: str = "none"
    subgroup: str = "all"

    @property
    def suffix(self) -> str:
        """What a row's id ends with."""
        changed = "" if self.corruption == "none" else f"/{self.corruption}"
        of = "" if self.subgroup == "all" else f"/{self.subgroup}"
        return {"none": "", "mean": "/study", "max": "/study-max"}[self.pooling] + changed + of

    def scores(self, per_image: Floats) -> Floats:
        """Mean, or highest, score per unit."""
        if self.pooling == "max":
            highest = np.zeros(len(self.labels))
            np.maximum.at(highest, self.unit, per_image)
            return highest
        return np.bincount(self.unit, weights=per_image) / np.bincount(self.unit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Level(Units):
    """Units and their resamples."""

    resamples: Resamples


def levels(test: pd.DataFrame, store: Store, bootstrap: int, seed: int) -> tuple[list[Level], list[str]]:
    """Images, and studies where every test image has a study id; here the test labels are read."""
    labels = test["label"].to_numpy(dtype=bool)
    groups = test["group_id"].to_numpy()
    if labels.all() or not labels.any():
        raise RadtransferError(
            f"{store.artifact.path}: its {len(test)} test images are all of class {int(labels[0])}; "
            "raise test_fraction or use more images"
        )
    resamples = resample(groups, labels, bootstrap, seed)
    found = [Level(name="image", labels=labels, groups=groups, unit=np.arange(len(test)), resamples=resamples)]
    studies = test["study_id"]
    if studies.isna().all():
        return found, []
    if studies.isna().any():
        few = f"{int(studies.isna().sum())} of {len(test)} test images have no study id: no results per study."
        return found, [few]
    unit, names = pd.factorize(studies, sort=True)
    frame = pd.DataFrame({"unit": unit, "label": labels, "group": groups}).groupby("unit")
    if (frame["group"].nunique() > 1).any():
        odd = names[int(frame["group"].nunique().to_numpy().argmax())]
        raise RadtransferError(f"{store.artifact.path}: study {odd} lies in two leakage groups; make the store again")
    study_labels = frame["label"].any().to_numpy(dtype=bool)
    study_groups = frame["group"].first().to_numpy()
    study_resamples = resample(study_groups, study_labels, bootstrap, seed)
    mean = Level(
        name="study", labels=study_labels, groups=study_groups, unit=unit, pooling="mean", resamples=study_resamples
    )
    return [*found, mean, replace(mean, pooling="max")], []


def changed(
    stress: Artifact, entries: Sequence[Entry], test: pd.DataFrame, images: Level, bootstrap: int, seed: int
) -> list[tuple[Level, Entry]]:
    """Each change of the test images with the candidates that scored it.

    Resamples are of its own images; where these are all test images they are those of ``images``.

    Args:
        stress: scores of changed test images.
        entries: candidates, by whose ids their scores are found.
        test: rows of the manifest.
        images: the test images as they are.
        bootstrap: replicates.
        seed: of the resamples.

    Raises:
        RadtransferError: it was made of other images, or a corruption is not of all of them.
    """
    path = stress.path / "scores.parquet"
    table = pd.read_parquet(path)
    rows = test.set_index("image_id")
    strange = sorted(set(table["image_id"]) - set(rows.index))
    if strange:
        raise RadtransferError(f"{path}: image {strange[0]} is no test image of the store; make it again")
    found = []
    for name in stress.content["corruptions"]:
        scored = table[table["corruption"] == name].set_index("image_id")
        if scored.index.equals(rows.index):
            level = replace(images, corruption=name)
        elif name not in (MASKED, CONTROL):
            raise RadtransferError(f"{path}: {name!r} is not of all test images in the store's order; make it again")
        else:
            part = rows.loc[scored.index]
            labels, groups = part["label"].to_numpy(dtype=bool), part["group_id"].to_numpy()
            drawn = resample(groups, labels, bootstrap, seed)
            level = Level(
                name="image", labels=labels, groups=groups, unit=np.arange(len(part)), corruption=name, resamples=drawn
            )
        for entry in entries:
            column = entry.id.rpartition("/seed")[0]
            if column in scored:
                found.append((level, replace(entry, scores=scored[column].to_numpy(dtype=np.float64))))
    return found
