"""What a learning curve comes to, in plain words, and what must be said against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from radtransfer.evaluation import schema, verdict
from radtransfer.evaluation.compare import Comparison
from radtransfer.evaluation.finished import Subject

FEW_LABELS, OVER_SCRATCH, TREND, SHORTCUT = "label_fraction", "over_scratch", "trend", "shortcut"
"""Families of comparisons, see :func:`radtransfer.evaluation.learning_curve.measure_curve`."""


def answers(
    points: Sequence[schema.PointEntry],
    comparisons: Sequence[Comparison],
    needed: Sequence[schema.NeededEntry],
    bootstrap: int,
) -> list[str]:
    """The finding first: with how many labels in-domain pre-training is better than ImageNet transfer, if with any."""
    main = of_family(comparisons, FEW_LABELS)
    found = [_main(points, main)]
    if all(one.adjusted_p is not None for one in main):
        found.append(_trend(points, of_family(comparisons, TREND)[0], bootstrap))
    return found + [_said(one) for one in needed]


def warnings(
    points: Sequence[schema.PointEntry], comparisons: Sequence[Comparison], subjects: Sequence[Subject], bootstrap: int
) -> list[str]:
    """Negative transfer by its name, models that do not clear the shortcut, and what the intervals leave out."""
    found = verdict.unreachable(list(comparisons), bootstrap)
    for family in (FEW_LABELS, OVER_SCRATCH):
        for one in of_family(comparisons, family):
            if one.significant and cast(float, one.difference) < 0:
                a, b = (verdict.NAMES[side.split("/")[1]] for side in (one.a, one.b))
                found.append(
                    f"Negative transfer with {_labels(points, [one])}: {a} is significantly worse than {b} "
                    f"({_figures(one, bootstrap)})."
                )
    for shortcut, (known, _) in verdict.LEARNT.items():
        unclear = [
            _point(points, one)
            for one in of_family(comparisons, SHORTCUT)
            if one.b.endswith(shortcut) and (one.low is None or one.low <= 0)
        ]
        if unclear:
            shares = ", ".join(f"{point.fraction:.4g}" for point in unclear)
            found.append(f"The selected model does not clear the shortcut ({known}) at label fraction {shares}.")
    if any(len(subject.runs) == 1 for subject in subjects):
        found.append(
            "Each point of the curve is one training with one seed and one split: part of its ups and downs is the "
            "chance of training, which the intervals do not cover. Use --folds and --repeats to average it out."
        )
    return found


def of_family(comparisons: Sequence[Comparison], family: str) -> list[Comparison]:
    return [one for one in comparisons if one.family == family]


def _main(points: Sequence[schema.PointEntry], main: Sequence[Comparison]) -> str:
    """Without the figures, which the table of differences has with their intervals."""
    if any(one.adjusted_p is None for one in main):
        return (
            "There is no verdict on in-domain pre-training against ImageNet transfer: a class lies in fewer than "
            f"{verdict.TOO_FEW} leakage groups of the test images, and no test can be trusted."
        )
    shown = {
        sign: [one for one in main if one.significant and sign * cast(float, one.difference) > 0] for sign in (1, -1)
    }
    parts = []
    if shown[1]:
        parts.append(
            f"In-domain pre-training is significantly better than ImageNet transfer with {_labels(points, shown[1])}."
        )
    if shown[-1]:
        parts.append(
            "Negative transfer: in-domain pre-training is significantly worse than ImageNet transfer with "
            f"{_labels(points, shown[-1])}."
        )
    if not parts:
        return (
            f"At none of the {len(main)} label fractions is a difference between in-domain pre-training and ImageNet "
            "transfer shown."
        )
    if rest := [one for one in main if not one.significant]:
        parts.append(f"With {_labels(points, rest)} no difference is shown.")
    return " ".join(parts)


def _trend(points: Sequence[schema.PointEntry], trend: Comparison, bootstrap: int) -> str:
    few, many = points[0], points[-1]
    ends = f"{few.images} labelled images than with {many.images}"
    if trend.significant:
        more = "larger" if cast(float, trend.difference) > 0 else "smaller"
        return f"In-domain's gain over ImageNet transfer is {more} with {ends} ({_figures(trend, bootstrap)})."
    return f"That in-domain's gain is another with {ends} is not shown ({_figures(trend, bootstrap)})."


def _said(one: schema.NeededEntry) -> str:
    low = f"{one.low}" if one.low is not None else "fewer than the fewest tried"
    high = f"{one.high}" if one.high is not None else "more than the most tried"
    return (
        f"In-domain pre-training reaches AUROC {one.auroc:.3f} with {one.images} labelled images; ImageNet transfer "
        f"needs about {one.needed} for that (95 % interval {low} to {high})."
    )


def _labels(points: Sequence[schema.PointEntry], those: Sequence[Comparison]) -> str:
    """The label fractions of some comparisons, e.g. ``10 % and 25 % of the labels (20 and 50 images)``."""
    found = [_point(points, one) for one in those]
    shares, counts = [f"{100 * point.fraction:.3g} %" for point in found], [str(point.images) for point in found]
    return f"{_listed(shares)} of the labels ({_listed(counts)} images)"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _point(points: Sequence[schema.PointEntry], one: Comparison) -> schema.PointEntry:
    return next(point for point in points if point.run == one.a.split("/")[0])


def _figures(one: Comparison, bootstrap: int) -> str:
    return (
        f"AUROC {one.difference:+.3f}, 95 % interval {one.low:+.3f} to {one.high:+.3f}{verdict.p_text(one, bootstrap)}"
    )
