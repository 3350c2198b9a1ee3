"""Images that a finished run has never seen, as a store: an external data set, or a part that the run left alone."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from radtransfer import artifacts
from radtransfer.config import ExternalSet, RunConfig
from radtransfer.datasets.fetch import located
from radtransfer.datasets.roots import unpinned
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.describe import describe
from radtransfer.preprocess.images import decode_all, group_names, manifest_row
from radtransfer.preprocess.pixels import Window
from radtransfer.preprocess.scratch import resumable
from radtransfer.preprocess.selection import Asked, of_part, select
from radtransfer.problems import Policy, Rejected, policies

ROLE = "external"
_ASKED = ("layout", "path", "table")
SAME = "an image of the run itself"
LIKE = "the run has seen a near duplicate of it, or its patient"


@dataclass(frozen=True)
class Learnt:
    """The data that a run has seen, and how it prepares images.

    Attributes:
        target, source: its data sets.
        part, parts: of the target, and of the source (none: all but the target's).
        image_size, ct_window, crop_border, on_problem: as of :func:`radtransfer.preprocess.run.preprocess`.
        splits: ``splits.csv``, which names all images in its stores.
    """

    target: Asked
    part: str
    source: Asked
    parts: list[str]
    image_size: int
    ct_window: list[float]
    crop_border: bool
    on_problem: dict[str, Policy]
    splits: Path

    @classmethod
    def of_store(cls, target_store: Path) -> Learnt:
        """By the target's image store of the run."""
        settings = artifacts.read(target_store, "image-store").made["settings"]
        target, source = (Asked(**{name: settings[role][name] for name in _ASKED}) for role in ("target", "source"))
        same = {name: settings[name] for name in ("image_size", "ct_window", "crop_border", "on_problem")}
        parts = list(settings["source"]["parts"])
        return cls(target, settings["target"]["part"], source, parts, **same, splits=target_store / "splits.csv")

    @classmethod
    def of_config(cls, config: RunConfig, splits: Path) -> Learnt:
        """By the configuration of the run and the ``splits.csv`` that it left."""
        return cls(
            Asked(config.target_layout, config.target_path, config.target_table),
            config.target_part,
            Asked(config.source_layout, config.source_path, config.source_table),
            config.source_parts,
            config.image_size,
            config.ct_window,
            config.crop_border,
            policies(config.on_problem),
            splits,
        )


def external_store(*, data_root: str | Path, learnt: Learnt, asked: ExternalSet, out: Path) -> None:
    """Store the images of a part of a data set that no model of a run has learned from or was chosen by.

    They are decoded, scaled and cropped as the run's were; what a run would stop at is repaired or left out; duplicates
    of the other class are kept, whatever the policy for ``unlike_duplicate``. Leakage groups are found over them and
    *all* images of the run's target and source (whatever their split); what is in a group with one of these is left out
    and listed. Near duplicates are looked for whether or not patients are known; a patient is known again only within a
    data set, told by the name of its folder.

    Args:
        data_root: folder of the data sets, the run's among them, or its address; what an address in S3 is pinned to are
            the run's, as in the run itself.
        learnt: what the run has seen; all of it must be there.
        asked: the data set and the part of it.
        out: image store to write, all of it in the split ``test``.

    Raises:
        RadtransferError: a folder, layout, part or class is missing, images of the run are not there, or none is left.
    """
    wanted, target, source = Asked(asked.layout, asked.path, asked.table), learnt.target, learnt.source
    settings = {name: asdict(one) for name, one in (("external", wanted), ("target", target), ("source", source))}
    same = {"ct_window": learnt.ct_window, "crop_border": learnt.crop_border}
    with (
        located(data_root, (target.path, source.path)) as place,
        located(unpinned(data_root), (asked.path,)) as elsewhere,
    ):
        own = of_part(ROLE, elsewhere.root, wanted, asked.part)
        seen = select(place.root, target, learnt.part, source, learnt.parts)
        shared = {"roots": [str(root.resolve()) for root in (elsewhere.root, place.root)]} | settings | same
        with (
            resumable(shared, learnt.image_size, Path(out).absolute().parent) as scratch,
            artifacts.writing(Path(out), "image-store", step="external", settings=settings | same) as (folder, content),
        ):
            window, chosen = Window.of(learnt.ct_window), learnt.on_problem
            images, descriptors = decode_all((own, *seen), scratch, window, learnt.crop_border, chosen)
            known = {image.sha256 for image in images if image.role != ROLE}
            _check_there(learnt.splits, known)
            names, pairs = group_names(images, descriptors, scratch, of_known_patients=True)
            taken = {name for image, name in zip(images, names, strict=True) if image.role != ROLE}
            mine = [i for i, image in enumerate(images) if image.role == ROLE]
            kept = sorted((i for i in mine if names[i] not in taken), key=lambda i: images[i].record.file)
            own.rejected += [
                Rejected(images[i].record.file, "leak", SAME if images[i].sha256 in known else LIKE)
                for i in mine
                if names[i] in taken
            ]
            for label, name in enumerate(own.dataset.classes):
                if not any(images[i].record.label == label for i in kept):
                    raise RadtransferError(
                        f"{own.title}: no image of class {name!r} is left that the run has not seen ({len(mine)} "
                        f"images were read, {len(mine) - len(kept)} are of what it has seen); name another set or part"
                    )
            own.rejected = sorted(one._replace(file=own.dataset.called(one.file)) for one in own.rejected)
            rows = [manifest_row(images[i], own, names[i], "test") for i in kept]
            squares = (scratch.square(images[i].place) for i in kept)
            store.write(folder, rows, squares, learnt.image_size, own.rejected, own.found)
            own_images = set(kept)
            joined = sum(own_images.issuperset(pair) for pair in pairs)
            described = describe(own, rows, [images[i].levels for i in kept], learnt.image_size, joined)
            content.update(described, **same, data=elsewhere.data)


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
