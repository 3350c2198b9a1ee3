"""Images that a finished run has never seen, as a store: an external data set, or a part that the run left alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radtransfer import artifacts
from radtransfer.config import RunConfig
from radtransfer.datasets.fetch import located
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.describe import describe
from radtransfer.preprocess.pixels import Window
from radtransfer.preprocess.run import decode_all, group_names, manifest_row
from radtransfer.preprocess.scratch import resumable
from radtransfer.preprocess.selection import Asked, of_part, select
from radtransfer.problems import Rejected, policies

ROLE = "external"
SEEN = "the run has seen it, its duplicate or near duplicate, or its patient"


def external_store(
    *,
    data_root: str | Path,
    config: RunConfig,
    splits: Path,
    layout: str,
    path: str,
    part: str,
    out: Path,
    table: Mapping[str, Any] | None = None,
) -> None:
    """Store the images of a part of a data set that no model of a run has learned from or was chosen by.

    They are decoded, scaled and cropped as the run's were. Leakage groups are found over them and *all* images of the
    run's target and source (whatever their split); what is in a group with one of these is left out and listed.

    Args:
        data_root: folder of the data sets, the run's among them, or its address.
        config: the run's configuration.
        splits: ``splits.csv`` that the run left; all images that it names must be there.
        layout, path, part: the data set and the part of it.
        out: image store to write, all of it in the split ``test``.
        table: for the layout ``table`` its columns, see :class:`radtransfer.config.TableColumns`.

    Raises:
        RadtransferError: a folder, layout, part or class is missing, images of the run are not there, or none is left.
    """
    asked = Asked(layout, path, dict(table or {}))
    target = Asked(config.target_layout, config.target_path, config.target_table)
    source = Asked(config.source_layout, config.source_path, config.source_table)
    settings: dict[str, Any] = {
        "external": vars(asked) | {"part": part},
        "target": vars(target),
        "source": vars(source),
    }
    settings |= {"ct_window": config.ct_window, "crop_border": config.crop_border}
    with located(data_root, (path, config.target_path, config.source_path)) as place:
        own = of_part(ROLE, place.root, asked, part)
        seen = select(place.root, target, config.target_part, source, config.source_parts)
        shared = {"root": str(place.root.resolve())} | settings
        with (
            resumable(shared, config.image_size, Path(out).absolute().parent) as scratch,
            artifacts.writing(Path(out), "image-store", step="external", settings=settings) as (folder, content),
        ):
            window, chosen = Window.of(config.ct_window), policies(config.on_problem)
            images, descriptors = decode_all(place.root, (own, *seen), scratch, window, config.crop_border, chosen)
            _check_there(splits, {image.sha256 for image in images if image.role != ROLE})
            names, pairs = group_names(images, descriptors, scratch)
            learnt = {name for image, name in zip(images, names, strict=True) if image.role != ROLE}
            mine = [i for i, image in enumerate(images) if image.role == ROLE]
            kept = sorted((i for i in mine if names[i] not in learnt), key=lambda i: images[i].record.file)
            own.rejected += [Rejected(images[i].record.file, "leak", SEEN) for i in mine if names[i] in learnt]
            for label, name in enumerate(own.dataset.classes):
                if not any(images[i].record.label == label for i in kept):
                    raise RadtransferError(
                        f"{own.title}: no image of class {name!r} is left that the run has not seen ({len(mine)} "
                        f"images were read, {len(mine) - len(kept)} are of what it has seen); name another set or part"
                    )
            own.rejected = sorted(one._replace(file=own.dataset.called(one.file)) for one in own.rejected)
            rows = [manifest_row(images[i], own, names[i], "test") for i in kept]
            squares = (scratch.square(images[i].place) for i in kept)
            store.write(folder, rows, squares, config.image_size, own.rejected, own.found)
            joined = sum({*kept}.issuperset(pair) for pair in pairs)
            content.update(
                describe(own, rows, [images[i].levels for i in kept], config.image_size, joined),
                ct_window=config.ct_window,
                crop_border=config.crop_border,
                data=place.data,
            )


def _check_there(splits: Path, found: set[str]) -> None:
    """See that all images that the run names are among those that were read: else a leak could not be seen."""
    with splits.open(newline="", encoding="utf-8") as stream:
        named = {row["image_id"]: row["sha256"] for row in csv.DictReader(stream)}
    missing = sorted(name for name, digest in named.items() if digest not in found)
    if missing:
        raise RadtransferError(
            f"{len(missing)} of the {len(named)} images of the run are not under the data root, {missing[0]} the "
            "first: whether other images are like them cannot be seen; name the data root that the run had"
        )
