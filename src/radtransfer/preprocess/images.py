"""The images of target and source: read into the scratch, grouped by what belongs together, described."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radtransfer.datasets.records import Dataset, Record
from radtransfer.preprocess import grouping
from radtransfer.preprocess.ingest import Levels, Refused, ingest
from radtransfer.preprocess.letterbox import Letterbox
from radtransfer.preprocess.pixels import Grey, Window
from radtransfer.preprocess.scratch import Place, Scratch
from radtransfer.preprocess.selection import Side
from radtransfer.problems import PROBLEMS, Policy, Rejected
from radtransfer.progress import track


@dataclass(frozen=True)
class Image:
    """A decoded image, waiting in the scratch."""

    place: Place
    record: Record
    role: str
    dataset: Dataset
    sha256: str
    pixel_digest: str
    box: Letterbox
    flags: tuple[str, ...]
    levels: Levels
    modality: str

    @property
    def name(self) -> str:
        """What artifacts call it."""
        return self.dataset.called(self.record.file)


def decode_all(
    sides: Sequence[Side],
    scratch: Scratch,
    window: Window | None,
    crop_border: bool,
    chosen: Mapping[str, Policy],
) -> tuple[list[Image], np.ndarray[tuple[int, int], np.dtype[np.int8]]]:
    """All images of the sides that can be decoded, and their descriptors [N, 2304]; others join the rejected."""
    images: list[Image] = []
    descriptors = []
    work = [(side, record) for side in sides for record in side.records]
    paths = [side.root / record.file for side, record in work]
    ingested = ingest(paths, scratch, window, crop_border=crop_border)
    for (side, record), got in zip(work, track(ingested, "preprocess: decode", len(work)), strict=True):
        if isinstance(got, Refused):
            side.rejected.append(Rejected(record.file, got.problem, got.reason))
            continue
        conflict = ("label_conflict",) if record.file in side.dataset.conflicts else ()
        flags = (*conflict, *got.flags)
        unwanted = next((flag for flag in flags if chosen.get(flag) == "skip"), None)
        if unwanted:
            side.rejected.append(Rejected(record.file, unwanted, PROBLEMS[unwanted].what))
            continue
        descriptors.append(got.descriptor)
        digests, seen = (got.sha256, got.pixel_digest), (got.levels, got.modality)
        images.append(Image(got.place, record, side.role, side.dataset, *digests, got.box, flags, *seen))
    return images, np.array(descriptors, dtype=np.int8).reshape(len(images), -1)


@dataclass(frozen=True)
class _Chosen:
    """Some of the thumbnails, numbered anew."""

    scratch: Scratch
    places: list[Place]

    def __getitem__(self, position: int, /) -> Grey:
        return self.scratch.thumbnail(self.places[position])


def group_names(
    images: list[Image],
    descriptors: np.ndarray[Any, np.dtype[np.int8]],
    scratch: Scratch,
    *,
    of_known_patients: bool = False,
) -> tuple[list[str], list[tuple[int, int]]]:
    """Name of each image's leakage group, and the pairs of near duplicates.

    Args:
        images: the images, N.
        descriptors: theirs, int8 [N, 2304].
        scratch: where they wait.
        of_known_patients: whether ids hold within one data set only, told by its name, and near duplicates are looked
            for among images whose patient is known, too. Else equal ids are one patient's, wherever they lie: to lose
            an image of the source by a coincidence costs less than to miss a leak.
    """

    def named_in(image: Image) -> str:
        return image.dataset.name if of_known_patients else ""

    pairs: list[tuple[int, int]] = []
    for slices, limits in ((False, grouping.RADIOGRAPHS), (True, grouping.SLICES)):
        some = [
            i
            for i, image in enumerate(images)
            if image.dataset.slices == slices and (of_known_patients or image.record.patient_id is None)
        ]
        files = [images[i].record.file for i in some]
        # Where patients are known, their ids say whose the next number is.
        series = ["" if images[i].record.patient_id else images[i].dataset.name for i in some]
        thumbnails = _Chosen(scratch, [images[i].place for i in some])
        found = grouping.near_duplicates(descriptors[some], files, thumbnails, limits, series)
        pairs += [(some[i], some[j]) for i, j in found]
    keys = [
        [f"file {image.sha256}", f"pixels {image.pixel_digest}"]
        + ([f"{owner[0]} {named_in(image)} {owner[1]}"] if (owner := _owner(image.record)) else [])
        for image in images
    ]
    numbers = grouping.groups(len(images), pairs, keys)
    named: dict[int, str] = {}
    bearers: dict[str, int] = {}
    for position in sorted(range(len(images)), key=lambda i: images[i].record.file):
        image, number = images[position], int(numbers[position])
        if number not in named:
            kind, origin = _owner(image.record) or ("image", hashlib.sha256(image.name.encode()).hexdigest()[:16])
            name = f"{kind}-{origin}"
            # Another data set may have the same id, of somebody else.
            named[number] = name if bearers.setdefault(name, number) == number else f"{name}-of-{image.dataset.name}"
    return [named[int(number)] for number in numbers], pairs


def _owner(record: Record) -> tuple[str, str] | None:
    """Whose image it is: the patient's; where none is known, the study's."""
    if record.patient_id:
        return "patient", record.patient_id
    return ("study", record.study_id) if record.study_id else None


def manifest_row(image: Image, side: Side, group: str, where: str) -> dict[str, Any]:
    """The row of an image in the manifest of a side, by its leakage group and its split."""
    record, box = image.record, image.box
    width, height = box.width, box.height
    boxes = [box.box(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in record.boxes]
    return {
        "image_id": image.name,
        "label": record.label,
        "label_name": side.dataset.classes[record.label],
        "body_part": "+".join(record.parts) if side.role == "source" else side.part,
        "patient_id": record.patient_id,
        "study_id": record.study_id,
        "group_id": group,
        "split": where,
        "boxes": [[x0, y0, x1, y1] for x0, y0, x1, y1 in boxes if x0 < x1 and y0 < y1],
        "source_file": image.name,
        "sha256": image.sha256,
        "flags": sorted(image.flags),
        "attributes": list(record.attributes),
        "width": width,
        "height": height,
        "shown": [box.x0, box.y0, box.x1, box.y1],
    }
