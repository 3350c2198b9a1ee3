"""Splits of whole leakage groups, stratified by class."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radtransfer.errors import RadtransferError

DEALT = ("train", "validation", "test")
"""What groups are dealt to."""
UNUSED = "unused"
"""Where groups of train and validation go whose labels a run shall do without, see :func:`label_ranks`."""
SPLITS = (*DEALT, UNUSED)


@dataclass(frozen=True)
class Splits:
    """The split of each leakage group; a group cannot be in two.

    Attributes:
        by_group: one of :data:`SPLITS` for each group.

    Raises (from the constructors):
        RadtransferError: an unknown split, or a group that lies in two.
    """

    by_group: Mapping[str, str]

    def __post_init__(self) -> None:
        for group, split in self.by_group.items():
            if split not in SPLITS:
                raise RadtransferError(f"leakage group {group!r}: unknown split {split!r}; known: {', '.join(SPLITS)}")

    @classmethod
    def of_images(cls, groups: Sequence[str], splits: Sequence[str], where: str) -> Splits:
        """From the group and the split of each image; ``where`` is named in errors."""
        found: dict[str, str] = {}
        for group, split in zip(groups, splits, strict=True):
            if found.setdefault(group, split) != split:
                raise RadtransferError(
                    f"{where}: leakage group {group!r} lies in the splits {found[group]!r} and {split!r}; make it again"
                )
        return cls(found)

    def __getitem__(self, group: str) -> str:
        return self.by_group[group]


def assign(
    groups: Sequence[str],
    classes: Sequence[int],
    fractions: Mapping[str, float],
    seed: int,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Deal groups out to parts so that each part gets its fraction of each class.

    Greedy, after scikit-learn's ``StratifiedGroupKFold``: each group goes where it lowers most the squared shortfall,
    summed over classes and divided by the class size. Groups above a twentieth of the smallest part come first, larger
    ones earlier, since they fit only while there is room; all others come in the order of a hash of group and seed, so
    that small groups of any size land in any part, and the result does not depend on the order of rows.

    Args:
        groups: group of each image.
        classes: class (stratum) of each image, 0, 1, ...
        fractions: share of each part; they sum to 1.
        seed: another seed, another deal.
        fixed: part of groups that are dealt already; the others are dealt so that both together meet the fractions as
            nearly as they can.

    Returns:
        part of each group.
    """
    if not np.isclose(sum(fractions.values()), 1) or min(fractions.values()) < 0:
        raise ValueError(f"fractions {dict(fractions)} must not be negative and must sum to 1")
    width = max(classes, default=0) + 1
    counts: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for group, label in zip(groups, classes, strict=True):
        counts.setdefault(group, np.zeros(width))[label] += 1
    totals = sum(counts.values(), np.zeros(width))
    wanted = np.array(list(fractions.values()))[:, None] * totals
    weight = 1 / np.maximum(totals, 1)
    have = np.zeros_like(wanted)
    names = list(fractions)
    result = {group: part for group, part in (fixed or {}).items() if group in counts}
    for group, part in result.items():
        have[names.index(part)] += counts[group]
    large = 0.05 * min(float(part.sum()) for part in wanted if part.sum() > 0) if len(wanted) else 0.0
    sizes = {group: float(its.sum()) if its.sum() > large else 0.0 for group, its in counts.items()}
    free = counts.keys() - result.keys()
    for group in sorted(free, key=lambda name: (-sizes[name], seeded_hash(name, seed))):
        change = (counts[group] * (2 * (have - wanted) + counts[group]) * weight).sum(axis=1)
        best = int(np.argmin(change))
        have[best] += counts[group]
        result[group] = names[best]
    return result


def fold(groups: Sequence[str], classes: Sequence[int], number: int, of: int, seed: int) -> set[str]:
    """Groups of one of ``of`` grouped, stratified folds, ``number`` from 1; together the folds hold every group once.

    Args:
        groups, classes, seed: as for :func:`assign`.
    """
    dealt = assign(groups, classes, {str(each): 1 / of for each in range(1, of + 1)}, seed)
    return {group for group, part in dealt.items() if part == str(number)}


def keep_at_most(groups: Sequence[str], classes: Sequence[int], cap: int, seed: int) -> set[str]:
    """Whole groups, stratified by class, that together hold at most ``cap`` images and nearly as many."""
    if len(groups) <= cap:
        return set(groups)
    share = cap / len(groups)
    dealt = assign(groups, classes, {"kept": share, "left": 1 - share}, seed)
    size: dict[str, int] = {}
    for group in groups:
        size[group] = size.get(group, 0) + 1
    kept = {group for group, part in dealt.items() if part == "kept"}
    excess = sum(size[group] for group in kept) - cap
    for group in sorted(kept, key=lambda name: (size[name], seeded_hash(name, seed))):
        if excess <= 0:
            break
        kept.remove(group)
        excess -= size[group]
    return kept


def label_ranks(groups: Sequence[str], classes: Sequence[int], seed: int) -> dict[str, float]:
    """An order of the groups of one split, of which any first part holds its share of each class.

    Groups with the same classes in them are lined up by a hash of group and seed; the rank of a group is where its
    middle lies in its line, as a share of the line's images. So the groups up to rank ``f`` hold a share ``f`` of the
    images of each line, to within half a group, and those of a smaller share are among those of a larger one.

    Args:
        groups, classes: as for :func:`assign`.
        seed: another seed, another order.

    Returns:
        rank of each group, above 0 and below 1.
    """
    held: dict[str, list[int]] = {}
    for group, label in zip(groups, classes, strict=True):
        held.setdefault(group, []).append(label)
    lines: dict[tuple[int, ...], list[str]] = {}
    for group in sorted(held, key=lambda name: seeded_hash(f"labels {name}", seed)):
        lines.setdefault(tuple(sorted(set(held[group]))), []).append(group)
    ranks = {}
    for line in lines.values():
        total, before = sum(len(held[group]) for group in line), 0
        for group in line:
            ranks[group] = (before + len(held[group]) / 2) / total
            before += len(held[group])
    return ranks


def unused(
    groups: Sequence[str],
    classes: Sequence[int],
    dealt: Mapping[str, str],
    fraction: float,
    seed: int,
    what: str,
) -> set[str]:
    """Groups of train and validation whose labels are not used when only a fraction of both is to be.

    Those used with a fraction are used with every larger one, whatever becomes of the test groups is left alone.

    Args:
        groups, classes: as for :func:`assign`.
        dealt: split of each group.
        fraction: of the images of each class, above 0, 1 at most.
        seed: another seed, other groups.
        what: named in errors.

    Raises:
        RadtransferError: train or validation would lack a class; it says which fraction is possible.
    """
    left_out: set[str] = set()
    possible = 0.0
    for split in ("train", "validation"):
        its = [(group, label) for group, label in zip(groups, classes, strict=True) if dealt[group] == split]
        ranks = label_ranks([group for group, _ in its], [label for _, label in its], seed)
        first = [min(ranks[group] for group, label in its if label == one) for one in {label for _, label in its}]
        possible = max(possible, *first)
        left_out |= {group for group, rank in ranks.items() if rank > fraction}
    if possible > fraction:
        raise RadtransferError(
            f"{what}: label_fraction {fraction:g} leaves a class without images in the train or the validation split; "
            f"{math.ceil(possible * 1000) / 1000:g} is the smallest that is possible here"
        )
    return left_out


def check_classes(
    labels: Sequence[int], splits: Sequence[str], needed: Sequence[str], names: Sequence[str], what: str
) -> None:
    """See that every needed split holds every class.

    Raises:
        RadtransferError: a class is missing altogether, or from one split.
    """
    counts = Counter(zip(labels, splits, strict=True))
    for label, name in enumerate(names):
        total = sum(counts[label, split] for split in needed)
        if not total:
            raise RadtransferError(f"{what}: class {name!r} has no images; add some or choose another part")
        for split in needed:
            if not counts[label, split]:
                raise RadtransferError(
                    f"{what}: class {name!r} has {total} images, none of which fell into the {split} split (whole "
                    "leakage groups are dealt out); add images, raise max_images or change the fractions"
                )


def seeded_hash(name: str, seed: int) -> str:
    """A reproducible random order of names."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
