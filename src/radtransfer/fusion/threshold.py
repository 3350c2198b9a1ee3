"""Where a probability becomes a call, fixed on validation images.

NumPy is imported when it is needed, since configurations are checked against the rules before anything is computed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radtransfer.errors import RadtransferError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEANING = (
    "youden (most sensitivity and specificity together); sensitivity=S (as specific as may be with a sensitivity of S, "
    "0 to 1); cost=C (least cost, where a miss costs as much as C false alarms); all on validation images"
)
_RULE = re.compile(r"(youden)|(sensitivity|cost)=([0-9.]+(?:e-?[0-9]+)?)")


@dataclass(frozen=True)
class Rule:
    """A rule for a threshold t, by which an image is called positive if p >= t.

    Attributes:
        kind: ``youden`` (Cancer 3 (1950) 32-35), ``sensitivity`` or ``cost``.
        value: the sensitivity aimed at, or what a miss costs in false alarms; 0 of ``youden``.
    """

    kind: Literal["youden", "sensitivity", "cost"] = "youden"
    value: float = 0.0

    @classmethod
    def read(cls, text: str) -> Rule:
        """From what a configuration says.

        Raises:
            RadtransferError: it is no rule.
        """
        found = _RULE.fullmatch(text.replace(" ", ""))
        try:
            value = float(found[3]) if found and found[3] else 0.0
        except ValueError:
            found = None
        if not found:
            raise RadtransferError(f"threshold_rule: {text!r} is none; expected {MEANING}")
        if found[1]:
            return cls()
        high = 1.0 if found[2] == "sensitivity" else 1e6
        if not 0 < value <= high:
            raise RadtransferError(f"threshold_rule: {text!r}; expected a number above 0 and up to {high:g}")
        return cls("sensitivity" if found[2] == "sensitivity" else "cost", value)

    def __call__(self, probability: NDArray[np.float64], labels: NDArray[np.integer[Any]]) -> float:
        """The threshold.

        Any t between two neighbouring scores is as good as any other: the midpoint is taken. Of equally good gaps the
        lowest is taken (the higher sensitivity), but of ``sensitivity`` the highest. Scores that carry nothing (no gap
        has a Youden index above 0) get 0.5 by ``youden``; ``sensitivity`` and ``cost`` may call all images positive,
        and ``cost`` none.

        Args:
            probability: [N] in 0..1.
            labels: [N], 0 or 1, both present.
        """
        import numpy as np

        levels, position = np.unique(probability, return_inverse=True)
        positive = np.bincount(position, weights=labels == 1, minlength=len(levels))
        negative = np.bincount(position, weights=labels == 0, minlength=len(levels))
        # of the cut below each level, and of the one above all: images that are missed, and cleared rightly
        missed = np.concatenate([[0], np.cumsum(positive)])
        cleared = np.concatenate([[0], np.cumsum(negative)])
        if self.kind == "youden":
            gain = (cleared / negative.sum() - missed / positive.sum())[1:-1]
            if len(gain) == 0 or gain.max() <= 1e-12:
                return 0.5
            cut = int(np.flatnonzero(gain >= gain.max() - 1e-12)[0]) + 1
        elif self.kind == "sensitivity":
            cut = int(np.flatnonzero(1 - missed / positive.sum() >= self.value - 1e-12)[-1])
        else:
            cut = int(np.argmin(self.value * missed - cleared))
        return _between(levels, cut)


def _between(levels: NDArray[np.float64], cut: int) -> float:
    """A threshold below level number ``cut``, and above the one before it."""
    if cut == 0:
        return float(levels[0])
    if cut == len(levels):
        return math.nextafter(float(levels[-1]), math.inf)
    low, high = float(levels[cut - 1]), float(levels[cut])
    middle = low + (high - low) / 2
    return middle if middle > low else high
