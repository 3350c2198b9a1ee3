"""Any images with a table beside them, CSV or Parquet, whose columns the configuration names.

One row for each image: a PNG (8 or 16 bit), JPEG or DICOM file, under any name. Columns as in
:class:`radtransfer.config.TableColumns`; all cells are read as text, without the blanks around them:

- ``file``: path relative to the data-set folder, with ``/``; links that lead out of the data root are not followed.
- ``label``: one of the configured labels, letter by letter.
- ``body_part``: one part; without this column all images are of one part, named like the folder.
- ``patient``, ``study``: ids of any form, which leave as keyed pseudonyms; so do the names of the files then, as they
  may hold an id. Words for an unknown one (``NA``, ``unknown``, ``-`` and the like) are as good as nothing. No patient,
  and without patients no study, is in two splits.
- ``split``: the publisher's: ``train``, ``validation`` (``valid``, ``val``) or ``test``, in any case. The test images
  of the target part stay its test set; training and validation images are dealt anew between the two.
- ``boxes``: where the finding is, ``x0,y0,x1,y1;...``, shares (0 to 1) of width and height of the upright image.
- ``attributes``: columns of what results are given in subgroups by, see :mod:`radtransfer.attributes`; an age in
  years leaves as a band, and a column of free words with more than 20 different texts stops the reading, as it may
  hold identifiers.

A row that does not fit is rejected with its reason, and so is an image that no row names; a table that does not fit
is an error.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from radtransfer.attributes import Attributes
from radtransfer.config import TableColumns
from radtransfer.datasets.pseudonym import Pseudonyms
from radtransfer.datasets.records import Box, Dataset, Folder, Record, is_image
from radtransfer.datasets.rows import SUFFIXES, Row, read_rows
from radtransfer.errors import RadtransferError, near

COLUMNS = ("file", "label", "body_part", "patient", "study", "split", "boxes")
FREQUENT = 20
"""A patient with fewer images is not remarked on, whatever share they are."""
OFFICIAL = {"train": "train", "validation": "train", "valid": "train", "val": "train", "test": "test"}
# What exports write where an id is not known: taken for one, it would join patients.
_UNKNOWN = {"na", "n/a", "nan", "null", "none", "unknown", "-", "?"}
# An id that went through a number: 12345.0 (leading zeros are gone), 1.23457E+12 (digits are gone).
_NUMBER = re.compile(r"\d+\.0+|\d(\.\d+)?[eE]\+\d+")


class _UnfitError(Exception):
    """A row that cannot be used, and why."""


class _ConflictError(_UnfitError):
    """A row that says two things of its label."""


def read(folder: Folder, part: str | None, mapping: Mapping[str, Any] | None = None) -> Dataset:
    """Read the images that a table names; ``part`` does not change what the classes are.

    Args:
        folder: where table and images lie.
        part: not used.
        mapping: the columns, see :class:`radtransfer.config.TableColumns`.

    Raises:
        RadtransferError: no or a wrong mapping, no table or none that can be read, a column is missing, a class has no
            row, ids were written as numbers, an attribute has too many texts, or there are ids and no pseudonym key
            is set.
    """
    del part
    if not mapping:
        raise RadtransferError(
            f"{folder.path}: the layout 'table' needs to know the columns; set target_table (or source_table), "
            "e.g. {table: labels.csv, file: path, label: finding, positive: [fracture], negative: [normal]}"
        )
    columns = TableColumns.of(mapping, f"{folder.path}, its table")
    reading = _Reading(folder, columns)
    for row in read_rows(reading.path, list(dict.fromkeys(reading.columns.values()))):
        reading.take({role: row.cells[column] for role, column in reading.columns.items()}, row)
    return reading.dataset()


class _Reading:
    """A table being read."""

    def __init__(self, folder: Folder, columns: TableColumns) -> None:
        self.folder = folder
        self.there = {path.relative_to(folder.path).as_posix(): path for path in folder.files()}
        self.path = _table(folder, self.there, columns.table)
        self.columns = {role: getattr(columns, role) for role in COLUMNS if getattr(columns, role)} | columns.attributes
        self.known = tuple(columns.attributes)
        self.attributes = Attributes(str(self.path))
        self.labels = dict.fromkeys(columns.negative, 0) | dict.fromkeys(columns.positive, 1)
        self.classes = (columns.negative[0], columns.positive[0])
        self.modality = columns.modality
        self.files = {folder.file(path) for path in self.there.values()}
        self.pseudonyms: Pseudonyms | None = None
        if columns.patient or columns.study:
            self.pseudonyms = Pseudonyms.from_environment(f"{folder.path.name}, layout table")
        self.named: dict[str, list[tuple[str, Record | str]]] = defaultdict(list)
        self.rejected: list[tuple[str, str]] = []
        self.conflicts: set[str] = set()
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self.ids: dict[str, Counter[bool]] = defaultdict(Counter)

    def take(self, cells: dict[str, str], row: Row) -> None:
        """Place one row."""
        for role in ("patient", "study", *self.known):
            if cells.get(role, "").lower() in _UNKNOWN:
                cells[role] = ""
        for role in ("patient", "study"):
            if cells.get(role):
                self.ids[role][_NUMBER.fullmatch(cells[role]) is not None] += 1
        for role in ("label", "split"):
            self.seen[role][cells.get(role, "")] += 1
        try:
            file = self._file(cells["file"])
        except _UnfitError as unfit:
            self.rejected.append((f"{self.folder.file(self.path)}, {row.name}", str(unfit)))
            return
        outcome: Record | str
        try:
            outcome = self._record(file, cells)
        except _UnfitError as unfit:
            outcome = str(unfit)
            if isinstance(unfit, _ConflictError):
                self.conflicts.add(self.folder.file(self.there[file]))
        self.named[file].append((row.name, outcome))

    def dataset(self) -> Dataset:
        """What all rows came to."""
        self._check_ids()
        records: list[Record] = []
        rejected = list(self.rejected)
        table = self.path.relative_to(self.folder.path).as_posix()
        for file, outcomes in self.named.items():
            name, (row, outcome) = self.folder.file(self.there[file]), outcomes[0]
            if len(outcomes) > 1:
                rows = ", ".join(row for row, _ in outcomes[:5])
                rejected.append((name, f"{table} names it {len(outcomes)} times ({rows}); give each image one row"))
                if len({record.label for _, record in outcomes if isinstance(record, Record)}) > 1:
                    self.conflicts.add(name)
            elif isinstance(outcome, str):
                rejected.append((name, f"{table}, {row}: {outcome}"))
            else:
                records.append(outcome)
        unnamed = [path for file, path in self.there.items() if file not in self.named and path != self.path]
        images = [path for path in unnamed if is_image(path)]
        rejected += [(self.folder.file(path), f"no row of {table} names it") for path in images]
        records.sort(key=lambda record: record.file)
        self._check_classes(records, rejected)
        notes = self._notes(len(unnamed) - len(images)) + _frequent(records)
        name = self.folder.path.name
        return Dataset(
            "table", name, self.classes, records, rejected, notes, modality=self.modality,
            slices=self.modality == "CT", called=self._called, conflicts=frozenset(self.conflicts),
        )  # fmt: skip

    def _file(self, text: str) -> str:
        """Path below the data-set folder of the file that a cell names."""
        _check_text("file", text)
        if not text:
            raise _UnfitError("no file is named")
        path = PurePosixPath(text)
        if path.is_absolute() or "\\" in text or ".." in path.parts:
            raise _UnfitError("the file is not named by a path inside the data-set folder, with / and without ..")
        if path.as_posix() not in self.there:
            raise _UnfitError("the file is not there, or a link that leads out of the data root")
        return path.as_posix()

    def _record(self, file: str, cells: dict[str, str]) -> Record:
        for role, text in cells.items():
            _check_text(role, text)
        for role in ("label", "body_part", "patient"):
            if cells.get(role) == "":
                raise _UnfitError(f"{role} is empty" + (" or a word for unknown" if role == "patient" else ""))
        if cells["label"] not in self.labels:
            raise _UnfitError(f"label {_short(cells['label'])} is neither a positive nor a negative one")
        label = self.labels[cells["label"]]
        if "split" in cells and cells["split"].lower() not in OFFICIAL:
            raise _UnfitError(f"split {_short(cells['split'])} is none of train, validation and test")
        boxes = _boxes(cells.get("boxes", ""))
        if boxes and not label:
            raise _ConflictError("the label is negative, and yet there are boxes")
        patient, study = self._pseudonyms(cells.get("patient", ""), cells.get("study", ""))
        return Record(
            self.folder.file(self.there[file]),
            label,
            (cells.get("body_part", self.folder.path.name),),
            patient_id=patient,
            study_id=study,
            official=OFFICIAL[cells["split"].lower()] if "split" in cells else None,
            boxes=boxes,
            attributes=self.attributes.of({name: cells[name] for name in self.known}),
        )

    def _called(self, file: str) -> str:
        """What artifacts call a file; a row of the table is not one."""
        return self.pseudonyms.of_file(file) if self.pseudonyms and file in self.files else file

    def _pseudonyms(self, patient: str, study: str) -> tuple[str | None, str | None]:
        """Of patient and study; an id of a study may be unique within its patient only."""
        if self.pseudonyms is None:
            return None, None
        of = self.pseudonyms.of
        return of(patient) if patient else None, of(f"{patient}/{study}") if study else None

    def _check_ids(self) -> None:
        for role, counts in self.ids.items():
            if counts[True] > counts[False]:
                raise RadtransferError(
                    f"{self.path}: {counts[True]} of {counts.total()} ids in column {self.columns[role]!r} look like "
                    "123.0 or 1.23E+05: a program took them for numbers, and their leading zeros or last digits are "
                    "lost; export the column as text"
                )

    def _check_classes(self, records: list[Record], rejected: list[tuple[str, str]]) -> None:
        for label, name in enumerate(self.classes):
            if not any(record.label == label for record in records):
                seen = self.seen["label"]
                common = f"{len(seen)} different texts"
                if len(seen) <= 20:  # else it may be another column, and hold names
                    common = ", ".join(f"{_short(text)} ({count})" for text, count in seen.most_common(5))
                first = next((f"; the first: {self._called(file)}: {reason}" for file, reason in rejected), "")
                kind = ("negative", "positive")[label]
                raise RadtransferError(
                    f"{self.path}: no usable row has a {kind} label like {name!r}. Labels in "
                    f"column {self.columns['label']!r}: {common}. {len(rejected)} rows and files rejected{first}"
                )

    def _notes(self, others: int) -> list[str]:
        notes = []
        if "patient" not in self.columns:
            known = "study, duplicates" if "study" in self.columns else "duplicates"
            notes.append(f"no patient ids: split by {known} and near duplicates, not by patient")
        if {text.lower() for text in self.seen["split"]} & (OFFICIAL.keys() - {"train", "test"}):
            notes.append("the publisher's training and validation images are dealt anew between train and validation")
        if others:
            notes.append(f"{others} files in no row are no images and were passed over")
        return notes


def _frequent(records: list[Record]) -> list[str]:
    """A note if one patient has so many images that it may be none."""
    counts = Counter(record.patient_id for record in records if record.patient_id)
    most = counts.most_common(1)[0][1] if counts else 0
    if most < FREQUENT or most <= len(records) / 20:
        return []
    return [f"one patient has {most} of {len(records)} images; see whether that id stands for unknown patients"]


def _table(folder: Folder, there: Mapping[str, Path], name: str) -> Path:
    """The table, which must be one of the files in the data-set folder."""
    path = there.get(PurePosixPath(name).as_posix())
    if path is None:
        tables = [file for file in there if file.lower().endswith(SUFFIXES)]
        raise RadtransferError(f"{folder.path}: no table {_short(name)} inside this folder; {near(name, tables)}")
    return path


def _check_text(role: str, text: str) -> None:
    if text.startswith("="):
        raise _UnfitError(f"{role} holds a spreadsheet formula; write its value")
    if not text.isprintable():
        raise _UnfitError(f"{role} holds characters that cannot be printed, or a line break")


def _boxes(text: str) -> tuple[Box, ...]:
    """Boxes from ``x0,y0,x1,y1;...``, in shares of width and height."""
    boxes = []
    for part in filter(str.strip, text.split(";")):
        try:
            x0, y0, x1, y1 = (float(edge) for edge in part.split(","))
        except ValueError:
            raise _UnfitError("boxes are not written x0,y0,x1,y1;... in shares of width and height") from None
        if not all(math.isfinite(edge) and 0 <= edge <= 1 for edge in (x0, y0, x1, y1)):
            raise _UnfitError("a box lies outside the image: edges are shares (0 to 1) of width and height, not pixels")
        if not (x0 < x1 and y0 < y1):
            raise _UnfitError("a box is empty or its corners are exchanged: expected x0 < x1 and y0 < y1")
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)


def _short(text: str) -> str:
    """A cell as errors quote it."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
