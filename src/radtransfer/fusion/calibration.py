"""From uncalibrated scores to probabilities, fitted on validation images; the order of the scores never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from radtransfer.errors import RadtransferError, near

Floats = NDArray[np.float64]
Method = Literal["platt", "temperature", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)

MIN_SLOPE = 1e-3
"""Least slope of a calibration, per standard deviation of the raw score."""

MAX_SLOPE = 1e4
"""Greatest slope that a temperature can give, likewise."""

KEPT = 1e-3
"""Share of the Platt-scaled probability in an isotonic one, which keeps apart what falls on one of its steps."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope * raw + intercept), slope > 0; with steps, p is then read off them.

    Attributes:
        slope, intercept: of the sigmoid.
        steps: points (p before, p after), both not falling; straight between them, and :data:`KEPT` of p before stays.
            Empty: none.
    """

    slope: float
    intercept: float
    steps: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Calibration:
        """As :meth:`content` has it."""
        steps = tuple((float(before), float(after)) for before, after in content.get("steps", ()))
        return cls(float(content["slope"]), float(content["intercept"]), steps)

    @property
    def content(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"slope": self.slope, "intercept": self.intercept}
        return found | ({"steps": [list(step) for step in self.steps]} if self.steps else {})

    def __call__(self, raw: NDArray[np.floating[Any]]) -> Floats:
        """Calibrated probability of the positive class, float64 [N] in 0..1, from raw scores [N]."""
        p = np.asarray(expit(self.slope * np.asarray(raw, np.float64) + self.intercept), np.float64)
        if not self.steps:
            return p
        before, after = np.array(self.steps).T
        return np.asarray((1 - KEPT) * np.interp(p, before, after) + KEPT * p, np.float64)

    def carried(self, before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]]) -> Calibration:
        """The calibration of a network that was trained anew, whose logits may be shifted and scaled.

        Both fits have learnt the same images in the same way; that mean and standard deviation of their logits over
        these are the same is what the new calibration sees to. No label is used.

        Args:
            before: [N] logits of the network that this calibration is of, for images that both have learnt.
            after: [N] those of the new one.
        """
        spread = float(np.std(after))
        scale = float(np.std(before)) / spread if spread > 0 else 1.0
        shift = float(np.mean(before)) - scale * float(np.mean(after))
        return replace(self, slope=self.slope * scale, intercept=self.intercept + self.slope * shift)


def check_method(name: str) -> None:
    """See that a calibration is known.

    Raises:
        RadtransferError: it is not.
    """
    if name not in METHODS:
        raise RadtransferError(f"unknown calibration {name!r}; {near(name, METHODS)}")


def fit_calibration(
    raw: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], method: Method = "platt"
) -> Calibration:
    """Fit a calibration.

    - ``platt``: a logistic regression of the label on the raw score (Platt, Probabilistic outputs for support vector
      machines, 1999, section 2.2).
    - ``temperature``: the slope alone, for scores whose 0 means one half (Guo et al., ICML 2017, section 4.2).
    - ``isotonic``: Platt scaling, then the best rising step function of it (Zadrozny and Elkan, KDD 2002); it follows
      any shape and wants hundreds of images.

    The targets of the first two are Platt's smoothed ones, (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep the slope
    finite when the scores separate the classes. Raw scores that do not order the classes (constant ones, or the wrong
    way round) get the small slope :data:`MIN_SLOPE` and the intercept of the class share: an honest "cannot tell" that
    still keeps the order.

    Args:
        raw: [N], finite.
        labels: [N], 0 or 1, both present.
        method: as above.
    """
    values = np.asarray(raw, np.float64)
    positives = int(np.sum(labels))
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    centre, spread = float(values.mean()), float(values.std())
    if spread <= 1e-12 * max(1.0, abs(centre)):
        spread = 1.0
    if method == "temperature":
        return Calibration(_slope(values / spread, target) / spread, 0.0)
    scaled = (values - centre) / spread
    # Soft targets as a weighted pair of rows, one per class.
    model = LogisticRegression(C=1e4, solver="newton-cholesky", tol=1e-8)
    model.fit(
        np.concatenate([scaled, scaled])[:, None],
        np.repeat([1, 0], len(values)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if not slope >= MIN_SLOPE:
        slope, intercept = MIN_SLOPE, float(logit(target.mean()))
    found = Calibration(slope / spread, intercept - slope * centre / spread)
    if method == "platt":
        return found
    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(found(values), labels)
    points = zip(steps.X_thresholds_, steps.y_thresholds_, strict=True)
    return replace(found, steps=tuple((float(before), float(after)) for before, after in points))


def _slope(scaled: Floats, target: Floats) -> float:
    """The slope with the least cross-entropy, for scores of unit deviation."""

    def loss(exponent: float) -> float:
        linear = np.exp(exponent) * scaled
        return float(np.mean(np.logaddexp(0, linear) - target * linear))

    found = minimize_scalar(loss, bounds=(np.log(MIN_SLOPE), np.log(MAX_SLOPE)), method="bounded")
    return float(np.exp(found.x))
