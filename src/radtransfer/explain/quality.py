"""Explanations measured on a random sample of test images: faithful, on the lesion, steady, agreed, off the border?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from radtransfer.config import TL_SOURCES
from radtransfer.evaluation.compare import Comparison, contrast, holm
from radtransfer.evaluation.intervals import Interval, percentile, resample
from radtransfer.evaluation.verdict import TOO_FEW
from radtransfer.explain import cases, faithfulness, gradcam, pointing, superpixels
from radtransfer.fusion.predictor import Predictor
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.store import Store, taken
from radtransfer.progress import track

Floats = NDArray[np.float64]
METHODS = ("gradcam", "lime")
RANDOM = "random"
"""In place of a method: tiles of the image in a random order."""
COMPARED = ("gain", "energy")
MEASURES = (
    "deletion", "insertion", "gain", "energy", "pointing", "border", "fidelity", "agreement", "stability", "overlap",
)  # fmt: skip
COLUMNS = ["tl_source", "method", "image_id", "group_id", "score", *MEASURES, "chance", "border_chance", "empty"]
BETWEEN = ["a", "b", "image_id", "group_id", "agreement"]
BORDER = 1 / 20
"""Of each side of the image, at its edges: the border, together with the padding."""
REPLICATES = 2000
FAMILY = "explanation_quality"
ABOUT = (
    "Grad-CAM and LIME by the model that each source would use, on test images drawn at random by the seed of the "
    "run: positive ones, with lesion boxes where the data have any; of each leakage group one before a second of any. "
    "Deletion: mean calibrated probability while the image's pixels give way to those of its blurred copy, from the "
    "map's highest value down, in ten steps; low is good. Insertion: the same while they are put back; high is good. "
    "Gain: insertion less deletion; 0 on average for a random order, which is measured beside (tiles of the image, "
    "the same for all sources). Gain is in units of probability: a source whose probabilities spread wider gains more "
    "for that alone. LIME is fitted to hidden patches, which favours it over Grad-CAM. Energy: share of a map's "
    "positive mass inside the boxes; peak: share of images whose map peaks inside one; chance of both: the boxes' "
    "share of the image. Border: share of the positive mass on the outer twentieth of the image's sides and on the "
    "padding; its chance is the share of the area. A map with nothing positive counts as 0 in energy and peak and not "
    "at all on the border. Fidelity: how much of the model near the image the linear function explains that the map "
    "is read from (R²). Agreement: Spearman correlation of Grad-CAM, averaged over each superpixel, with LIME's "
    "weights. Stability: the same of LIME between two draws of its perturbations; overlap: the share of the five "
    "greatest superpixels that both have. Intervals and p-values resample leakage groups; p-values are corrected "
    f"together (Holm), and there are none below {TOO_FEW} groups."
)
_NOISE = 9  # decimals of LIME's weights: those of a probability that nothing changes are rounding, and of any sign


class Table(NamedTuple):
    """What was measured, for ``explanations.json``.

    Attributes:
        rows: a source and a method each, :data:`RANDOM` among the methods: means with intervals.
        between: two sources each: how far their Grad-CAM agrees.
        comparisons: of sources within a method, of methods within a source and of each method with a random order.
    """

    rows: list[dict[str, Any]]
    between: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]


def sample(store: Store, count: int, seed: int) -> NDArray[np.intp]:
    """Rows of the images to measure on, ascending: positive test images, those with lesion boxes if there are any.

    Args:
        store: of the target.
        count: images wanted; fewer where there are fewer.
        seed: of the draw. Of each leakage group one image is taken before a second of any.
    """
    positive = store.rows("test")
    positive = positive[store.manifest["label"].to_numpy()[positive] == 1]
    boxed = pointing.boxed(store)
    rows = np.random.default_rng(seed).permutation(boxed if len(boxed) else positive)
    groups = store.manifest["group_id"].iloc[rows]
    turn = groups.groupby(groups.to_numpy()).cumcount().to_numpy()
    return np.sort(rows[np.argsort(turn, kind="stable")[:count]])


class Measured(NamedTuple):
    """What was measured of one source.

    Attributes:
        rows: one of :data:`COLUMNS` for each image and method.
        coarse: its Grad-CAM of each image, averaged over the tiles of the image.
    """

    rows: list[dict[str, Any]]
    coarse: list[Floats]


def measured(
    store: Store, rows: NDArray[np.intp], tl_source: str, predict: Predictor, *, samples: int, seed: int
) -> Measured:
    """Measure both methods on some images.

    Args:
        store: of the target.
        rows: the images, at least one.
        tl_source: of the predictor.
        predict: the complete predictor that is explained.
        samples: perturbed images per LIME explanation, of which each image gets two.
        seed: of LIME's perturbations and of the random orders.
    """
    images = taken(store.images, rows)
    places = [region(store, int(row)) for row in rows]
    passed = predict.passed(images, f"measure {tl_source}")
    scores, heats = predict.of_passed(passed), gradcam.gradcam(predict, images, passed)
    limes = [
        [superpixels.lime(predict, image, place, samples=samples, seed=one) for one in (seed, seed + 1)]
        for image, place in zip(track(images, f"LIME {tl_source}", len(images)), places, strict=True)
    ]
    tiled = [faithfulness.tiles(store.size, place) for place in places]
    maps = {
        "gradcam": heats.maps,
        "lime": np.stack([_rounded(first.map) for first, _ in limes]),
        RANDOM: np.zeros_like(heats.maps),
    }
    orders = [
        [faithfulness.ranks(heat[n], tiled[n], (seed, int(row))) for heat in maps.values()]
        for n, row in enumerate(rows)
    ]
    hidden = [superpixels.blurred(image, place) for image, place in zip(images, places, strict=True)]
    areas = faithfulness.areas(predict, images, np.stack(hidden), np.array(orders))
    found = []
    for n, row in enumerate(rows):
        told = store.manifest.iloc[row]
        own = _of_lime(heats.maps[n], *limes[n])
        own["gradcam"]["fidelity"] = float(heats.fidelity[n])
        for number, (method, heat) in enumerate(maps.items()):
            deletion, insertion = areas[n, number].tolist()
            found.append(
                {"tl_source": tl_source, "method": method, "image_id": told["image_id"], "group_id": told["group_id"]}
                | {"score": float(scores[n]), "deletion": deletion, "insertion": insertion}
                | {"gain": insertion - deletion}
                | (own[method] | _placed(heat[n], method, told["boxes"], places[n]) if method != RANDOM else {})
            )
    coarse = [faithfulness.coarse(heat, place) for heat, place in zip(heats.maps, places, strict=True)]
    return Measured(found, coarse)


def between(store: Store, rows: NDArray[np.intp], coarse: Mapping[str, list[Floats]]) -> Iterator[dict[str, Any]]:
    """How far each two sources' Grad-CAM agrees on each image (Spearman over the tiles), a row of :data:`BETWEEN` each.

    Args:
        store, rows: as in :func:`measured`.
        coarse: of each source.
    """
    for a, b in combinations([source for source in reversed(TL_SOURCES) if source in coarse], 2):
        for n, row in enumerate(rows):
            told = store.manifest.iloc[row]
            yield {"a": a, "b": b, "image_id": told["image_id"], "group_id": told["group_id"]} | {
                "agreement": cases.rank_correlation(coarse[a][n], coarse[b][n])
            }


def table(found: pd.DataFrame, pairs: pd.DataFrame, seed: int) -> Table:
    """Means over images with intervals, and what differs.

    Args:
        found: rows of :func:`measured` of all sources, on the same images in the same order.
        pairs: rows of :func:`between`.
        seed: of the resamples.

    Returns:
        None in place of a mean that no image has, and of the ends of an interval where fewer than two groups have it.
    """
    parts = {(str(a), str(b)): part for (a, b), part in found.groupby(["tl_source", "method"], sort=False)}
    rows = [
        {"tl_source": tl_source, "method": method, "n": len(part), "groups": int(part["group_id"].nunique())}
        | {name: _mean(part[name], part["group_id"], seed)._asdict() for name in MEASURES}
        | {name: _mean(part[name], part["group_id"], seed).value for name in ("chance", "border_chance")}
        | {"empty": int(part["empty"].eq(True).sum())}
        for (tl_source, method), part in parts.items()
    ]
    agreed = [
        {"a": a, "b": b, "n": int(part["agreement"].notna().sum())}
        | {"agreement": _mean(part["agreement"], part["group_id"], seed)._asdict()}
        for (a, b), part in pairs.groupby(["a", "b"], sort=False)
    ]
    return Table(rows, agreed, [asdict(one) for one in holm(list(_compared(parts, seed)))])


def write(
    store: Store, rows: NDArray[np.intp], of_sources: Mapping[str, Measured], seed: int, staging: Path
) -> dict[str, Any]:
    """Write ``quality.csv`` (each image, source and method) and ``quality_sources.csv`` (each image, two sources).

    Returns:
        For ``explanations.json``: the :class:`Table`, what it means, images and groups; empty where none was measured.
    """
    found = pd.DataFrame([row for one in of_sources.values() for row in one.rows], columns=COLUMNS)
    pairs = pd.DataFrame(between(store, rows, {name: one.coarse for name, one in of_sources.items()}), columns=BETWEEN)
    found.to_csv(staging / "quality.csv", index=False)
    pairs.to_csv(staging / "quality_sources.csv", index=False)
    if found.empty:
        return {}
    about = {"images": len(rows), "groups": int(found["group_id"].nunique()), "about": ABOUT}
    return about | table(found, pairs, seed)._asdict()


def border(size: int, content: superpixels.Box) -> NDArray[np.bool_]:
    """What of a square of side ``size`` lies within :data:`BORDER` of the sides of ``content`` (px), or outside it."""
    left, top, right, bottom = superpixels.pixels_of(content, (size, size))
    at = np.arange(size) + 0.5
    down, across = (
        (low + BORDER * (high - low) <= at) & (at < high - BORDER * (high - low))
        for low, high in ((top, bottom), (left, right))
    )
    return ~np.outer(down, across)


def _of_lime(heat: NDArray[np.float32], first: superpixels.Lime, second: superpixels.Lime) -> dict[str, dict[str, Any]]:
    """What two explanations of an image by LIME say of each other, and of its Grad-CAM [S, S]."""
    one = _rounded(first.weights)
    mean = ndimage.mean(heat, first.segments, np.arange(len(one)))
    agreement = {"agreement": cases.rank_correlation(mean, one)}
    steady = superpixels.steadiness(first, second)
    return {
        "gradcam": dict(agreement),
        "lime": agreement
        | {"stability": steady.spearman, "overlap": steady.top}
        | {"fidelity": first.fidelity if one.any() else None},
    }


def _placed(
    heat: NDArray[np.float32], method: str, boxes: list[list[float]], content: superpixels.Box
) -> dict[str, Any]:
    """Where the positive mass of a map [S, S] lies."""
    empty = not (heat > 0).any()
    mask = border(len(heat), content)
    found: dict[str, Any] = {"empty": empty, "border": cases.energy_inside(heat, mask)}
    left, top, right, bottom = superpixels.pixels_of(content, heat.shape)
    whole = mask if method == "gradcam" else mask[top:bottom, left:right]  # LIME's map is of the image alone
    found["border_chance"] = float(whole.mean())
    if len(boxes):
        found |= cases.agreement(heat, boxes, content) | (dict.fromkeys(("energy", "pointing"), 0.0) if empty else {})
    return found


def _rounded(weights: NDArray[Any]) -> NDArray[Any]:
    return np.round(weights, _NOISE)


def _mean(values: pd.Series, groups: pd.Series, seed: int) -> Interval:
    """Mean of what is there, and its interval where that is of two groups at least."""
    value, replicates, _ = _resampled(values, groups, seed)
    return percentile(value, replicates)


def _compared(parts: Mapping[tuple[str, str], pd.DataFrame], seed: int) -> Iterator[Comparison]:
    sources = [source for source in reversed(TL_SOURCES) if (source, RANDOM) in parts]
    pairs = [((a, method), (b, method)) for a, b in combinations(sources, 2) for method in METHODS]
    pairs += [((source, METHODS[0]), (source, METHODS[1])) for source in sources]
    against = [((source, method), (source, RANDOM)) for source in sources for method in METHODS]
    for name, which in zip(COMPARED, (against + pairs, pairs), strict=True):
        for a, b in which:
            first, second = parts[a].set_index("image_id"), parts[b].set_index("image_id")
            value, replicates, groups = _resampled(first[name] - second[name], first["group_id"], seed)
            found = contrast("/".join(a), "/".join(b), name, value, replicates, FAMILY)
            if groups < TOO_FEW:
                found = replace(found, p_value=None, adjusted_p=None, smallest_detectable=None)
            if groups:
                yield found


def _resampled(values: pd.Series, groups: pd.Series, seed: int) -> tuple[float, Floats, int]:
    """Mean of the values that are there, its replicates (NaN where these are of one group), and how many groups."""
    there = values.notna()
    kept, held = values[there].to_numpy(np.float64), groups[there]
    count = held.nunique()
    if count < 2:
        return float(kept.mean()) if count else float("nan"), np.full(1, np.nan), count
    weights = resample(held, np.ones(len(held)), REPLICATES, seed).weights
    return float(kept.mean()), weights @ kept / weights.sum(axis=1), count
