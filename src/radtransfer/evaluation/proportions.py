"""Intervals and paired tests of proportions: right calls among images, which may come in groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from radtransfer.evaluation.metrics import Floats
from radtransfer.evaluation.quantiles import NORMAL, of_groups


class Share(NamedTuple):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: Floats, trials: Floats, group: NDArray[np.intp]) -> Share | None:
    """Wilson's interval (1927) of a proportion; of grouped images with the size of sample that they are worth.

    Images of a group are alike, so that n of them say as much as n / d independent ones, d being the design effect: the
    variance of the proportion by sums over groups, over that of independent images (Rao and Scott, Biometrics 48, 1992;
    with Wilson's interval: Saha, Miller and Wang, International Journal of Biostatistics 12(2), 2016). It is never
    taken below 1. Student's quantile of one less than the number of groups pays for estimating it. Where all images
    are called right, or all wrong, d cannot be estimated and a group counts as one image. Where every group is one
    image and was tested once, this is Wilson's interval as it stands.

    Args:
        successes: [N] right calls of each image; a share of several tests may lie between 0 and 1.
        trials: [N] 1 where an image is asked about, else 0.
        group: [N] number of the group of each image, from 0.

    Returns:
        The proportion and its ends; None without trials.
    """
    n = float(trials.sum())
    if not n:
        return None
    value = float((successes * trials).sum() / n)
    asked = trials > 0
    sizes = np.bincount(group, trials)
    groups = int((sizes > 0).sum())
    plain = sizes.max() == 1 and np.isin(successes[asked], (0, 1)).all()
    if plain:
        return Share(value, *_score(value, n, NORMAL))
    if groups < 2 or not 0 < value < 1:
        return Share(value, *_score(value, groups, NORMAL))
    residuals = np.bincount(group, (successes - value) * trials)
    variance = groups / (groups - 1) * float(residuals @ residuals) / n**2
    worth = n if variance == 0 else min(n, value * (1 - value) / variance)
    return Share(value, *_score(value, worth, of_groups(groups)))


def _score(value: float, n: float, z: float) -> tuple[float, float]:
    """Ends of Wilson's interval, inside [0, 1] and around ``value`` whatever the rounding."""
    middle = value + z**2 / (2 * n)
    half = z * np.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return float(min(max(low, 0.0), value)), float(max(min(high, 1.0), value))


def mcnemar_exact(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided exact p-value that two classifiers are right on equally many independent images (McNemar 1947).

    Args:
        first, second: [N] whether each is right.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # not above: slow, and few who come here need it

    table = [[int((a & b).sum()) for b in (second, ~second)] for a in (first, ~first)]
    return float(mcnemar(table, exact=True).pvalue)


def mcnemar_clustered(first: ArrayLike, second: ArrayLike, groups: ArrayLike) -> float:
    """Two-sided p-value of McNemar's question for images in groups (Obuchowski, Statistics in Medicine 17, 1998).

    In the form of Yang, Sun and Hardin (Biometrical Journal 52, 2010): of K groups, d the number of images that only
    the first gets right less those that only the second does, (K - 1) / K (sum d)**2 / sum d**2 against chi-square
    with one degree of freedom. 1 where no group differs.

    Args:
        first, second: [N] whether each is right.
        groups: [N] leakage group of each image.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    apart = np.bincount(group, np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
    squares = float(apart @ apart)
    if squares == 0:
        return 1.0
    statistic = (len(apart) - 1) / len(apart) * float(apart.sum()) ** 2 / squares
    return float(chi2.sf(statistic, 1))
