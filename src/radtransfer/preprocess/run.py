"""The step ``preprocess``: data-set folders to the target's and the source's image store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from radtransfer import artifacts
from radtransfer.datasets.fetch import located
from radtransfer.datasets.records import Dataset, Record
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import grouping, split, store
from radtransfer.preprocess.describe import describe
from radtransfer.preprocess.ingest import Levels, Refused, ingest
from radtransfer.preprocess.inherit import DEALT_TO, Inherited
from radtransfer.preprocess.inherit import write as write_splits
from radtransfer.preprocess.letterbox import Letterbox
from radtransfer.preprocess.pixels import Grey, Window
from radtransfer.preprocess.scratch import Place, Scratch, resumable
from radtransfer.preprocess.selection import Asked, Side, select
from radtransfer.preprocess.split import Splits
from radtransfer.problems import PROBLEMS, Policy, Rejected, policies
from radtransfer.progress import track

_NAMED = 5
"""Files that an error names."""


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
    previous_splits: str = "",
    test_fold: Sequence[int] = (),
    ct_window: Sequence[float] = (),
    crop_border: bool = False,
    on_problem: Mapping[str, Any] | None = None,
    label_fraction: float = 1.0,
) -> None:
    """Decode, letterbox, group, split and store the images of a target part and of its source.

    Images that show the target part belong to the target alone. Groups (:mod:`~radtransfer.preprocess.grouping`) are
    found over target and source together; a source image in the group of a target image is left out. The target is
    split into train, validation and test (its publisher's test set, where there is one), the source into train and
    validation. Every file left out is listed with its reason. The target's store gets ``splits.csv``, by which a later
    revision of the data keeps the split of every image, and ``left_out.csv``, the groups of what was read and not kept.

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
        previous_splits: ``splits.csv`` of an earlier revision, relative to ``data_root``; empty: none. Its images keep
            their splits, and new ones in their groups share them. Where a group now joins images of several splits, it
            is test if one of them was, and its former training and validation images are left out; else it is train.
            A former source image trains when it comes into the target, and no group with a former test image of the
            target is in the source.
        test_fold: [number, of], to test on this one (from 1) of so many folds of the target, see
            :func:`radtransfer.preprocess.split.fold`, in place of ``test_fraction``; empty: one split.
        ct_window: [centre, width] in Hounsfield units for CT in DICOM files; empty: the window that each file names.
        crop_border: cut away the flat border around an image (film edge, collimation) before it is scaled, see
            :func:`radtransfer.preprocess.border.inside_border`; groups and grey levels are those of the whole image.
        on_problem: policies for what may be wrong with files, see :func:`radtransfer.problems.policies`.
        label_fraction: share of the target's train and validation images, each in whole groups and stratified by
            class, whose labels are used, above 0, 1 at most. The others stay in the store, in a split ``unused``.
            Groups used with a fraction are used with every larger one; test and source images do not depend on it.

    Raises:
        RadtransferError: a folder, layout, part or class is missing, a split would lack a class, both stores are to
            lie in one folder or cannot be written, ``previous_splits`` cannot be read, the data cannot be fetched, or
            there is a problem whose policy is ``fail``.
    """
    chosen = policies(on_problem or {})
    test_fold = [int(number) for number in test_fold]  # KFP may hand on 1.0
    if Path(target_out).absolute() == Path(source_out).absolute():
        raise RadtransferError(f"{target_out}: named for both stores; name a folder for each")
    for out in (target_out, source_out):
        artifacts.check_free(Path(out))
    asked = (
        Asked(target_layout, target_path, dict(target_table or {})),
        Asked(source_layout, source_path, dict(source_table or {})),
    )
    window = Window.of(ct_window)
    with ExitStack() as stack:
        place = stack.enter_context(located(data_root, (target_path, source_path)))
        inherited = Inherited.read(place.root, previous_splits)
        sides = select(place.root, asked[0], target_part, asked[1], list(source_parts))
        _stop_at(chosen, sides)
        settings = {
            "image_size": image_size,
            "test_fraction": test_fraction,
            "validation_fraction": validation_fraction,
            "max_images": max_images,
            "seed": seed,
            "on_problem": chosen,
            "target": asdict(asked[0]) | {"part": target_part},
            "source": asdict(asked[1]) | {"parts": list(source_parts)},
            "previous_splits": previous_splits,
            "test_fold": test_fold,
            "ct_window": list(ct_window),
            "crop_border": crop_border,
            "label_fraction": label_fraction,
        }
        of_pixels = ("target", "source", "ct_window", "crop_border")
        shared = {"root": str(place.root.resolve())} | {key: settings[key] for key in of_pixels}
        # Entered before the stores, so that it is there until they have their names.
        scratch = stack.enter_context(resumable(shared, image_size, Path(target_out).absolute().parent))
        folders = {
            side.role: stack.enter_context(
                artifacts.writing(Path(out), "image-store", step="preprocess", settings=settings)
            )
            for side, out in zip(sides, (target_out, source_out), strict=True)
        }
        images, descriptors = decode_all(sides, scratch, window, crop_border, chosen)
        _stop_at(chosen, sides)
        names, pairs = group_names(images, descriptors, scratch)
        kept = _kept(images, sides, names, _mark_unlike(images, pairs), inherited, chosen)
        dealt = {}
        for side in sides:
            kept[side.role], dealt[side.role] = _split(
                side, kept[side.role], images, names, inherited, test_fraction, test_fold, validation_fraction,
                max_images, seed,
            )  # fmt: skip
        splits = dealt | {"target": _budgeted(sides[0], kept["target"], images, names, dealt, label_fraction, seed)}
        _stop_at(chosen, sides, [images[i] for mine in kept.values() for i in mine])
        written: dict[str, list[dict[str, Any]]] = {}
        for side in sides:
            mine, (folder, content) = kept[side.role], folders[side.role]
            own = set(mine)
            rows = written[side.role] = [
                manifest_row(images[i], side, names[i], splits[side.role][names[i]])
                | {DEALT_TO: dealt[side.role][names[i]]}
                for i in mine
            ]
            lost = sum(len(images[i].record.boxes) for i in mine) - sum(len(row["boxes"]) for row in rows)
            if lost:
                side.notes.append(f"{lost} boxes hold nothing of what is shown of their images and are left out")
            side.rejected = sorted(one._replace(file=side.dataset.called(one.file)) for one in side.rejected)
            store.write(
                folder, rows, (scratch.square(images[i].place) for i in mine), image_size, side.rejected, side.found
            )
            joined = sum(own.issuperset(pair) for pair in pairs)
            told = describe(side, rows, [images[i].levels for i in mine], image_size, joined)
            content.update(told, ct_window=list(ct_window), crop_border=crop_border, data=place.data)
            if side.role == "target":
                content["label_fraction"] = label_fraction
                content["dicom_modalities"] = sorted({images[i].modality for i in mine} - {""})
        stored = {i for mine in kept.values() for i in mine}
        left_out = [
            {"role": image.role, "image_id": image.name, "sha256": image.sha256, "group_id": name}
            for i, (image, name) in enumerate(zip(images, names, strict=True))
            if i not in stored
        ]
        write_splits(folders["target"][0], written, left_out)


def _stop_at(chosen: Mapping[str, Policy], sides: tuple[Side, Side], kept: Iterable[Image] = ()) -> None:
    """See that nothing was found so far whose policy is ``fail``.

    Raises:
        RadtransferError: something was; it names the first files.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for side in sides:
        for one in side.rejected:
            found[one.problem].append(side.dataset.called(one.file))
    for image in kept:
        for flag in image.flags:
            found[flag].append(image.name)
    for problem, policy in chosen.items():
        files = sorted(found[problem]) if policy == "fail" else []
        if files:
            others = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            instead = " or ".join(PROBLEMS[problem].policies[:-1])
            raise RadtransferError(
                f"{len(files)} file{'s' * (len(files) != 1)} with the problem {problem!r} ({PROBLEMS[problem].what}): "
                f"{', '.join(files[:_NAMED])}{others}; put them right or remove them, or set the policy {instead} in "
                "on_problem. `radtransfer datasets check` lists all"
            )


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


def _shared(group: str, target_files: dict[str, str]) -> str | None:
    if group not in target_files:
        return None
    kind = group.partition("-")[0]
    shared = "duplicate or near duplicate of" if kind == "image" else f"same {kind} as"
    return f"{shared} the target image {target_files[group]}"


def _was(image: Image, inherited: Inherited) -> set[str]:
    """The splits that an image of this role was in; a former source image of the target trained, wherever it was."""
    its = inherited.splits(image.role, image.name, image.sha256)
    if image.role == "target" and not its and inherited.splits("source", image.name, image.sha256):
        return {"train"}
    return its


def _mark_unlike(images: list[Image], pairs: list[tuple[int, int]]) -> set[int]:
    """Flag the images that have a duplicate or near duplicate of the other class; returns their positions."""
    same: dict[str, int] = {}
    exact = [(same.setdefault(image.pixel_digest, i), i) for i, image in enumerate(images)]
    unlike = {
        position
        for i, j in (*pairs, *exact)
        if images[i].dataset.classes == images[j].dataset.classes and images[i].record.label != images[j].record.label
        for position in (i, j)
    }
    for i in unlike:
        images[i] = replace(images[i], flags=(*images[i].flags, "unlike_duplicate"))
    return unlike


def _kept(
    images: list[Image],
    sides: tuple[Side, Side],
    names: list[str],
    unlike: set[int],
    inherited: Inherited,
    chosen: Mapping[str, Policy],
) -> dict[str, list[int]]:
    """Positions of the images of each side, less those that a duplicate or an earlier revision keeps out."""
    kept = {side.role: [i for i, image in enumerate(images) if image.role == side.role] for side in sides}
    if chosen["unlike_duplicate"] == "skip":
        reasons = dict.fromkeys(unlike, PROBLEMS["unlike_duplicate"].what)
        kept = {side.role: _leave_out(kept[side.role], images, side, "unlike_duplicate", reasons) for side in sides}
    target_files = {names[i]: images[i].name for i in reversed(kept["target"])}
    tested = {
        names[i] for i in kept["source"] if "test" in inherited.splits("target", images[i].name, images[i].sha256)
    }
    former = f"is, or belongs to, a test image of the target in {inherited.file}"
    leaks = {i: _shared(names[i], target_files) or (former if names[i] in tested else None) for i in kept["source"]}
    return kept | {"source": _leave_out(kept["source"], images, sides[1], "leak", leaks)}


def _leave_out(
    positions: list[int], images: list[Image], side: Side, problem: str, reasons: Mapping[int, str | None]
) -> list[int]:
    """Those without a reason to be left out; the others are listed with it."""
    side.rejected += [Rejected(images[i].record.file, problem, why) for i in positions if (why := reasons.get(i))]
    return [i for i in positions if not reasons.get(i)]


def _split(
    side: Side,
    positions: list[int],
    images: list[Image],
    names: list[str],
    inherited: Inherited,
    test_fraction: float,
    test_fold: Sequence[int],
    validation_fraction: float,
    max_images: int,
    seed: int,
) -> tuple[list[int], Splits]:
    """Apply cap and split; returns the images kept, sorted by file, and the split of each group."""
    official = {i for i in positions if side.role == "target" and images[i].record.official == "test"}
    if official and test_fold:
        raise RadtransferError(f"test_fold: {side.title} has a test set of its publisher's; leave test_fold out")
    held = {names[i] for i in official}
    mixed = "same leakage group as an image of the official test set"
    reasons = {i: mixed for i in positions if names[i] in held and i not in official}
    was = {i: _was(images[i], inherited) for i in positions}
    before: dict[str, set[str]] = {}
    for i in positions:
        before.setdefault(names[i], set()).update(was[i])
    held |= {group for group, its in before.items() if "test" in its}
    merged = f"was in another split in {inherited.file} than a test image whose leakage group it is in now"
    reasons |= {i: merged for i in positions if names[i] in held and was[i] - {"test"} and i not in official}
    if inherited.file:
        side.notes += _inheritance(inherited, was, before)
    positions = _leave_out(positions, images, side, "leak", reasons)
    if max_images:
        strata = [images[i].record.label + 2 * (i in official) for i in positions]
        kept = split.keep_at_most([names[i] for i in positions], strata, max_images, seed)
        capped = {i: "left out by max_images" for i in positions if names[i] not in kept}
        positions = _leave_out(positions, images, side, "", capped)
    fixed = {group: "train" if "train" in its else "validation" for group, its in before.items() if its}
    set_apart = bool(official)
    if test_fold and side.role == "target":
        number, of = test_fold
        labels = [images[i].record.label for i in positions]
        held = split.fold([names[i] for i in positions], labels, number, of, seed)
        side.notes.append(f"the test images are fold {number} of {of}")
        validation_fraction /= 1 - 1 / of
        set_apart = True
    fixed |= dict.fromkeys(held, "test")
    fractions = {"train": 1 - validation_fraction, "validation": validation_fraction}
    free = positions
    if set_apart:
        free = [i for i in positions if names[i] not in held]
    elif side.role == "target":
        fractions |= {"train": 1 - validation_fraction - test_fraction, "test": test_fraction}
    dealt = split.assign([names[i] for i in free], [images[i].record.label for i in free], fractions, seed, fixed)
    splits = Splits(dealt | dict.fromkeys(held, "test"))
    split.check_classes(
        [images[i].record.label for i in positions],
        [splits[names[i]] for i in positions],
        list(fractions | ({"test": 0.0} if set_apart else {})),
        side.dataset.classes,
        side.title,
    )
    return sorted(positions, key=lambda i: images[i].record.file), splits


def _budgeted(
    side: Side,
    positions: list[int],
    images: list[Image],
    names: list[str],
    dealt: Mapping[str, Splits],
    fraction: float,
    seed: int,
) -> Splits:
    """The target's splits when the labels of only a fraction of its train and validation images are used."""
    splits = dealt[side.role]
    if not 0 < fraction <= 1:
        raise RadtransferError(f"label_fraction: {fraction:g} is out of range; expected above 0, 1 at most")
    if fraction == 1:
        return splits
    groups, labels = [names[i] for i in positions], [images[i].record.label for i in positions]
    left_out = split.unused(groups, labels, splits.by_group, fraction, seed, side.title)
    without = sum(group in left_out for group in groups)
    known = sum(splits[group] != "test" for group in groups)
    side.notes.append(
        f"label_fraction {fraction:g}: the labels of {known - without} of {known} train and validation images are "
        f"used; nothing learns from the other {without}, in the split {split.UNUSED}"
    )
    return Splits({**splits.by_group, **dict.fromkeys(left_out, split.UNUSED)})


def _inheritance(inherited: Inherited, was: Mapping[int, set[str]], before: Mapping[str, set[str]]) -> list[str]:
    """What a reader should know of the splits that were kept."""
    known = sum(1 for its in was.values() if its)
    notes = [f"{known} images keep the split that they had in {inherited.file}; {len(was) - known} are new"]
    joined = sum(1 for its in before.values() if len(its) > 1)
    if joined:
        notes.append(
            f"{joined} leakage groups join images of several splits of {inherited.file}: test where one of them was, "
            "without the former training and validation images, which are listed as rejected; else train"
        )
    return notes


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
