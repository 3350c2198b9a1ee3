"""The step ``preprocess``: data-set folders to the target's and the source's image store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radtransfer import artifacts
from radtransfer.datasets.fetch import located
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.deal import budgeted, dealt_out, mark_unlike, staying
from radtransfer.preprocess.describe import describe
from radtransfer.preprocess.images import Image, decode_all, group_names, manifest_row
from radtransfer.preprocess.inherit import DEALT_TO, Inherited
from radtransfer.preprocess.inherit import write as write_splits
from radtransfer.preprocess.pixels import Window
from radtransfer.preprocess.scratch import resumable
from radtransfer.preprocess.selection import Asked, Side, select
from radtransfer.problems import PROBLEMS, Policy, policies

_NAMED = 5
"""Files that an error names."""


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
        previous_splits: ``splits.csv`` of an earlier revision, relative to ``data_root``, or
            ``REGISTRY#NAME@VERSION`` of a bundle made of it; empty: none. Its images keep their splits, and new ones
            in their groups share them. Where a group now joins images of several splits, it is test if one of them
            was, and its former training and validation images are left out; else it is train. A former source image
            trains when it comes into the target, and no group with a former test image of the target is in the
            source.
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
        kept = staying(images, sides, names, mark_unlike(images, pairs), inherited, chosen)
        dealt = {}
        for side in sides:
            kept[side.role], dealt[side.role] = dealt_out(
                side, kept[side.role], images, names, inherited, test_fraction, test_fold, validation_fraction,
                max_images, seed,
            )  # fmt: skip
        splits = dealt | {"target": budgeted(sides[0], kept["target"], images, names, dealt, label_fraction, seed)}
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
