"""Whether a figure of images is distributed otherwise among new leakage groups than among known ones.

The statistic is that of Kolmogorov and Smirnov, the largest difference between the two distribution functions of the
images; of a figure that is 0 or 1 that is the difference of the shares. Images of one group are alike, so that its
textbook p-value would be far too small: here p is the share of random reassignments of whole groups, as many of them
new as there are, whose statistic is as large (Good, Permutation Tests, 2000; the observed one counts as one of them).
It is exact where groups are exchangeable, if they come from the same source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from radtransfer.evaluation.verdict import TOO_FEW

REASSIGNMENTS = 1999
SIGNIFICANCE = 0.05
CHUNK = 2_000_000
"""Values held at a time."""


@dataclass(frozen=True)
class Side:
    """A figure on one side: images, groups, and the 5, 50 and 95 % quantiles; of shares the mean stands in ``mean``."""

    images: int
    groups: int
    mean: float
    quantiles: tuple[float, float, float]


@dataclass(frozen=True)
class Shift:
    """A figure compared.

    Attributes:
        figure: its name.
        known, new: both sides; None: no image.
        statistic: of Kolmogorov and Smirnov, 0 to 1; None: a side has no image.
        p_value, adjusted_p: before and after Holm's correction; None: fewer than :data:`TOO_FEW` groups on a side.
    """

    figure: str
    known: Side | None
    new: Side | None
    statistic: float | None
    p_value: float | None
    adjusted_p: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the distributions are shown to differ."""
        return self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE

    def said(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"shown": self.shown}


def shift(figure: str, values: NDArray[np.float64], new: NDArray[np.bool_], groups: NDArray[np.str_]) -> Shift:
    """Compare a figure [N] of images between groups; ``new`` [N] says which, the same for all images of a group."""
    known, other = (_side(values[rows], groups[rows]) for rows in (~new, new))
    if known is None or other is None:
        return Shift(figure, known, other, None, None)
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))  # of images with one value the last
    names, group = np.unique(groups[order], return_inverse=True)
    marked = np.zeros(len(names), dtype=bool)
    marked[group] = new[order]
    statistic = float(_statistics(marked[None], group, ends)[0])
    few = min(known.groups, other.groups) < TOO_FEW
    return Shift(figure, known, other, statistic, None if few else _p_value(statistic, marked, group, ends))


def corrected(shifts: Sequence[Shift]) -> list[Shift]:
    """Adjust the p-values, a family, by Holm's method (1979)."""
    tried = [number for number, one in enumerate(shifts) if one.p_value is not None]
    found = list(shifts)
    if tried:
        adjusted = multipletests([shifts[number].p_value for number in tried], method="holm")[1]
        for number, p in zip(tried, adjusted, strict=True):
            found[number] = replace(shifts[number], adjusted_p=float(p))
    return found


def _side(values: NDArray[np.float64], groups: NDArray[np.str_]) -> Side | None:
    if not len(values):
        return None
    low, middle, high = (float(edge) for edge in np.quantile(values, (0.05, 0.5, 0.95)))
    return Side(len(values), len(np.unique(groups)), float(values.mean()), (low, middle, high))


def _p_value(statistic: float, marked: NDArray[np.bool_], group: NDArray[np.intp], ends: NDArray[np.intp]) -> float:
    random = np.random.default_rng(0)
    at_once, beyond = max(1, CHUNK // len(group)), 0
    for start in range(0, REASSIGNMENTS, at_once):
        count = min(at_once, REASSIGNMENTS - start)
        drawn = random.permuted(np.tile(marked, (count, 1)), axis=1)
        beyond += int((_statistics(drawn, group, ends) >= statistic - 1e-12).sum())
    return (beyond + 1) / (REASSIGNMENTS + 1)


def _statistics(marked: NDArray[np.bool_], group: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """The statistic of each assignment [B, groups], of images in ascending order."""
    new = marked[:, group]
    both = [np.cumsum(side, axis=1, dtype=np.float64) for side in (new, ~new)]
    shares = [side / np.maximum(side[:, -1:], 1) for side in both]
    return np.asarray(np.abs(shares[0] - shares[1])[:, ends].max(axis=1))
