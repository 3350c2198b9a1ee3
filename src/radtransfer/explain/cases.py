"""Which test images are explained, and how well a map agrees with where the lesion is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

Outcome = Literal["TP", "FP", "FN", "TN"]
OUTCOMES: tuple[Outcome, ...] = ("TP", "FP", "FN", "TN")
RULE = (
    "Chosen by rule, not by eye: for each outcome of the selected model at its own threshold, in turn the image "
    "farthest from the threshold (most confident) and the one nearest to it (most uncertain); ties by image_id."
)


@dataclass(frozen=True)
class Case:
    """A test image to explain and what the selected model made of it."""

    image_id: str
    outcome: Outcome


def outcome(positive: bool, called: bool) -> Outcome:
    """What a call of positive or not is worth."""
    if positive:
        return "TP" if called else "FN"
    return "FP" if called else "TN"


def choose(
    image_ids: Sequence[str],
    labels: NDArray[np.int_],
    scores: NDArray[np.float64],
    threshold: float,
    per_outcome: int,
) -> list[Case]:
    """Up to ``per_outcome`` images of each outcome, alternately the most confident and the most uncertain.

    Args:
        image_ids: N unique ids.
        labels: [N], 1 = positive.
        scores: [N], calibrated probability of the positive class.
        threshold: a score at or above it is called positive.
        per_outcome: images wanted of each outcome; fewer where there are fewer.
    """
    frame = pd.DataFrame({"image_id": list(image_ids), "distance": np.abs(scores - threshold)})
    positive, called = labels == 1, scores >= threshold
    members = {"TP": positive & called, "FP": ~positive & called, "FN": positive & ~called, "TN": ~positive & ~called}
    chosen: list[Case] = []
    for outcome in OUTCOMES:
        own = frame[members[outcome]]
        confident = own.sort_values(["distance", "image_id"], ascending=[False, True])["image_id"].tolist()
        uncertain = own.sort_values(["distance", "image_id"])["image_id"].tolist()
        taken: list[str] = []
        while len(taken) < min(per_outcome, len(own)):
            ends = confident if len(taken) % 2 == 0 else uncertain
            taken.append(next(image_id for image_id in ends if image_id not in taken))
        chosen += [Case(image_id, outcome) for image_id in taken]
    return chosen


def box_mask(boxes: Sequence[Sequence[float]], size: int) -> NDArray[np.bool_]:
    """Pixels [S, S] that any box [x0, y0, x1, y1] (px) touches."""
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in boxes:
        mask[max(0, int(np.floor(y0))) : int(np.ceil(y1)), max(0, int(np.floor(x0))) : int(np.ceil(x1))] = True
    return mask


def agreement(heat: NDArray[np.float32], boxes: Sequence[Sequence[float]], region: Sequence[float]) -> dict[str, float]:
    """How well a map [S, S] meets lesion boxes.

    Args:
        heat: the map.
        boxes: x0, y0, x1, y1 each, px.
        region: where the image lies in the square, likewise.

    Returns:
        ``energy`` and ``pointing`` of the two functions below, and ``chance``, the boxes' share of the image.
    """
    mask = box_mask(boxes, len(heat))
    x0, y0, x1, y1 = region
    chance = float(mask.sum() / ((x1 - x0) * (y1 - y0)))
    return {"energy": energy_inside(heat, mask), "pointing": pointing_hit(heat, mask), "chance": chance}


def energy_inside(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of the map's positive mass that lies inside the mask (energy-based pointing game, Wang et al., CVPR
    Workshops 2020); NaN if the map has none."""
    positive = np.maximum(heat, 0, dtype=np.float64)
    return float(positive[mask].sum() / positive.sum()) if positive.any() else float("nan")


def pointing_hit(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Pointing game (Zhang et al., IJCV 2018): 1 if the map's maximum lies inside the mask, else 0.

    Where several pixels share the maximum (a whole superpixel does), the share of them inside; NaN if the map has no
    positive value.
    """
    return float(mask[heat == heat.max()].mean()) if heat.max() > 0 else float("nan")


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Spearman's correlation; NaN where either is the same everywhere."""
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else float("nan")
