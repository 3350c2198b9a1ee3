"""The learning curve: what each TL source reaches with fewer labels of the target, and where in-domain helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import curve_text, schema, verdict
from radtransfer.evaluation.compare import Comparison, compare, contrast
from radtransfer.evaluation.comparison import Together, measure_together, row_id
from radtransfer.evaluation.curve_text import FEW_LABELS, OVER_SCRATCH, SHORTCUT, TREND
from radtransfer.evaluation.finished import OWN, SELECTED, Subject, check_alike, open_subjects
from radtransfer.evaluation.metrics import Floats
from radtransfer.evaluation.quantiles import LEVEL


def measure_curve(folders: Sequence[Path], *, bootstrap: int, seed: int) -> schema.LearningCurveFile:
    """Measure runs (or cross-fittings) that differ in ``label_fraction`` alone, on the same test images.

    Families corrected by Holm, all of AUROC: ``label_fraction`` (in-domain less ImageNet, fused choices, at each
    fraction), ``over_scratch`` (in-domain and ImageNet less training from scratch, at each), ``trend`` (the first
    difference with the fewest labels less that with the most; one comparison), ``shortcut`` (selected less each learnt
    shortcut, at each).

    Args:
        folders: output folders of ``radtransfer run`` or ``radtransfer crossfit``, two at least, in any order.
        bootstrap: replicates behind every interval and p-value, shared by all.
        seed: of the resamples.

    Raises:
        RadtransferError: as of :func:`radtransfer.evaluation.finished.open_subjects`; or they differ in more than the
            fraction, or not in that.
    """
    subjects = [
        replace(subject, label=chr(ord("A") + number))
        for number, subject in enumerate(sorted(open_subjects(folders), key=_fraction))
    ]
    fractions = [_fraction(subject) for subject in subjects]
    if len(set(fractions)) < max(2, len(subjects)):
        raise RadtransferError(f"a learning curve needs two label fractions or more, each once; got {fractions}")
    for subject in subjects:
        check_alike(subjects[0].runs[0], subject.runs[0], (*OWN, "label_fraction"), "learning curve")
    together = measure_together(subjects, bootstrap, seed)
    points = [_point(subject) for subject in subjects]
    comparisons = verdict.judged(_comparisons(together), together.fewest)
    needed = _needed(together, points)
    return schema.LearningCurveFile(
        **together.told(comparisons),
        points=points,
        answers=curve_text.answers(points, comparisons, needed, bootstrap),
        warnings=together.warnings + curve_text.warnings(points, comparisons, subjects, bootstrap),
        needed=needed,
    )


def write(curve: schema.LearningCurveFile, out: Path) -> Path:
    """Write ``learning_curve.json`` and its page into a folder, over earlier ones; returns the page's path."""
    from radtransfer import pages
    from radtransfer.evaluation.curve_page import render

    content = curve.model_dump(mode="json")
    return pages.leave(out, "learning_curve", content, render(content))


def _fraction(subject: Subject) -> float:
    return float(subject.runs[0].config.get("label_fraction", 1.0))


def _point(subject: Subject) -> schema.PointEntry:
    counts = []
    for run in subject.runs:
        learnt = run.evaluation.content.get("learnt_from")
        if learnt is None:
            raise RadtransferError(f"{run.path}: does not say how many labels it learnt from; make the run again")
        counts.append([sum(split[name] for split in learnt.values()) for name in ("images", "positives")])
    images, positives = (round(mean) for mean in np.mean(counts, axis=0))
    return schema.PointEntry(run=subject.label, fraction=_fraction(subject), images=images, positives=positives)


def _comparisons(together: Together) -> list[Comparison]:
    measured = together.measured

    def less(subject: Subject, one: str, other: str, family: str) -> Comparison:
        return compare(row_id(subject, one), row_id(subject, other), "auroc", measured, family)

    found = [less(one, "in_domain/fused", "imagenet/fused", FEW_LABELS) for one in together.subjects]
    found += [
        less(subject, f"{source}/fused", "scratch/fused", OVER_SCRATCH)
        for source in reversed(TL_SOURCES)
        if source != "scratch"
        for subject in together.subjects
    ]
    few, many = found[0], found[len(together.subjects) - 1]
    replicates = [measured[one.a].replicates["auroc"] - measured[one.b].replicates["auroc"] for one in (few, many)]
    first, last = (f"{one.a} - {one.b}" for one in (few, many))
    change = cast(float, few.difference) - cast(float, many.difference)
    found.append(contrast(first, last, "auroc", change, replicates[0] - replicates[1], TREND))
    return found + [less(one, SELECTED, shortcut, SHORTCUT) for one in together.subjects for shortcut in verdict.LEARNT]


def _needed(together: Together, points: Sequence[schema.PointEntry]) -> list[schema.NeededEntry]:
    """How many labels ImageNet needs, for each number that in-domain had; only where the curves say so.

    ImageNet's curve is joined by straight lines over the logarithm of the number of labels; what counts is where it
    first reaches in-domain's AUROC, in the observed curves and in each bootstrap replicate of both. It is said where
    that lies within what was tried and at least one end of the percentile interval does too.
    """
    labels = np.log([point.images for point in points])
    curves = [together.measured[row_id(subject, "imagenet/fused")] for subject in together.subjects]
    observed = np.array([[cast(float, one.intervals["auroc"].value) for one in curves]])
    replicated = np.stack([one.replicates["auroc"] for one in curves], axis=1)
    found = []
    for subject, point in zip(together.subjects, points, strict=True):
        own = together.measured[row_id(subject, "in_domain/fused")]
        auroc = cast(float, own.intervals["auroc"].value)
        value = first_reaches(labels, observed, np.array([auroc]))[0]
        reached = first_reaches(labels, replicated, own.replicates["auroc"])
        ends = np.quantile(reached, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        low, high = (round(float(np.exp(end))) if np.isfinite(end) else None for end in ends)
        if np.isfinite(value) and (low is not None or high is not None):
            needed = round(float(np.exp(value)))
            entry = {"run": subject.label, "images": point.images, "auroc": auroc, "needed": needed}
            found.append(schema.NeededEntry.model_validate(entry | {"low": low, "high": high}))
    return found


def first_reaches(x: Floats, curves: Floats, levels: Floats) -> Floats:
    """Where each curve first reaches its level.

    Args:
        x: [K], rising.
        curves: values at x [B, K], joined by straight lines.
        levels: [B].

    Returns:
        [B]; -inf of a curve that begins above its level, inf of one that does not come up to it.
    """
    found = np.full(len(levels), np.inf)
    found[curves[:, 0] > levels] = -np.inf
    found[curves[:, 0] == levels] = x[0]
    for left in range(len(x) - 1):
        low, high = curves[:, left], curves[:, left + 1]
        here = np.isposinf(found) & (low < levels) & (high >= levels)
        share = (levels[here] - low[here]) / (high[here] - low[here])
        found[here] = x[left] + share * (x[left + 1] - x[left])
    return found
