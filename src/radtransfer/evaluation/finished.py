"""Finished runs, read back from their folders: one run, or the runs of a cross-fitting."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radtransfer import artifacts
from radtransfer.artifacts import Artifact, read_json
from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import verdict
from radtransfer.evaluation.intervals import Scored
from radtransfer.evaluation.metrics import Floats

SELECTED = "selected"
SHORTCUTS = (*verdict.LEARNT, "shortcut/majority_class")
FOLD_FOLDER = re.compile(r"seed\d+-fold\d+")
OWN = ("seed", "test_fold", "pretrained_models", "budget_minutes")
"""Entries of a configuration in which the runs of one cross-fitting may differ."""


@dataclass(frozen=True)
class Finished:
    """One finished run.

    Attributes:
        path: its folder.
        config: its configuration.
        code_version, data_version: of code and data.
        target, positive_class: what was classified.
        evaluation: its evaluation artifact, every file verified.
        test: its test images, indexed by image_id: ``group_id``, ``label``, ``sha256``.
        rows: the row of ``metrics.json`` behind each choice: ``<TL source>/fused`` and ``/single``, :data:`SELECTED`,
            :data:`SHORTCUTS`.
        scores: of each choice, in the order of ``test``.
        thresholds: of each choice.
    """

    path: Path
    config: dict[str, Any]
    code_version: str
    data_version: str
    target: str
    positive_class: str
    evaluation: Artifact
    test: pd.DataFrame
    rows: dict[str, dict[str, Any]]
    scores: dict[str, Floats]
    thresholds: dict[str, float]

    @property
    def told(self) -> dict[str, Any]:
        """What two runs are held against each other by, see :func:`unlike`."""
        return {"config": self.config, "code_version": self.code_version, "data_version": self.data_version}

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def fold(self) -> int:
        """Number of its fold, from 1; 1 of a run that was no fold."""
        return int((self.config.get("test_fold") or [1])[0])


@dataclass(frozen=True)
class Subject:
    """What is compared: one run, or all runs of a cross-fitting.

    Attributes:
        label: A, B, ...
        name: name of its folder.
        of: number of folds; 1 of a single run.
        runs: by seed and fold.
    """

    label: str
    name: str
    of: int
    runs: tuple[Finished, ...]

    @property
    def crossfit(self) -> bool:
        return self.of > 1

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def repeat(self, seed: int) -> list[Finished]:
        return [run for run in self.runs if run.seed == seed]

    @cached_property
    def choices(self) -> list[str]:
        return list(self.runs[0].rows)

    @cached_property
    def images(self) -> pd.DataFrame:
        """All test images, sorted and indexed by image_id: ``group_id``, ``label``, ``sha256``."""
        return pd.concat([run.test for run in self.repeat(self.seeds[0])]).sort_index()

    def tests(self, choice: str) -> list[Scored]:
        """The scores of a choice for all of :attr:`images`, once for each seed."""
        found = []
        for seed in self.seeds:
            runs = self.repeat(seed)
            parts = [
                pd.DataFrame(
                    {"score": run.scores[choice], "threshold": run.thresholds[choice], "fold": run.fold},
                    index=run.test.index,
                )
                for run in runs
            ]
            table = pd.concat(parts).loc[self.images.index]
            score, threshold = (table[name].to_numpy(dtype=np.float64) for name in ("score", "threshold"))
            found.append(Scored(score, threshold, table["fold"].to_numpy(dtype=np.intp)))
        return found


def open_subjects(folders: Sequence[Path]) -> list[Subject]:
    """Read what is to be compared and see that it is about the same images.

    Args:
        folders: output folders of ``radtransfer run`` and of ``radtransfer crossfit``.

    Raises:
        RadtransferError: a folder is neither, a run is unfinished, damaged or of another cross-fitting, or the test
            images or leakage groups of two subjects differ.
    """
    subjects = [open_subject(Path(folder), chr(ord("A") + number)) for number, folder in enumerate(folders)]
    for subject in subjects[1:]:
        _check_same(subjects[0], subject)
    return subjects


def open_subject(folder: Path, label: str) -> Subject:
    """One run or cross-fitting; errors as of :func:`open_subjects`."""
    if (folder / "run.json").is_file():
        return Subject(label, folder.resolve().name, 1, (_open(folder),))
    runs = sorted(path for path in folder.glob("*") if FOLD_FOLDER.fullmatch(path.name)) if folder.is_dir() else []
    if not runs:
        raise RadtransferError(
            f"{folder}: neither a finished run (no run.json) nor a cross-fitting (no folder seed<S>-fold<F>); name the "
            "output folder of `radtransfer run` or `radtransfer crossfit`"
        )
    unfinished = [path.name for path in runs if not (path / "run.json").is_file()]
    if unfinished:
        raise RadtransferError(
            f"{folder}: {len(unfinished)} of {len(runs)} runs are not finished ({', '.join(unfinished[:5])}); start "
            "`radtransfer crossfit` again with the same arguments to go on"
        )
    opened = sorted((_open(path) for path in runs), key=lambda run: (run.seed, run.fold))
    of = int((opened[0].config.get("test_fold") or [1, 1])[1])
    subject = Subject(label, folder.resolve().name, of, tuple(opened))
    _check_crossfit(folder, subject)
    return subject


def unlike(one: Mapping[str, Any], other: Mapping[str, Any], own: Collection[str] = OWN) -> tuple[str, Any, Any] | None:
    """The first thing in which two runs differ that belong together: its name and what each has; None: nothing.

    Args:
        one, other: what ``run.json`` tells: ``config``, ``code_version``, ``data_version``.
        own: entries of the configuration in which they may differ.
    """
    told = [
        {key: value for key, value in run["config"].items() if key not in own}
        | {key: run[key] for key in ("code_version", "data_version")}
        for run in (one, other)
    ]
    for key in told[0] | told[1]:
        if told[0].get(key) != told[1].get(key):
            return key, told[0].get(key), told[1].get(key)
    return None


def check_alike(first: Finished, other: Finished, own: Collection[str], what: str) -> None:
    """See that two runs belong together.

    Args:
        first, other: the runs.
        own: see :func:`unlike`.
        what: they are to be of one of these, named in errors.

    Raises:
        RadtransferError: they do not.
    """
    found = unlike(first.told, other.told, own)
    if found:
        key, was, now = found
        raise RadtransferError(
            f"{other.path}: not of one {what} with {first.path.name}: {key} is {was!r} there and {now!r} here; make "
            f"the runs of one {what} with one configuration, code and data"
        )


def _check_crossfit(folder: Path, subject: Subject) -> None:
    """Whether the runs are one cross-fitting in which every image is tested once for each seed."""
    first = subject.runs[0]
    for run in subject.runs:
        check_alike(first, run, OWN, "cross-fitting")
    for seed in subject.seeds:
        runs = subject.repeat(seed)
        there = [run.config.get("test_fold") for run in runs]
        if there != [[number, subject.of] for number in range(1, subject.of + 1)]:
            raise RadtransferError(
                f"{folder}: of seed {seed} the folds {there} are there, expected 1 to {subject.of} of {subject.of}; "
                "start `radtransfer crossfit` again with the same arguments to make what is missing"
            )
        together = pd.concat([run.test for run in runs]).sort_index()
        folds = [str(run.fold) for run in runs for _ in range(len(run.test))]
        groups = [group for run in runs for group in run.test["group_id"]]
        held: dict[str, str] = {}
        for group, fold in zip(groups, folds, strict=True):
            if held.setdefault(group, fold) != fold:
                raise RadtransferError(
                    f"{folder}: leakage group {group!r} is tested in folds {held[group]} and {fold} of seed {seed}; "
                    "make the runs again"
                )
        if not together.index.is_unique or not together.equals(subject.images):
            raise RadtransferError(
                f"{folder}: the runs of seed {seed} do not test the images of seed {subject.seeds[0]}, each once "
                f"({len(together)} against {len(subject.images)}); make them again, without max_images"
            )


def _check_same(first: Subject, other: Subject) -> None:
    """Whether two subjects have the same test images in the same groups with the same labels."""
    one, two = first.images, other.images
    keys = [set(zip(images.index, images["sha256"], strict=True)) for images in (one, two)]
    if keys[0] != keys[1]:
        shared = len(keys[0] & keys[1])
        files = len(set(one["sha256"]) & set(two["sha256"]))
        renamed = f" ({files} by content alone: the rest of those have other names)" if files > shared else ""
        raise RadtransferError(
            f"{first.name} and {other.name} were not tested on the same images: {shared} are shared{renamed}, of "
            f"{len(one)} and {len(two)}; compare runs with the same target, seed and test_fraction or test_fold, and "
            "folds of one cross-fitting by naming the folder of `radtransfer crossfit`"
        )
    for what, same in (
        ("labels", one["label"].equals(two["label"])),
        ("leakage groups", _partition(one) == _partition(two)),
    ):
        if not same:
            raise RadtransferError(
                f"{first.name} and {other.name} were tested on the same {len(one)} images with other {what}; a paired "
                "comparison needs the same: make both with one revision of the data and of the code that groups them"
            )


def _partition(images: pd.DataFrame) -> list[int]:
    """The groups without their names, numbered by first appearance."""
    return [int(number) for number in pd.factorize(images["group_id"])[0]]


def _open(folder: Path) -> Finished:
    told = read_json(folder / "run.json")
    evaluation = artifacts.read(folder / "evaluation", "evaluation", verify=True)
    metrics = read_json(evaluation.path / "metrics.json")
    curves = read_json(evaluation.path / "curves.json")
    table = pd.read_parquet(evaluation.path / "test_scores.parquet").set_index("image_id")
    by_id = {row["id"]: row for row in metrics["results"]}
    content = evaluation.content
    ids = {
        f"{source}/{kind}": content["choices"][source][kind]
        for source in reversed(TL_SOURCES)
        if source in content["choices"]
        for kind in ("fused", "single")
    }
    ids |= {SELECTED: content["selected"]} | {name: name for name in SHORTCUTS}
    return Finished(
        path=folder,
        config=told["config"],
        code_version=told["code_version"],
        data_version=told["data_version"],
        target=metrics["target"],
        positive_class=metrics["positive_class"],
        evaluation=evaluation,
        test=_test_images(folder, table),
        rows={choice: by_id[row] for choice, row in ids.items()},
        scores={choice: table[row].to_numpy(dtype=np.float64) for choice, row in ids.items()},
        thresholds={choice: float(curves[row]["threshold"]) for choice, row in ids.items()},
    )


def _test_images(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The test images with the digests of their files, which ``splits.csv`` has."""
    path = folder / "splits.csv"
    if not path.is_file():
        raise RadtransferError(f"{path}: no such file; it belongs to a finished run: make the run again")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["role"] == "target"]
    digests = {row["image_id"]: row["sha256"] for row in rows if row["split"] == "test"}
    if digests.keys() != set(table.index) or not table.index.is_unique:
        raise RadtransferError(f"{path}: its test images are not those of {folder / 'evaluation'}; make the run again")
    test = table[["group_id", "label"]].copy()
    test["sha256"] = [digests[name] for name in test.index]
    return test
