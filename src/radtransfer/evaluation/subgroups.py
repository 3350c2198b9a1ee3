"""Results in subgroups of the test images: who, which view and which device the figures are of.

Subgroups are described, not tested: there are many, each is small, and whoever searches them finds one that differs. A
class in fewer than :data:`radtransfer.evaluation.verdict.TOO_FEW` leakage groups of a subgroup gives no figure that
rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer.attributes import order
from radtransfer.evaluation import metrics
from radtransfer.evaluation.entries import Entry
from radtransfer.evaluation.intervals import Interval, Resamples, measure, resample
from radtransfer.evaluation.levels import Units
from radtransfer.evaluation.metrics import METRICS, Metric
from radtransfer.evaluation.verdict import TOO_FEW

ONE_CLASS: dict[Metric, bool] = {"sensitivity": True, "specificity": False}
"""Metrics that rest on one class alone: on the positive one or not. All others rest on both."""
_NOTHING = Interval(None, None, None)


def measured(
    test: pd.DataFrame, entries: Sequence[Entry], bootstrap: int, seed: int, prevalence: float | None
) -> Iterator[tuple[Units, Entry, dict[Metric, Interval]]]:
    """Each subgroup of the test images with each classifier measured on it.

    A subgroup is an attribute and its value, of the attributes that have several values among the test images; images
    of which an attribute is not known are in none of its subgroups. Where a class lies in too few leakage groups, the
    metrics that rest on it are None.

    Args:
        test: rows of the manifest.
        entries: what is measured, with the scores of all test images.
        bootstrap: replicates, drawn of each subgroup's own groups.
        seed: of the draws.
        prevalence: for PPV and NPV; None: that of the subgroup.
    """
    labels, groups = test["label"].to_numpy(dtype=bool), test["group_id"].to_numpy()
    for name, rows in members(test).items():
        its, of = labels[rows], groups[rows]
        enough = {label: len(set(of[its == label].tolist())) >= TOO_FEW for label in (True, False)}
        drawn = resample(of, its, bootstrap, seed) if any(enough.values()) else None
        units = Units(name="image", labels=its, groups=of, unit=np.arange(len(rows)), subgroup=name)
        for entry in entries:
            own = replace(entry, scores=entry.scores[rows])
            yield units, own, _measure(units, own, drawn, enough, prevalence)


def members(test: pd.DataFrame) -> dict[str, NDArray[np.intp]]:
    """Positions of the images of each subgroup, in the order of :func:`radtransfer.attributes.order`."""
    known = [set(own) for own in test["attributes"]]
    names = sorted(set().union(*known), key=order)
    values = [name.partition("=")[0] for name in names]
    several = [name for name, attribute in zip(names, values, strict=True) if values.count(attribute) > 1]
    return {name: np.flatnonzero([name in own for own in known]) for name in several}


def _measure(
    units: Units, entry: Entry, drawn: Resamples | None, enough: dict[bool, bool], prevalence: float | None
) -> dict[Metric, Interval]:
    if drawn is None:
        return dict.fromkeys(METRICS, _NOTHING)
    labels, scores = metrics.check(units.labels, entry.scores, entry.id + units.suffix)
    found = measure(labels, scores, entry.threshold, drawn, prevalence).intervals
    rests = {metric: [ONE_CLASS[metric]] if metric in ONE_CLASS else [True, False] for metric in METRICS}
    return {metric: found[metric] if all(enough[label] for label in rests[metric]) else _NOTHING for metric in METRICS}
