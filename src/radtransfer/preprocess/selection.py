"""Which images of the data sets a run takes: the target's and the source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from radtransfer import datasets
from radtransfer.datasets.records import Dataset, Record
from radtransfer.errors import RadtransferError, near
from radtransfer.problems import Rejected


@dataclass
class Side:
    """A store in the making; the files of its data set are relative to ``root``."""

    role: str
    root: Path
    dataset: Dataset
    part: str
    records: list[Record]
    found: int
    rejected: list[Rejected]
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """How errors call it."""
        return f"{self.role} {self.dataset.name}, {self.part}"


@dataclass(frozen=True)
class Asked:
    """A data set as it is asked for."""

    layout: str
    path: str
    table: dict[str, Any]

    def read(self, data_root: Path, part: str | None = None) -> Dataset:
        return datasets.read(self.layout, data_root, self.path, part, self.table)

    def same(self, other: Asked) -> bool:
        """Whether both are one data set, so that an image of one part is not to be had as another's."""
        here, there = PurePosixPath(self.path), PurePosixPath(other.path)
        return (self.layout, here, self.table) == (other.layout, there, other.table)


def select(data_root: Path, target: Asked, part: str, source: Asked, parts: Sequence[str]) -> tuple[Side, Side]:
    """Which images the two stores are to hold; no image is opened.

    Args:
        data_root: folder of the data sets.
        target: the target's data set.
        part: the part of it that the model is for.
        source: the data set of the related images.
        parts: the parts of it to take; none: all but the target's.

    Returns:
        target and source.

    Raises:
        RadtransferError: a folder, layout, part or class is missing.
    """
    side = of_part("target", data_root, target, part)
    dataset = side.dataset
    same = source.same(target)
    others = dataset if same else source.read(data_root)
    there = [name for name in others.parts if not (same and name == part)]
    for name in parts:
        if name not in there:
            hint = "it is the target's own" if same and name == part else near(name, there)
            raise RadtransferError(
                f"source part {name!r} is not to be had from {source.path} ({source.layout}); {hint}"
            )
    wanted = set(parts or there)
    free = [record for record in others.records if not (same and part in record.parts)]
    theirs = [record for record in free if wanted & set(record.parts)]
    notes = (
        [f"{len(free) - len(theirs)} images of other body parts were not asked for"] if len(theirs) < len(free) else []
    )
    lost = [] if same else _rejected(others)
    sides = (
        side,
        Side("source", data_root, others, "+".join(sorted(wanted)), theirs, len(theirs) + len(lost), lost, notes),
    )
    for one in sides:
        _check_classes(one)
    return sides


def of_part(role: str, data_root: Path, asked: Asked, part: str) -> Side:
    """All images of one part of a data set.

    Raises:
        RadtransferError: a folder, layout, part or class is missing.
    """
    dataset = asked.read(data_root, part)
    if part not in dataset.parts:
        raise RadtransferError(
            f"{role} part {part!r} is not in {asked.path} (layout {asked.layout}); {near(part, dataset.parts)}"
        )
    records = [record for record in dataset.records if part in record.parts]
    side = Side(role, data_root, dataset, part, records, len(records) + len(dataset.rejected), _rejected(dataset))
    _check_classes(side)
    return side


def _check_classes(side: Side) -> None:
    for label, name in enumerate(side.dataset.classes):
        if not any(record.label == label for record in side.records):
            raise RadtransferError(f"{side.title}: class {name!r} has no images; add some or choose another part")


def _rejected(dataset: Dataset) -> list[Rejected]:
    """Files that the layout could not place."""
    return [
        Rejected(file, "label_conflict" if file in dataset.conflicts else "unplaced", reason)
        for file, reason in dataset.rejected
    ]
