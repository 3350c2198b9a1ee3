"""Splits of an earlier revision of the data, which a later one keeps; and which images belong together in this one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radtransfer.datasets.rows import read_rows
from radtransfer.errors import RadtransferError, near
from radtransfer.preprocess.split import DEALT, UNUSED
from radtransfer.registry.references import Reference, located
from radtransfer.registry.versions import BUNDLE

FILE = "splits.csv"
COLUMNS = ("role", "image_id", "sha256", "split")
DEALT_TO = "dealt_to"
"""Column for the split that an image was dealt to, which is another than its split only where its label was unused."""
GROUP = "group_id"
LEFT_OUT = "left_out.csv"
"""Images that were read and are in neither store, with their leakage groups: part of what a test image is like."""
ROLES = ("target", "source")


@dataclass(frozen=True)
class Inherited:
    """Which split each image of an earlier revision was dealt to, whether or not its label was used.

    An image is known again by its name or by the sha256 of its file, so that neither a file that was renamed nor one
    that was exported anew loses its split.

    Attributes:
        file: the table it was read from, as it was named; empty: there was none.
        known: split by role and name, and by role and sha256.
    """

    file: str = ""
    known: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def read(cls, data_root: Path, file: str) -> Inherited:
        """Read what :func:`write` wrote for an earlier revision.

        Args:
            data_root: folder of the data sets.
            file: the table, relative to it; or ``REGISTRY#NAME@VERSION`` of a bundle, which keeps its own; empty:
                nothing is inherited.

        Raises:
            RadtransferError: missing, outside the data root, or a row that is not as it was written; or no such
                version, or a damaged one.
        """
        if not file:
            return cls()
        if Reference.parse(file) is not None:
            with located(file, BUNDLE) as bundle:
                return cls.of(bundle, file)
        path = Path(data_root) / file
        if not path.resolve().is_relative_to(Path(data_root).resolve()):
            raise RadtransferError(f"previous_splits: {file!r} lies outside the data root {data_root}; move it inside")
        return cls(file, _known(path))

    @classmethod
    def of(cls, bundle: Path, name: str = "") -> Inherited:
        """What a bundle's folder keeps, of the revision that it was made of.

        Raises:
            RadtransferError: it keeps nothing, or a row is not as it was written.
        """
        return cls(name, _known(bundle / FILE))

    def splits(self, role: str, name: str, sha256: str) -> set[str]:
        """Where an image was: nowhere, in one split, or, where name and file say so, in two."""
        return {self.known[role, key] for key in (name, sha256) if (role, key) in self.known}


def _known(path: Path) -> dict[tuple[str, str], str]:
    """Split by role and name, and by role and sha256, as a table says it."""
    if not path.is_file():
        raise RadtransferError(f"previous_splits: {path}: no such file; it is {FILE} of an earlier run")
    known: dict[tuple[str, str], str] = {}
    for row in read_rows(path, COLUMNS, optional=(DEALT_TO,)):
        role, name, sha256, split = (row.cells[column] for column in COLUMNS)
        if split == UNUSED:
            split = row.cells.get(DEALT_TO, "")
        for value, allowed in ((role, ROLES), (split, DEALT)):
            if value not in allowed:
                raise RadtransferError(f"{path}, {row.name}: {value!r} is not expected here; {near(value, allowed)}")
        if (role, split) == ("source", "test"):
            raise RadtransferError(f"{path}, {row.name}: a source image in the test split, which a source has not")
        for key in (name, sha256):
            if not key or known.setdefault((role, key), split) != split:
                reason = f"is in {split} and in {known[role, key]}" if key else "has no name or no sha256"
                raise RadtransferError(f"{path}, {row.name}: image {name!r} {reason}; get the file of that run again")
    return known


def write(folder: Path, rows: Mapping[str, Iterable[Mapping[str, Any]]], left_out: Iterable[Mapping[str, str]]) -> None:
    """Write :data:`FILE` for the next revision, and :data:`LEFT_OUT`.

    Args:
        folder: of the target's store.
        rows: by role, rows of the manifest with :data:`DEALT_TO` in them.
        left_out: role, name, sha256 and leakage group of what was read and is not among them.
    """
    listed = [{COLUMNS[0]: role, **row} for role in ROLES for row in rows[role]]
    tables = ((FILE, (*COLUMNS, DEALT_TO, GROUP), listed), (LEFT_OUT, (*COLUMNS[:-1], GROUP), left_out))
    for file, columns, its in tables:
        with (folder / file).open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(its)
