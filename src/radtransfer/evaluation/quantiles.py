"""The level of every interval, and the quantiles that belong to it."""

from __future__ import annotations

from functools import cache

from scipy.stats import norm
from scipy.stats import t as student

LEVEL = 0.95
NORMAL = float(norm.ppf((1 + LEVEL) / 2))


@cache
def of_groups(groups: int) -> float:
    """Quantile for a variance estimated from so many groups (at least 2): Student's, with one degree less."""
    return float(student.ppf((1 + LEVEL) / 2, groups - 1))
