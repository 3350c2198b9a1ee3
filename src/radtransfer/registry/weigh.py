"""Whether a challenger is promoted, by scores of the same test images: the rules, and what they were applied to.

Two ways lead past a champion, each open when a 95 % interval lies beyond a bound, so that each lets a challenger that
is truly equal (in AUROC and in Brier score) pass with a chance of about 2.5 %, and both together of at most 5 %:

- *better*: the AUROC difference, challenger less champion, lies above 0;
- *as good, better calibrated*: it lies above ``-margin`` (non-inferiority), and the difference of the Brier scores
  below 0. A challenger that is worse by the margin or more passes with a chance of at most 2.5 %, since both must hold.

The Brier score stands for calibration since it is proper: nothing but the true probabilities makes it smallest
(Gneiting and Raftery, Journal of the American Statistical Association 102, 2007), and its difference is a mean over
images, whose bootstrap intervals cover. The expected calibration error is neither; see
:func:`radtransfer.evaluation.intervals.measure_tests`.

A first model passes when the interval of its AUROC lies above a floor, and that of its difference to every learnt
shortcut above 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from threadpoolctl import threadpool_limits

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.compare import Comparison, compare
from radtransfer.evaluation.intervals import Measured, measure, resample
from radtransfer.evaluation.metrics import Metric, Scored, check
from radtransfer.evaluation.verdict import LEARNT, TOO_FEW, fewest
from radtransfer.registry.documents import Document

CHALLENGER, CHAMPION = "challenger", "champion"
TOLD: tuple[Metric, ...] = ("auroc", "brier", "ece", "sensitivity", "specificity")
Rule = Literal["better", "as good, better calibrated", "first", "not shown", "not comparable"]
NOT: tuple[Rule, ...] = ("not shown", "not comparable")
"""No rule was met."""


class Rules(Document):
    """By what was decided; all but margin and floor are fixed, so that nobody looks for the seed that promotes.

    Attributes:
        version: of the rules and of what is recorded.
        margin: AUROC that a better calibrated challenger may lack.
        floor: AUROC that a first model must clear.
        min_groups: leakage groups that must hold each class of the test images.
        level: of all intervals.
        bootstrap, seed: replicates and seed of the resamples of leakage groups.
    """

    version: Literal[1] = 1
    margin: float = Field(default=0.02, ge=0, le=0.2)
    floor: float = Field(default=0.6, ge=0.5, lt=1)
    min_groups: int = TOO_FEW
    level: float = 0.95
    bootstrap: int = Field(default=2000, ge=1)
    seed: int = 0

    @classmethod
    def of(cls, *, margin: float, floor: float) -> Self:
        """The rules with these.

        Raises:
            RadtransferError: one is out of range.
        """
        try:
            return cls(margin=margin, floor=floor)
        except ValidationError as error:
            first = error.errors()[0]
            raise RadtransferError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None


class Estimate(Document):
    """A value with its interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


class Difference(Estimate):
    """A metric of the challenger less that of another, on the same images.

    Attributes:
        metric: ``auroc``, or ``brier``, of which less is better.
        less: the other: ``champion`` or a shortcut.
        detectable: true difference that this test set would show with a power of 80 %.
    """

    metric: str
    less: str
    detectable: float | None


class Weighed(NamedTuple):
    """What came of it.

    Attributes:
        rule: by which it is promoted, or one of :data:`NOT`.
        why: a sentence with the figures.
        metrics: :data:`TOLD` of each set of scores; sensitivity and specificity at its own threshold.
        differences: those that were looked at.
    """

    rule: Rule
    why: str
    metrics: dict[str, dict[str, Estimate]]
    differences: list[Difference]


def weigh(
    labels: NDArray[np.bool_], groups: NDArray[np.str_], given: Mapping[str, Scored], rules: Rules, than: str = ""
) -> Weighed:
    """Apply the rules.

    Args:
        labels: [N], both classes, each in :attr:`Rules.min_groups` groups at least.
        groups: [N], leakage group of each image.
        given: calibrated probabilities [N] and threshold of the ``challenger`` and of the ``champion``; in its place,
            where there is none, of all of :data:`radtransfer.evaluation.verdict.LEARNT`.
        rules: margin, floor, resamples.
        than: what the champion is called in :attr:`Weighed.why`.
    """
    with threadpool_limits(1):  # as in `evaluate`
        resamples = resample(groups, labels, rules.bootstrap, rules.seed)
        measured = {
            name: measure(*check(labels, its.scores, name), float(its.threshold), resamples)
            for name, its in given.items()
        }
    images = f"{len(labels)} test images of {len(np.unique(groups))} groups"
    if CHAMPION in given:
        auroc, brier = (compare(CHALLENGER, CHAMPION, metric, measured, "gate") for metric in ("auroc", "brier"))
        rule, why = _against(auroc, brier, measured, rules.margin, than)
        compared = [auroc, brier]
    else:
        compared = [compare(CHALLENGER, shortcut, "auroc", measured, "gate") for shortcut in LEARNT]
        rule, why = _first(compared, measured[CHALLENGER], rules.floor)
    metrics = {
        name: {str(metric): Estimate(**its.intervals[metric]._asdict()) for metric in TOLD}
        for name, its in measured.items()
    }
    differences = [
        Difference(
            metric=one.metric, less=one.b, value=one.difference, low=one.low, high=one.high,
            detectable=one.smallest_detectable,
        )
        for one in compared
    ]  # fmt: skip
    return Weighed(rule, f"{why}; {images}", metrics, differences)


def too_few(labels: NDArray[np.bool_], groups: NDArray[np.str_], rules: Rules) -> str:
    """Why test images are too few to decide anything; empty: they are not."""
    if not len(labels):
        return "there are no test images"
    number, name = fewest(labels, groups)
    if number >= rules.min_groups:
        return ""
    held = f"lie in only {number} leakage groups" if number else "are missing"
    return f"the {name} test images {held}, and below {rules.min_groups} no interval can be trusted"


def _against(
    auroc: Comparison, brier: Comparison, measured: Mapping[str, Measured], margin: float, than: str
) -> tuple[Rule, str]:
    values = [measured[name].intervals["auroc"].value for name in (CHALLENGER, CHAMPION)]
    figures = f"AUROC {values[0]:.3f} against {values[1]:.3f}{than and f' of {than}'}, {_text(auroc)}"
    if auroc.low is not None and auroc.low > 0:
        return "better", f"better: {figures}"
    as_good = auroc.low is not None and auroc.low > -margin
    calibrated = brier.high is not None and brier.high < 0
    figures += f"; Brier score, {_text(brier)}"
    if as_good and calibrated:
        return "as good, better calibrated", f"not worse by {margin:g} and better calibrated: {figures}"
    if auroc.high is not None and auroc.high < 0:
        return "not shown", f"worse: {figures}"
    fault = "better calibrated" if as_good else f"better, nor not to be worse by {margin:g}"
    power = (
        ""
        if auroc.smallest_detectable is None
        else f" (a true gain of {auroc.smallest_detectable:.3f} likely would be)"
    )
    return "not shown", f"not shown to be {fault}{power}: {figures}"


def _first(shortcuts: list[Comparison], challenger: Measured, floor: float) -> tuple[Rule, str]:
    value, low, high = challenger.intervals["auroc"]
    figures = f"AUROC {value:.3f} (95 % interval {low:.3f} to {high:.3f})"
    if low is None or low <= floor:
        return "not shown", f"the first model, not shown to clear the floor {floor:g}: {figures}"
    under = next((one for one in shortcuts if one.low is None or one.low <= 0), None)
    if under is not None:
        return "not shown", f"the first model, not shown to clear {LEARNT[under.b][0]}: {figures}, {_text(under)}"
    return "first", (
        f"the first model, above the floor {floor:g} and its shortcuts: {figures}; "
        + "; ".join(f"less {LEARNT[one.b][0]}, {_text(one)}" for one in shortcuts)
    )


def _text(one: Comparison) -> str:
    if one.difference is None or one.low is None or one.high is None:
        return "difference undefined"
    return f"difference {one.difference:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f})"
