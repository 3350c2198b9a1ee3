"""Do maps lie on the lesions? Over all test images with lesion boxes, with intervals, against what is blind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer.evaluation.compare import Comparison, contrast, holm
from radtransfer.evaluation.intervals import percentile, resample
from radtransfer.explain import cases, gradcam
from radtransfer.explain.randomised import alike, randomised
from radtransfer.fusion.predictor import Predictor
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.store import Store, taken

MEASURES = ("energy", "pointing")
COLUMNS = ["tl_source", "image_id", "group_id", *MEASURES, "chance", "empty", "fidelity", "survives"]
CENTRE = "centre"
"""In place of a TL source: a map that is the same for every image, highest in its middle."""
CENTRE_DEVIATION = 0.25
"""Of that map, a Gaussian: deviation as a share of each side of what is shown."""
REPLICATES = 2000
FAMILY = "explanation"
ABOUT = (
    "Grad-CAM of the decision on every test image with a lesion box, by the model that each source would use. Energy: "
    "share of a map's positive mass inside the boxes. Peak: share of images whose map peaks inside one. A map with "
    "nothing positive counts as 0 in both. Centre: a Gaussian on the middle of the image, which knows how images are "
    "taken and nothing of this one. Chance: the boxes' share of the image, which a random map reaches in both. Random "
    "weights: rank correlation (Spearman) of a map with that of the same networks, their weights in a random order; a "
    "map that survives it shows the image and not what was learnt (Adebayo et al., NeurIPS 2018). "
    "Intervals and p-values resample leakage groups; p-values are corrected for all pairs of rows and both measures "
    "(Holm)."
)
_CHUNK = 64


def measured(store: Store, tl_source: str, predict: Predictor, seed: int) -> Iterator[dict[str, Any]]:
    """How well Grad-CAM meets the boxes of each test image that has some, one row of :data:`COLUMNS` each.

    Args:
        store: of the target.
        tl_source: named in each row.
        predict: whose decision is explained.
        seed: of the order that its weights are given for comparison.
    """
    rows, knows_nothing = boxed(store), randomised(predict, seed)
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        images = taken(store.images, some)
        heats, blank = (
            gradcam.gradcam(one, images, one.passed(images, f"explain {tl_source}")) for one in (predict, knows_nothing)
        )
        survives = alike(heats.maps, blank.maps, [region(store, int(row)) for row in some])
        for row, heat, fidelity, same in zip(some, *heats, survives, strict=True):
            told = {"tl_source": tl_source, "fidelity": float(fidelity), "survives": float(same)}
            yield told | _met(store, row, heat)


def blind(store: Store) -> Iterator[dict[str, Any]]:
    """The same of the map that is :data:`CENTRE`."""
    for row in boxed(store):
        x0, y0, x1, y1 = region(store, int(row))
        at = np.arange(store.size) + 0.5
        across, down = (
            np.exp(-(((at - (low + high) / 2) / (CENTRE_DEVIATION * (high - low))) ** 2) / 2)
            * ((low < at) & (at < high))
            for low, high in ((x0, x1), (y0, y1))
        )
        heat = np.outer(down, across).astype(np.float32)
        yield {"tl_source": CENTRE, "fidelity": np.nan, "survives": np.nan} | _met(store, row, heat)


def boxed(store: Store) -> NDArray[np.intp]:
    """Rows of the positive test images that show a part of a box; one in a border that was cut away has no area."""
    rows = store.rows("test")
    told = store.manifest.iloc[rows]
    shown = [any(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in boxes) for boxes in told["boxes"]]
    return np.asarray(rows[np.array(shown, bool) & (told["label"].to_numpy() == 1)], np.intp)


def table(found: pd.DataFrame, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Means with intervals of each source, and every pair of them compared; both empty with fewer than two groups.

    Args:
        found: rows of :func:`measured` of every source, and of :func:`blind`, on the same images in the same order.
        seed: of the resamples.
    """
    parts = {str(name): part for name, part in found.groupby("tl_source", sort=False)}
    first = next(iter(parts.values()), found)
    if first["group_id"].nunique() < 2:
        return [], []
    weights = resample(first["group_id"], np.ones(len(first)), REPLICATES, seed).weights
    weights /= weights.sum(axis=1, keepdims=True)
    values = {name: {one: part[one].to_numpy(np.float64) for one in MEASURES} for name, part in parts.items()}
    rows = [
        {"tl_source": name, "n": len(part), "groups": int(part["group_id"].nunique())}
        | {one: _mean(values[name][one], weights) for one in MEASURES}
        | {"chance": float(part["chance"].mean()), "empty": int(part["empty"].sum())}
        | {"fidelity": None if part["fidelity"].isna().any() else float(part["fidelity"].mean())}
        | {"survives": None if name == CENTRE else _mean(part["survives"].to_numpy(np.float64), weights)}
        for name, part in parts.items()
    ]
    return rows, [asdict(one) for one in holm(list(_compared(values, weights)))]


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, float | None]:
    return percentile(float(values.mean()), weights @ values)._asdict()


def _compared(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]], weights: NDArray[np.float64]
) -> Iterator[Comparison]:
    for a, b in combinations(_order(list(values)), 2):
        for one in MEASURES:
            apart = values[a][one] - values[b][one]
            yield contrast(a, b, one, float(apart.mean()), weights @ apart, FAMILY)


def _order(names: Sequence[str]) -> list[str]:
    """In-domain first, blind maps last: the question is whether the former does better."""
    rank = ["in_domain", "imagenet", "scratch", CENTRE]
    return sorted(names, key=rank.index)


def _met(store: Store, row: np.intp, heat: NDArray[np.float32]) -> dict[str, Any]:
    told = store.manifest.iloc[row]
    empty = not (heat > 0).any()
    met = cases.agreement(heat, told["boxes"], region(store, int(row)))
    nothing = dict.fromkeys(MEASURES, 0.0) if empty else {}
    return met | nothing | {"image_id": told["image_id"], "group_id": told["group_id"], "empty": empty}
