from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.split import Splits, assign, check_classes, fold, keep_at_most, label_ranks, unused

FRACTIONS = {"train": 0.6, "validation": 0.2, "test": 0.2}


@st.composite
def images(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """Groups of 1 to 4 images; at least 30 groups, so that fractions can be met."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=30, max_size=120))
    rate = draw(st.floats(0.05, 0.95))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    return groups, [int(rng.random() < rate) for _ in groups]


@settings(max_examples=60, deadline=None)
@given(images(), st.integers(0, 1000))
def test_each_part_gets_its_share_of_each_class(data: tuple[list[str], list[int]], seed: int) -> None:
    groups, labels = data
    dealt = assign(groups, labels, FRACTIONS, seed)
    assert set(dealt) == set(groups)
    for label in (0, 1):
        total = labels.count(label)
        got = Counter(dealt[group] for group, own in zip(groups, labels, strict=True) if own == label)
        for part, fraction in FRACTIONS.items():
            assert abs(got[part] - fraction * total) <= 4  # the largest group


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(2, 6), st.integers(0, 1000))
def test_folds_hold_every_group_once_and_are_alike(data: tuple[list[str], list[int]], of: int, seed: int) -> None:
    groups, labels = data
    folds = [fold(groups, labels, number, of, seed) for number in range(1, of + 1)]
    assert sum(map(len, folds)) == len(set(groups)) and set().union(*folds) == set(groups)
    for label in (0, 1):
        own = [group for group, its in zip(groups, labels, strict=True) if its == label]
        for each in folds:
            assert abs(sum(group in each for group in own) - len(own) / of) <= 4  # the largest group


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(data: tuple[list[str], list[int]], seed: int, random: object) -> None:
    groups, labels = data
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = assign([groups[i] for i in order], [labels[i] for i in order], FRACTIONS, seed)
    assert shuffled == assign(groups, labels, FRACTIONS, seed)


@settings(max_examples=60, deadline=None)
@given(images(), st.integers(0, 1000), st.floats(0, 1))
def test_what_is_dealt_already_stays_and_the_rest_makes_up_for_it(
    data: tuple[list[str], list[int]], seed: int, share: float
) -> None:
    """Half of the groups were dealt by other fractions; the others bring each part as near to its share as they can."""
    groups, labels = data
    old = sorted(set(groups))[: len(set(groups)) // 2]
    fixed = {group: "train" if i < share * len(old) else "test" for i, group in enumerate(old)}
    dealt = assign(groups, labels, FRACTIONS, seed, fixed | {"gone": "test"})
    assert set(dealt) == set(groups) and {group: dealt[group] for group in old} == fixed
    for label in (0, 1):
        total = labels.count(label)
        for part, fraction in FRACTIONS.items():
            own = [dealt[group] == part for group, its in zip(groups, labels, strict=True) if its == label]
            new = [group for group, its in zip(groups, labels, strict=True) if its == label and group not in fixed]
            if sum(own) > fraction * total + 4:  # more than its share: all of that was there before
                assert not any(dealt[group] == part for group in new)


def test_a_group_in_two_splits_cannot_be_had() -> None:
    assert Splits.of_images(["a", "b", "a"], ["train", "test", "train"], "x").by_group == {"a": "train", "b": "test"}
    with pytest.raises(RadtransferError, match="x: leakage group 'a' lies in the splits 'train' and 'test'"):
        Splits.of_images(["a", "b", "a"], ["train", "test", "test"], "x")
    with pytest.raises(RadtransferError, match="unknown split 'valid'"):
        Splits({"a": "valid"})


def test_the_seed_decides_and_group_size_does_not() -> None:
    groups = [f"p{i}" for i in range(200) for _ in range(1 + i % 2)]
    labels = [i % 3 == 0 for i in range(len(groups))]
    deals = [assign(groups, [int(x) for x in labels], FRACTIONS, seed) for seed in range(20)]
    assert len({tuple(sorted(deal.items())) for deal in deals}) == 20
    # Pairs and singles land in the test part alike: 100 of each, 20 seeds, a fifth of 2000 with deviation 18.
    pairs = sum(deal[f"p{i}"] == "test" for deal in deals for i in range(1, 200, 2))
    singles = sum(deal[f"p{i}"] == "test" for deal in deals for i in range(0, 200, 2))
    assert abs(pairs - 400) < 80 and abs(singles - 400) < 80


def test_a_large_group_goes_where_there_is_room() -> None:
    groups = ["big"] * 60 + [f"s{i}" for i in range(40)]
    for seed in range(10):
        dealt = assign(groups, [0] * 100, FRACTIONS, seed)
        assert dealt["big"] == "train"
        assert Counter(dealt[group] for group in groups) == {"train": 60, "validation": 20, "test": 20}


@settings(max_examples=60, deadline=None)
@given(images(), st.integers(20, 300), st.integers(0, 100))
def test_the_cap_keeps_whole_groups_and_nearly_fills_up(data: tuple[list[str], list[int]], cap: int, seed: int) -> None:
    groups, labels = data
    kept = keep_at_most(groups, labels, cap, seed)
    count = sum(group in kept for group in groups)
    assert count <= cap
    assert count >= min(cap, len(groups)) - 8
    assert kept == keep_at_most(groups, labels, cap, seed)


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        assign(["a"], [0], {"train": 0.5}, 0)


def test_a_missing_class_is_named() -> None:
    with pytest.raises(RadtransferError, match="target X: class 'fractured' has no images"):
        check_classes([0, 0], ["train", "test"], ["train", "test"], ("normal", "fractured"), "target X")
    with pytest.raises(RadtransferError, match=r"class 'fractured' has 1 images, .* test split"):
        check_classes([0, 0, 1], ["train", "test", "train"], ["train", "test"], ("normal", "fractured"), "target X")
    check_classes([0, 1, 0, 1], ["train", "train", "test", "test"], ["train", "test"], ("a", "b"), "x")


@settings(max_examples=60, deadline=None)
@given(images(), st.integers(0, 1000), st.floats(0.25, 0.95), st.floats(0, 1))
def test_a_label_fraction_takes_its_share_and_smaller_ones_are_within_it(
    data: tuple[list[str], list[int]], seed: int, fraction: float, smaller: float
) -> None:
    groups, labels = data
    dealt = assign(groups, labels, FRACTIONS, seed)
    try:
        less, more = (unused(groups, labels, dealt, share, seed, "x") for share in (smaller * fraction, fraction))
    except RadtransferError:
        return  # the test below
    assert more <= less and not any(dealt[group] == "test" for group in less)
    for split in ("train", "validation"):
        its = [group for group in groups if dealt[group] == split]
        used = sum(group not in more for group in its)
        assert abs(used - fraction * len(its)) <= 6  # half of the largest group in each of three lines
        left = {
            label for group, label in zip(groups, labels, strict=True) if dealt[group] == split and group not in less
        }
        assert left == {label for group, label in zip(groups, labels, strict=True) if dealt[group] == split}


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(0, 1000))
def test_a_label_fraction_that_is_too_small_says_which_is_possible(
    data: tuple[list[str], list[int]], seed: int
) -> None:
    groups, labels = data
    dealt = assign(groups, labels, FRACTIONS, seed)
    with pytest.raises(RadtransferError, match=r"label_fraction 0\.001 leaves a class without") as caught:
        unused(groups, labels, dealt, 0.001, seed, "target X")
    possible = float(str(caught.value).split("; ")[1].split()[0])
    assert 0.001 < possible <= 1
    unused(groups, labels, dealt, possible, seed, "target X")
    with pytest.raises(RadtransferError, match="is the smallest that is possible"):
        unused(groups, labels, dealt, possible - 0.002, seed, "target X")


def test_which_labels_are_used_depends_on_the_seed_and_not_on_the_order() -> None:
    groups = [f"p{i}" for i in range(100)]
    labels = [int(i % 4 == 0) for i in range(100)]
    ranks = [label_ranks(groups, labels, seed) for seed in (0, 0, 1)]
    assert ranks[0] == ranks[1] != ranks[2]
    assert label_ranks(groups[::-1], labels[::-1], 0) == ranks[0]
