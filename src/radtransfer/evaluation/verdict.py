"""What the figures come to: which comparisons are made, the plain answer, and what must be said against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from math import ceil
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radtransfer.config import TL_SOURCES
from radtransfer.evaluation.compare import ALPHA, POWER, Comparison, at_floor, compare, holm, smallest_p
from radtransfer.evaluation.intervals import Measured
from radtransfer.evaluation.metrics import Metric

HISTOGRAM, METADATA = "shortcut/grey_level_histogram", "shortcut/image_metadata"
LEARNT = {
    HISTOGRAM: ("a grey-level histogram", "exposure, windowing or framing tell much of the label"),
    METADATA: (
        "the size and kind of the image files",
        "the device or archive that an image is from tells much of the label",
    ),
}
"""Shortcuts that a result must clear: what they know, and what it would mean if that were enough."""
FEW = 30
"""Leakage groups with a class in the test split, below which intervals are called a rough guide. In the simulations of
``benchmarks/coverage.py`` (table in docs/method.md) intervals cover 93 to 97 % from 15 groups on, within their Monte
Carlo error, but scores can be worse than binormal ones, and five to thirty clusters are few by experience (Cameron,
Gelbach and Miller, Review of Economics and Statistics 90, 2008)."""
TOO_FEW = 15
"""Below that there are no p-values: in the same table intervals of paired differences cover 84 to 94 % with 3 to 12
groups, so that a test at 5 % would be one at up to 16 %."""
STRONG_SHORTCUT = 0.75  # AUROC from which a shortcut is named in its own right
SYNTHETIC = "The images are synthetic: the figures show that the pipeline works, nothing about real patients."
NO_PATIENTS = (
    "The data have no patient ids: groups are exact and near duplicates, so other images of a test patient may "
    "be among the training images, which would flatter every figure."
)
ONE_TRAINING = (
    "That is of one training of each: what another seed or split would change is not in the interval; cross-fitting "
    "(radtransfer crossfit) tells."
)
NAMES: dict[str, str] = {
    "scratch": "training from scratch",
    "imagenet": "ImageNet transfer",
    "in_domain": "in-domain pre-training",
}


def within(selected: str, choices: dict[str, dict[str, str]], measured: dict[str, Measured]) -> list[Comparison]:
    """Paired comparisons of what one run, or one cross-fitting, chose; p-values not yet corrected.

    Families: ``tl_source`` (fused choices of the TL sources, pairwise; AUROC, accuracy, kappa), ``fusion`` (fused less
    single choice of each TL source; AUROC), ``shortcut`` (selected less each of :data:`LEARNT`; AUROC).

    Args:
        selected: id of the selected row.
        choices: row ids of the choices ``fused`` and ``single`` of each TL source.
        measured: the rows by their ids, all measured with the same weights.
    """
    best_first = [name for name in reversed(TL_SOURCES) if name in choices]
    among: tuple[Metric, ...] = ("auroc", "accuracy", "kappa")
    found = [
        compare(choices[a]["fused"], choices[b]["fused"], metric, measured, "tl_source")
        for a, b in combinations(best_first, 2)
        for metric in among
    ]
    found += [
        compare(choices[name]["fused"], choices[name]["single"], "auroc", measured, "fusion") for name in best_first
    ]
    return found + [compare(selected, shortcut, "auroc", measured, "shortcut") for shortcut in LEARNT]


def answer(
    choices: dict[str, dict[str, str]],
    comparisons: list[Comparison],
    measured: dict[str, Measured],
    images: int,
    few: int,
    bootstrap: int,
    trainings: int,
) -> dict[str, Any]:
    """Which TL source won, if one did: in-domain against ImageNet, AUROC of the fused choices, after Holm.

    Of one training each it says that their chance is not in the interval.
    """
    if not {"imagenet", "in_domain"} <= set(choices):
        missing = " and ".join(NAMES[name] for name in ("imagenet", "in_domain") if name not in choices)
        return {
            "winner": None,
            "significant": False,
            "text": f"There is no answer to whether in-domain pre-training beats ImageNet transfer: this evaluation "
            f"was not given {missing}.",
        }
    fused = {name: choice["fused"] for name, choice in choices.items()}
    main = _find(comparisons, fused["in_domain"], fused["imagenet"], "auroc")
    values = [cast(float, measured[fused[name]].intervals["auroc"].value) for name in ("in_domain", "imagenet")]
    figures = (
        f"AUROC {values[0]:.3f} against {values[1]:.3f}, difference {main.difference:+.3f} "
        f"(95 % interval {main.low:+.3f} to {main.high:+.3f}{p_text(main, bootstrap)}, {images} test images)"
    )
    if main.adjusted_p is None:
        text = (
            "There is no verdict on in-domain pre-training against ImageNet transfer: a class lies in only "
            f"{few} leakage groups of the test images, and below {TOO_FEW} no test can be trusted. {figures}."
        )
        return {"winner": None, "significant": False, "text": text}
    if not main.significant:
        text = f"No significant difference between in-domain pre-training and ImageNet transfer: {figures}."
        if main.smallest_detectable is not None:
            text += (
                f" This test set would show a true difference of {main.smallest_detectable:.3f} or more with a power "
                f"of {POWER:.0%}."
            )
        return {"winner": None, "significant": False, "text": text}
    winner, verb = ("in_domain", "better") if cast(float, main.difference) > 0 else ("imagenet", "worse")
    text = f"In-domain pre-training is significantly {verb} than ImageNet transfer: {figures}."
    if trainings == 1:
        text += f" {ONE_TRAINING}"
    if "scratch" in fused:
        control = _find(comparisons, fused[winner], fused["scratch"], "auroc")
        if control.significant and cast(float, control.difference) < 0:
            text += f" But training from scratch is significantly better still than {NAMES[winner]}: neither wins."
            return {"winner": None, "significant": True, "text": text}
        if not control.significant:
            text += f" Over training from scratch, {NAMES[winner]} shows no significant gain."
    return {"winner": winner, "significant": True, "text": text}


def fewest(labels: NDArray[np.bool_], groups: ArrayLike) -> tuple[int, str]:
    """How many leakage groups hold the class that the fewest hold, and which class that is."""
    names = np.asarray(groups)
    held = {"positive": names[labels], "negative": names[~labels]}
    return min((len(set(its.tolist())), name) for name, its in held.items())


def judged(comparisons: list[Comparison], few: int) -> list[Comparison]:
    """Corrected by Holm; without p-values where a class lies in too few leakage groups (see :func:`fewest`)."""
    if few < TOO_FEW:
        return [
            replace(one, p_value=None, adjusted_p=None, smallest_detectable=None, beside=None) for one in comparisons
        ]
    return holm(comparisons)


def few(labels: NDArray[np.bool_], groups: ArrayLike) -> list[str]:
    """The warning that a class lies in few leakage groups; none where it does not."""
    number, name = fewest(labels, groups)
    if number >= FEW:
        return []
    guide = "are a rough guide" if number >= TOO_FEW else "cannot be trusted, and there is no verdict"
    return [
        f"The {name} test images lie in only {number} leakage groups (fewer than {FEW}): intervals {guide}. "
        "Use more images, or another split."
    ]


def warnings(comparisons: list[Comparison], shortcuts: Mapping[str, float | None], bootstrap: int) -> list[str]:
    """What the comparisons of one run say against its figures.

    Args:
        comparisons: those of :func:`within`, corrected.
        shortcuts: AUROC of each of :data:`LEARNT`.
        bootstrap: replicates behind the p-values.
    """
    found = unreachable(comparisons, bootstrap)
    for one in comparisons:
        if one.family == "shortcut" and (one.low is None or one.low <= 0):
            name = f" ({one.a})" if "/" in one.a else ""  # of a cross-fitting each fold selected its own
            found.append(
                f"The selected model{name} does not clear the shortcut: its AUROC less that of {LEARNT[one.b][0]} is "
                f"{_signed(one.difference)} (95 % interval {_signed(one.low)} to {_signed(one.high)})."
            )
    for one in comparisons:
        if one.family == "lesion" and (one.low is None or one.low <= 0):
            found.append(
                "Hiding the annotated lesions takes nothing from the selected model that hiding as much elsewhere does "
                f"not (AUROC {_signed(one.difference)}, 95 % interval {_signed(one.low)} to {_signed(one.high)}): it "
                "may tell the classes by something else."
            )
    for shortcut, auroc in shortcuts.items():
        if auroc is not None and auroc >= STRONG_SHORTCUT:
            known, meaning = LEARNT[shortcut]
            found.append(f"AUROC {auroc:.3f} is reached by {known} alone: {meaning}.")
    for one in comparisons:
        if one.family == "tl_source" and one.significant and cast(float, one.difference) < 0:
            a, b = one.a.split("/")[0], one.b.split("/")[0]
            metric = "AUROC" if one.metric == "auroc" else one.metric
            found.append(
                f"Negative transfer: {NAMES[a]} is significantly worse than {NAMES[b]} ({metric} "
                f"{_signed(one.difference)}, 95 % interval {_signed(one.low)} to {_signed(one.high)}"
                f"{p_text(one, bootstrap)})."
            )
    return found


def unreachable(comparisons: list[Comparison], bootstrap: int) -> list[str]:
    """The warning that so few replicates cannot show any difference in the largest family; none where they can."""
    largest = max(Counter(one.family for one in comparisons).values(), default=0)
    if smallest_p(bootstrap, largest) < ALPHA:
        return []
    return [
        f"With bootstrap = {bootstrap} no difference between TL sources can be shown: the smallest p-value after "
        f"Holm is {smallest_p(bootstrap, largest):.3f}. Set bootstrap to {ceil(2 * largest / ALPHA)} or more."
    ]


def _find(comparisons: list[Comparison], a: str, b: str, metric: Metric) -> Comparison:
    return next(one for one in comparisons if (one.a, one.b, one.metric) == (a, b, metric))


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.3f}"


def p_text(comparison: Comparison, bootstrap: int) -> str:
    """The adjusted p-value in brackets, as a continuation; empty where there is none."""
    if comparison.p_value is None or comparison.adjusted_p is None:
        return ""
    relation = "≤" if at_floor(comparison.p_value, bootstrap) else "="
    return f", p {relation} {comparison.adjusted_p:.3f} after Holm"
