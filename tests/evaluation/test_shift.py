"""Shifts between groups of images: found where there is one, and not where images of a group are merely alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from radtransfer.evaluation.shift import TOO_FEW, corrected, shift


def drawn(seed: int, groups: int, new: int, by: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of images of which those of one group are alike, which of them are new, and their groups."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 8, groups)
    marked = np.repeat(np.arange(groups) < new, sizes)
    values = np.repeat(random.normal(size=groups), sizes) + 0.1 * random.normal(size=sizes.sum()) + by * marked
    return values, marked, np.repeat(np.array([f"g{number}" for number in range(groups)]), sizes)


def test_a_p_value_is_one_where_images_of_a_group_are_alike() -> None:
    """Of 300 pairs of the same kind (seeds 0 to 299) 15 are expected below 5 %; a correct tool has more than 27 in
    less than 1 of 600 such sets of seeds. The test for independent images has far more, which shows that it matters.
    """
    pairs = [drawn(seed, 60, 20) for seed in range(300)]
    found = [shift("x", *pair).p_value for pair in pairs]
    assert sum(p is not None and p <= 0.05 for p in found) <= 27
    assert sum(ks_2samp(values[new], values[~new]).pvalue <= 0.05 for values, new, _ in pairs) > 60


def test_the_statistic_is_that_of_kolmogorov_and_smirnov_and_a_shift_is_shown() -> None:
    values, new, groups = drawn(1, 80, 30, by=1.5)
    values = values.round(1)  # with ties
    order = np.random.default_rng(0).permutation(len(values))
    found = shift("x", values[order], new[order], groups[order])
    assert found.statistic == pytest.approx(ks_2samp(values[new], values[~new]).statistic)
    assert found.known is not None and found.new is not None
    assert (found.new.groups, found.known.groups, found.new.images) == (30, 50, new.sum())
    assert found.new.quantiles[1] == np.median(values[new]) and found.new.mean == pytest.approx(values[new].mean())
    none = shift("y", *drawn(2, 80, 30))
    assert found.p_value == 1 / 2000, "none of 1999 reassignments is as extreme"
    one, other = corrected([found, none])
    assert one.shown and one.adjusted_p == pytest.approx(2 / 2000) and not other.shown
    assert other.adjusted_p == none.p_value


def test_of_a_share_it_is_the_difference() -> None:
    values = np.array([1.0] * 30 + [0.0] * 10 + [1.0] * 8 + [0.0] * 32)
    groups = np.array([str(number) for number in range(80)])
    found = shift("positive", values, np.arange(80) >= 40, groups)
    assert found.statistic == pytest.approx(30 / 40 - 8 / 40) and found.p_value == 1 / 2000


def test_few_groups_are_not_tested_and_an_empty_side_is_said() -> None:
    few = shift("x", *drawn(0, 60, TOO_FEW - 1, by=9))
    assert few.p_value is None and few.statistic is not None and not corrected([few])[0].shown
    empty = shift("x", *drawn(0, 60, 0))
    assert empty.new is None and empty.known is not None and empty.statistic is None
