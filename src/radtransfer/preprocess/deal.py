"""Which of the images that were read stay, and in which split each leakage group is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from radtransfer.errors import RadtransferError
from radtransfer.preprocess import split
from radtransfer.preprocess.images import Image
from radtransfer.preprocess.inherit import Inherited
from radtransfer.preprocess.selection import Side
from radtransfer.preprocess.split import Splits
from radtransfer.problems import PROBLEMS, Policy, Rejected


def mark_unlike(images: list[Image], pairs: list[tuple[int, int]]) -> set[int]:
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


def staying(
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


def _leave_out(
    positions: list[int], images: list[Image], side: Side, problem: str, reasons: Mapping[int, str | None]
) -> list[int]:
    """Those without a reason to be left out; the others are listed with it."""
    side.rejected += [Rejected(images[i].record.file, problem, why) for i in positions if (why := reasons.get(i))]
    return [i for i in positions if not reasons.get(i)]


def dealt_out(
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


def budgeted(
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
