"""Which test images a bundle has learnt from, or from others of their leakage groups.

Nothing is taken on trust of revision numbers: the images that a bundle names (``splits.csv``) are looked up in the
groups of the revision that is tested on, which says of every image that it read, kept or left out, where it belongs.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from radtransfer.datasets.rows import read_rows
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import inherit
from radtransfer.registry.documents import Document

LEARNT_SPLITS = ("train", "validation")
PATIENT = "patient-"
"""How the names of groups begin that are those of a patient, who is called the same in every revision."""


class Overlap(Document):
    """What a bundle has seen of the test images.

    Attributes:
        learnt: images that it was trained on or chosen by, of the target and (in-domain) of the source.
        images, groups: of the test, that belong to a leakage group with one of these.
        example: one of those images; empty: there is none.
        unplaced: images that it has learnt from, of no known patient, that this revision of the data has not read:
            whether test images are nearly like them cannot be told.
    """

    learnt: int
    images: int
    groups: int
    example: str
    unplaced: int


class _Image(NamedTuple):
    name: str
    sha256: str
    group: str
    """Empty where the table does not say it."""


class Revision:
    """The leakage groups of all images that a revision of the data read.

    Args:
        store: folder of the target's image store, verified.

    Raises:
        RadtransferError: it does not tell them.
    """

    def __init__(self, store: Path) -> None:
        if not (store / inherit.LEFT_OUT).is_file():
            raise RadtransferError(
                f"{store}: has no {inherit.LEFT_OUT}, so whether a model has learnt from the test images cannot be "
                "told; name the target's store, made by `preprocess` of this version"
            )
        self.by_name: dict[str, set[str]] = defaultdict(set)
        self.by_sha256: dict[str, set[str]] = defaultdict(set)
        with (store / inherit.LEFT_OUT).open(newline="", encoding="utf-8") as stream:
            left_out = [_Image(row["image_id"], row["sha256"], row[inherit.GROUP]) for row in csv.DictReader(stream)]
        for image in (*(image for _, _, image in _rows(store / inherit.FILE)), *left_out):
            self.by_name[image.name].add(image.group)
            self.by_sha256[image.sha256].add(image.group)

    def overlap(self, bundle: Path, content: dict[str, Any], test: pd.DataFrame) -> Overlap | None:
        """What a bundle has seen of the test images; None: it does not name what it has learnt from.

        An image is known again by its name or by the sha256 of its file, a patient by the name of the group.

        Args:
            bundle: its folder, verified.
            content: what it says of itself.
            test: rows of the manifest.

        Raises:
            RadtransferError: it does so in a table that cannot be read.
        """
        if not (bundle / inherit.FILE).is_file():
            return None
        roles = inherit.ROLES[:1] if content.get("tl_source") in ("scratch", "imagenet") else inherit.ROLES
        seen: set[str] = set()
        learnt = unplaced = 0
        for role, split, image in _rows(bundle / inherit.FILE):
            if role in roles and split in LEARNT_SPLITS:
                here = self.by_name.get(image.name, set()) | self.by_sha256.get(image.sha256, set())
                learnt += 1
                unplaced += not here and not image.group.startswith(PATIENT)
                seen |= here | {image.group}
        touched = test[test["group_id"].isin(seen)]
        return Overlap(
            learnt=learnt,
            images=len(touched),
            groups=int(touched["group_id"].nunique()),
            example="" if touched.empty else str(touched["image_id"].iloc[0]),
            unplaced=unplaced,
        )


def _rows(path: Path) -> Iterator[tuple[str, str, _Image]]:
    """Role, split and image of each row of a ``splits.csv``."""
    for row in read_rows(path, inherit.COLUMNS, optional=(inherit.GROUP,)):
        role, name, sha256, split = (row.cells[column] for column in inherit.COLUMNS)
        yield role, split, _Image(name, sha256, row.cells.get(inherit.GROUP, ""))
