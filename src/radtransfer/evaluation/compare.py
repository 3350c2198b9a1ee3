"""Is a difference real? Paired group bootstrap, corrected for the number of comparisons.

One test decides, the same for every metric; its size is near 5 % where there are p-values (table in docs/method.md).
Where another one applies its p-value stands beside, uncorrected and without a say, so that nobody chooses the nicer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from scipy.stats import norm

from radtransfer.evaluation import delong
from radtransfer.evaluation.counts import from_tests
from radtransfer.evaluation.intervals import DIGITS, Measured, percentile
from radtransfer.evaluation.metrics import Floats, Metric
from radtransfer.evaluation.proportions import mcnemar_clustered, mcnemar_exact

ALPHA = 0.05
POWER = 0.8
TEST = "paired group bootstrap"


@dataclass(frozen=True)
class Beside:
    """A test made beside the one that counts, and its p-value, which is not corrected."""

    test: str
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Metric of ``a`` less metric of ``b`` on the same images, with a 95 % interval and a two-sided p-value.

    All numbers are ``None`` where the metric is undefined on these images.

    Attributes:
        smallest_detectable: the smallest true difference that is shown with a power of 80 %, see :func:`detectable`.
        beside: another test of the same difference, where one applies.
    """

    a: str
    b: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    adjusted_p: float | None
    family: str
    test: str = TEST
    smallest_detectable: float | None = None
    beside: Beside | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference survives the correction within its family at 5 %."""
        return self.adjusted_p is not None and self.adjusted_p < ALPHA


def compare(a: str, b: str, metric: Metric, measured: dict[str, Measured], family: str) -> Comparison:
    """Paired comparison of two sets of scores measured on the same replicates, see :func:`contrast`.

    Args:
        a: row id, key of ``measured``.
        b: row id, key of ``measured``.
        metric: what is compared.
        measured: all rows, measured with one and the same resamples.
        family: the comparisons that are corrected together.
    """
    first, second = measured[a].intervals[metric].value, measured[b].intervals[metric].value
    if first is None or second is None:
        return Comparison(a, b, metric, None, None, None, None, None, family)
    found = contrast(
        a, b, metric, first - second, measured[a].replicates[metric] - measured[b].replicates[metric], family
    )
    return found if found.p_value is None else replace(found, beside=_beside(metric, measured[a], measured[b]))


def contrast(a: str, b: str, metric: str, value: float, differences: Floats, family: str) -> Comparison:
    """What is shown by a difference and its replicates.

    The interval is the percentile interval of the B replicated differences d*. The p-value inverts it, with the
    Monte Carlo correction of Davison and Hinkley (1997, chapter 4: the observed data count as one more replicate), on
    each side, doubled::

        p = min(1, 2 min((1 + #{d* <= 0}) / (B + 1), (1 + #{d* >= 0}) / (B + 1)))

    so that p < 0.05 where the 95 % interval lies to one side of 0, but for the last replicate. The smallest value it
    can take is 2 / (B + 1). ``adjusted_p`` is the same until :func:`holm` is called.

    Args:
        a, b, metric: what it is the difference of.
        value: observed.
        differences: [B], NaN where undefined.
        family: the comparisons that are corrected together.
    """
    # equal scores give equal sums, but ECE's and nearly equal ones may differ in the last bit: that is no difference
    differences = np.where(np.abs(differences) < 1e-12, 0, differences)
    interval = percentile(value, differences)
    replicates = len(differences)
    if interval.low is None:
        return Comparison(a, b, metric, interval.value, None, None, None, None, family)
    below = (1 + int((differences <= 0).sum())) / (replicates + 1)
    above = (1 + int((differences >= 0).sum())) / (replicates + 1)
    p = round(min(1.0, 2 * min(below, above)), DIGITS)
    return Comparison(
        a,
        b,
        metric,
        interval.value,
        interval.low,
        interval.high,
        p,
        p,
        family,
        smallest_detectable=detectable(float(differences.std(ddof=1)), 1),
    )


def detectable(error: float, comparisons: int) -> float:
    """The smallest true difference that a two-sided test at 5 % shows in four of five test sets like this one.

    (z(1 - alpha / 2) + z(power)) times the standard error, with alpha shared out over the family (the first step of
    Holm, so the least that any of its differences needs): the usual formula for a normal test (Lachin, Controlled
    Clinical Trials 2, 1981; for AUROCs Obuchowski and McClish, Statistics in Medicine 16, 1997). It takes the
    classifiers to be as alike as these two, and says what this test set could show, not what it did.

    Args:
        error: standard error of the difference; here the spread of its replicates.
        comparisons: how many share the family.
    """
    return round(float(norm.ppf(1 - ALPHA / (2 * comparisons)) + norm.ppf(POWER)) * error, DIGITS)


def _beside(metric: Metric, a: Measured, b: Measured) -> Beside | None:
    """DeLong of AUROCs and McNemar of accuracies: as they stand for single images, else in their forms for groups."""
    labels, tests, group = a.source
    single = len(np.unique(group)) == len(group)
    if metric == "auroc":
        apart, error = delong.difference(delong.areas(labels, [tests, b.source.tests], group), 0, 1)
        if np.isnan(error):
            return None
        name = "DeLong" if single else "clustered DeLong (Obuchowski 1997)"
        return Beside(name, round(delong.p_value(apart, error), DIGITS))
    if metric == "accuracy":
        first, second = (from_tests(labels, one.source.tests, group).right for one in (a, b))
        if single and len(tests) == len(b.source.tests) == 1:
            return Beside("exact McNemar", round(mcnemar_exact(first == 1, second == 1), DIGITS))
        return Beside("clustered McNemar (Obuchowski 1998)", round(mcnemar_clustered(first, second, group), DIGITS))
    return None


def smallest_p(replicates: int, comparisons: int) -> float:
    """The smallest p-value that Holm can leave to any of so many comparisons, each with so many replicates."""
    return min(1.0, 2 * comparisons / (replicates + 1))


def at_floor(p: float, replicates: int) -> bool:
    """Whether a p-value before Holm is the smallest that so many replicates can give: the true one may be smaller."""
    return p <= smallest_p(replicates, 1) + 10.0**-DIGITS


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjust p-values and detectable differences within each family (Holm 1979).

    The order is kept; undefined comparisons do not count.
    """
    from statsmodels.stats.multitest import multipletests  # not above: the report needs no tests, and this is slow

    adjusted: dict[int, float] = {}
    numbered = [(one.family, index) for index, one in enumerate(comparisons) if one.p_value is not None]
    for _, members in groupby(sorted(numbered), key=lambda entry: entry[0]):
        indices = [index for _, index in members]
        corrected = multipletests([comparisons[index].p_value for index in indices], method="holm")[1]
        adjusted.update(zip(indices, (round(float(p), DIGITS) for p in corrected), strict=True))
    sizes = Counter(family for family, _ in numbered)
    return [
        replace(
            one,
            adjusted_p=adjusted.get(index),
            smallest_detectable=None
            if one.smallest_detectable is None
            else round(one.smallest_detectable * detectable(1.0, sizes[one.family]) / detectable(1.0, 1), DIGITS),
        )
        for index, one in enumerate(comparisons)
    ]
