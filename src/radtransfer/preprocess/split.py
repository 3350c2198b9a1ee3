"""Splits of whole leakage groups, stratified by class."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radtransfer.errors import RadtransferError

SPLITS = ("train", "validation", "test")


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
