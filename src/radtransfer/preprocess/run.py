"""The step ``preprocess``: data-set folders to the target's and the source's image store."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radtransfer import artifacts
from radtransfer.datasets import published
from radtransfer.datasets.fetch import located
from radtransfer.datasets.records import Dataset, Record
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import grouping, split, store
from radtransfer.preprocess.decode import Grey, Letterbox
from radtransfer.preprocess.ingest import Scratch, ingest
from radtransfer.preprocess.selection import Asked, Side, select
from radtransfer.progress import track


@dataclass(frozen=True)
class _Image:
    """A decoded image, waiting in the scratch files at its place."""

    place: int
    record: Record
    role: str
    dataset: Dataset
    sha256: str
    pixel_sha256: str
    box: Letterbox
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """What artifacts call it."""
        return self.dataset.called(self.record.file)


def preprocess(
    *,
    data_root: str | Path,
    target_layout: str,
    target_path: str,
    target_part: str,
    source_layout: str,
    source_path: str,
    source_parts: list[str],
    image_size: int,
    test_fraction: float,
    validation_fraction: float,
    max_images: int,
    seed: int,
    target_out: Path,
    source_out: Path,
    target_table: Mapping[str, Any] | None = None,
    source_table: Mapping[str, Any] | None = None,
) -> None:
    """Decode, letterbox, group, split and store the images of a target part and of its source.

    Images that show the target part belong to the target alone. Groups (:mod:`~radtransfer.preprocess.grouping`) are
    found over target and source together; a source image in the group of a target image is left out. The target is
    split into train, validation and test (its publisher's test set, where there is one), the source into train and
    validation. Every file left out is listed with its reason.

    Args:
        data_root: folder of the data sets, or its address, see :func:`radtransfer.datasets.fetch.located`.
        target_layout, target_path, target_part: the target data set and the part of it.
        source_layout, source_path, source_parts: the source data set and its parts; none: all but the target's.
        image_size: side of the stored images, px.
        test_fraction, validation_fraction: shares of the target's images, in whole groups; the source has the same
            share for validation.
        max_images: cap on the images of each store, 0: none.
        seed: seed of cap and splits. The same files, settings and seed give the same bytes.
        target_out, source_out: where the stores shall lie.
        target_table, source_table: columns of their tables, for the layout ``table``; see
            :class:`radtransfer.config.TableColumns`.

    Raises:
        RadtransferError: a folder, layout, part or class is missing, a split would lack a class, or both stores are
            to lie in one folder, or the data cannot be fetched.
    """
    if Path(target_out).absolute() == Path(source_out).absolute():
        raise RadtransferError(f"{target_out}: named for both stores; name a folder for each")
    asked = (
        Asked(target_layout, target_path, dict(target_table or {})),
        Asked(source_layout, source_path, dict(source_table or {})),
    )
    with ExitStack() as stack:
        place = stack.enter_context(located(data_root, (target_path, source_path)))
        target, source = select(place.root, asked[0], target_part, asked[1], list(source_parts))
        settings = {
            "image_size": image_size,
            "test_fraction": test_fraction,
            "validation_fraction": validation_fraction,
            "max_images": max_images,
            "seed": seed,
            "target": asdict(asked[0]) | {"part": target_part},
            "source": asdict(asked[1]) | {"parts": list(source_parts)},
        }
        folders = {
            side.role: stack.enter_context(
                artifacts.writing(Path(out), "image-store", step="preprocess", settings=settings)
            )
            for side, out in ((target, target_out), (source, source_out))
        }
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folders["target"][0].parent, prefix=".")))
        squares, thumbnails = (
            Scratch(scratch / name, (side, side))
            for name, side in (("squares", image_size), ("thumbnails", grouping.THUMBNAIL))
        )
        images, descriptors = _decoded(place.root, (target, source), squares, thumbnails)
        names, pairs = _group_names(images, descriptors, thumbnails)
        target_files = {
            names[i]: image.name for i, image in reversed(list(enumerate(images))) if image.role == "target"
        }
        for side in (target, source):
            mine = [i for i, image in enumerate(images) if image.role == side.role]
            if side.role == "source":
                reasons = {i: _shared(names[i], target_files) for i in mine}
                mine = _leave_out(mine, images, side, reasons)
            mine, splits = _split(side, mine, images, names, test_fraction, validation_fraction, max_images, seed)
            rows = [_row(images[i], side, names[i], splits[names[i]]) for i in mine]
            folder, content = folders[side.role]
            side.rejected = sorted((side.dataset.called(file), reason) for file, reason in side.rejected)
            store.write(folder, rows, (squares[images[i].place] for i in mine), image_size, side.rejected, side.found)
            kept = set(mine)
            inside = sum(1 for i, j in pairs if i in kept and j in kept)
            content.update(_content(side, rows, image_size, inside) | {"data": place.data})


def _decoded(
    data_root: Path, sides: tuple[Side, Side], squares: Scratch, thumbnails: Scratch
) -> tuple[list[_Image], np.ndarray[tuple[int, int], np.dtype[np.int8]]]:
    images: list[_Image] = []
    descriptors = []
    work = [(side, record) for side in sides for record in side.records]
    ingested = ingest([Path(data_root) / record.file for _, record in work], squares, thumbnails)
    for place, got in enumerate(track(ingested, "preprocess: decode", len(work))):
        side, record = work[place]
        if isinstance(got, str):
            side.rejected.append((record.file, got))
            continue
        descriptors.append(got.descriptor)
        flags = (*record.flags, *got.flags)
        images.append(_Image(place, record, side.role, side.dataset, got.sha256, got.pixel_sha256, got.box, flags))
    return images, np.array(descriptors, dtype=np.int8).reshape(len(images), -1)


@dataclass(frozen=True)
class _Chosen:
    """Some of the thumbnails, numbered anew."""

    thumbnails: Scratch
    places: list[int]

    def __getitem__(self, position: int, /) -> Grey:
        return self.thumbnails[self.places[position]]


def _group_names(
    images: list[_Image], descriptors: np.ndarray[Any, np.dtype[np.int8]], thumbnails: Scratch
) -> tuple[list[str], list[tuple[int, int]]]:
    """Name of each image's leakage group, and the pairs of near duplicates."""
    pairs: list[tuple[int, int]] = []
    for slices, limits in ((False, grouping.RADIOGRAPHS), (True, grouping.SLICES)):
        some = [
            i for i, image in enumerate(images) if image.record.patient_id is None and image.dataset.slices == slices
        ]
        files = [images[i].record.file for i in some]
        found = grouping.near_duplicates(
            descriptors[some], files, _Chosen(thumbnails, [images[i].place for i in some]), limits
        )
        pairs += [(some[i], some[j]) for i, j in found]
    keys = [
        [f"file {image.sha256}", f"pixels {image.pixel_sha256}"]
        + ([f"{owner[0]} {image.dataset.name} {owner[1]}"] if (owner := _owner(image.record)) else [])
        for image in images
    ]
    numbers = grouping.groups(len(images), pairs, keys)
    named: dict[int, str] = {}
    for position in sorted(range(len(images)), key=lambda i: images[i].record.file):
        image, number = images[position], int(numbers[position])
        kind, origin = _owner(image.record) or ("image", hashlib.sha256(image.record.file.encode()).hexdigest()[:16])
        named.setdefault(number, f"{kind}-{origin}")
    return [named[int(number)] for number in numbers], pairs


def _owner(record: Record) -> tuple[str, str] | None:
    """Whose image it is: the patient's; where none is known, the study's."""
    if record.patient_id:
        return "patient", record.patient_id
    return ("study", record.study_id) if record.study_id else None


def _shared(group: str, target_files: dict[str, str]) -> str | None:
    if group not in target_files:
        return None
    kind = group.partition("-")[0]
    shared = "duplicate or near duplicate of" if kind == "image" else f"same {kind} as"
    return f"{shared} the target image {target_files[group]}"


def _leave_out(positions: list[int], images: list[_Image], side: Side, reasons: Mapping[int, str | None]) -> list[int]:
    """Those without a reason to be left out; the others are listed with it."""
    side.rejected += [(images[i].record.file, reason) for i in positions if (reason := reasons.get(i))]
    return [i for i in positions if not reasons.get(i)]


def _split(
    side: Side,
    positions: list[int],
    images: list[_Image],
    names: list[str],
    test_fraction: float,
    validation_fraction: float,
    max_images: int,
    seed: int,
) -> tuple[list[int], dict[str, str]]:
    """Apply cap and split; returns the images kept, sorted by file, and the split of each group."""
    official = {i for i in positions if side.role == "target" and images[i].record.official == "test"}
    held = {names[i] for i in official}
    mixed = "same leakage group as an image of the official test set"
    positions = _leave_out(
        positions, images, side, {i: mixed for i in positions if names[i] in held and i not in official}
    )
    if max_images:
        strata = [images[i].record.label + 2 * (i in official) for i in positions]
        kept = split.keep_at_most([names[i] for i in positions], strata, max_images, seed)
        positions = _leave_out(
            positions, images, side, {i: "left out by max_images" for i in positions if names[i] not in kept}
        )
    free = [i for i in positions if i not in official]
    fractions = {"train": 1 - validation_fraction, "validation": validation_fraction}
    if side.role == "target" and not official:
        fractions |= {"train": 1 - validation_fraction - test_fraction, "test": test_fraction}
    dealt = split.assign([names[i] for i in free], [images[i].record.label for i in free], fractions, seed)
    splits = dealt | dict.fromkeys(held, "test")
    split.check_classes(
        [images[i].record.label for i in positions],
        [splits[names[i]] for i in positions],
        list(fractions | ({"test": 0.0} if official else {})),
        side.dataset.classes,
        side.title,
    )
    return sorted(positions, key=lambda i: images[i].record.file), splits


def _row(image: _Image, side: Side, group: str, where: str) -> dict[str, Any]:
    record, box = image.record, image.box
    width, height = box.width, box.height
    return {
        "image_id": image.name,
        "label": record.label,
        "label_name": side.dataset.classes[record.label],
        "body_part": "+".join(record.parts) if side.role == "source" else side.part,
        "patient_id": record.patient_id,
        "study_id": record.study_id,
        "group_id": group,
        "split": where,
        "boxes": [list(box.box(x0 * width, y0 * height, x1 * width, y1 * height)) for x0, y0, x1, y1 in record.boxes],
        "source_file": image.name,
        "sha256": image.sha256,
        "flags": sorted(image.flags),
        "width": width,
        "height": height,
    }


def _content(side: Side, rows: list[dict[str, Any]], size: int, pairs: int) -> dict[str, Any]:
    dataset = side.dataset
    splits = [name for name in store.SPLITS if any(row["split"] == name for row in rows)]
    groups = Counter(row["group_id"] for row in rows)
    classes: dict[str, set[int]] = {}
    for row in rows:
        classes.setdefault(row["group_id"], set()).add(row["label"])
    mixed = sum(1 for labels in classes.values() if len(labels) > 1)
    by_patient = all(row["patient_id"] for row in rows)
    notes = [*dataset.notes, *side.notes]
    if not by_patient:
        largest = max(groups.values())
        notes.append(f"{pairs} pairs of near duplicates joined; the largest leakage group has {largest} images")
        if mixed:
            notes.append(f"{mixed} leakage groups hold images of both classes")
    counts = Counter((row["split"], row["label_name"]) for row in rows)
    parts = Counter((row["body_part"], row["label_name"]) for row in rows)
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "role": side.role,
        "part": side.part,
        "modality": dataset.modality,
        "images": len(rows),
        "size": size,
        "classes": {str(label): name for label, name in enumerate(dataset.classes)},
        "positive_class": dataset.classes[1],
        "synthetic": dataset.synthetic,
        "grouping": "patient" if by_patient else "near_duplicate",
        "counts": {where: {name: counts[where, name] for name in dataset.classes} for where in splits},
        "groups": {where: len({row["group_id"] for row in rows if row["split"] == where}) for where in splits},
        "parts": {
            part: {name: parts[part, name] for name in dataset.classes} for part in sorted({part for part, _ in parts})
        },
        "flags": dict(sorted(Counter(flag for row in rows for flag in row["flags"]).items())),
        "files_found": side.found,
        "rejected": [{"file": file, "reason": reason} for file, reason in side.rejected],
        "notes": notes,
        **published.terms(dataset.layout),
    }
