"""How well AUROC holds out under graded corruptions of the test images.

A degradation curve is the AUROC over grades, from 0 (the images as they are) to the highest. Its area, by trapezoids
and over the number of grades, is a mean of AUROCs, and is measured as one: a row of its own, with the interval of every
AUROC and the paired test of every difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

from radtransfer.config import TL_SOURCES
from radtransfer.evaluation.compare import Comparison, compare
from radtransfer.evaluation.intervals import Interval, Measured, mean_auroc, percentile
from radtransfer.evaluation.metrics import Floats
from radtransfer.evaluation.verdict import NAMES, p_text
from radtransfer.robustness.kinds import EVERY, GRADES, KINDS, graded

FAMILY = "robustness"


def kinds(changes: Mapping[str, Any]) -> list[str]:
    """Which kinds are among the changes of a **stress**."""
    return [kind for kind in KINDS if graded(kind, 1) in changes]


def areas(row_id: str, among: Sequence[str], measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """Area under each degradation curve of a row, by kind; and their mean, as :data:`EVERY`.

    Args:
        row_id: of the row of the images as they are.
        among: kinds, at least one.
        measured: that row and its graded ones, all with the same resamples.
    """
    found, together = {}, []
    for kind in among:
        curve = [measured[row_id], *(measured[f"{row_id}/{graded(kind, grade)}"] for grade in range(1, GRADES + 1))]
        trapezoids = [*curve, *curve[1:-1]]  # the ends count half as much as what lies between
        found[kind] = mean_auroc(trapezoids)
        together += trapezoids
    return found | {EVERY: mean_auroc(together)}


def pairs(choices: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """What is held against what: fused choices of the TL sources pairwise, then fused and single of each source."""
    best_first = [name for name in reversed(TL_SOURCES) if name in choices]
    among = [(choices[a]["fused"], choices[b]["fused"]) for a, b in combinations(best_first, 2)]
    return among + [(choices[name]["fused"], choices[name]["single"]) for name in best_first]


def compared(choices: Mapping[str, Mapping[str, str]], measured: dict[str, Measured]) -> list[Comparison]:
    """The comparisons of family ``robustness``: areas, the mean over kinds; p-values not yet corrected."""
    return [compare(f"{a}/{EVERY}", f"{b}/{EVERY}", "auroc", measured, FAMILY) for a, b in pairs(choices)]


def drop(row_id: str, measured: Mapping[str, Measured]) -> Interval:
    """What a row loses: AUROC of the images as they are less the mean area, with the interval of its replicates."""
    return percentile(*_lost(row_id, measured))


def drop_difference(a: str, b: str, measured: Mapping[str, Measured]) -> Interval:
    """What ``a`` loses less what ``b`` loses, both measured on the same replicates."""
    (first, one), (second, other) = _lost(a, measured), _lost(b, measured)
    return percentile(first - second, one - other)


def drops(choices: Mapping[str, Mapping[str, str]], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """For the report: the drop ``of`` each choice, and differences of drops ``between`` :func:`pairs`, not tested."""
    chosen = {row: None for choice in choices.values() for row in (choice["fused"], choice["single"])}
    return {
        "of": {row: drop(row, measured)._asdict() for row in chosen},
        "between": [{"a": a, "b": b} | drop_difference(a, b, measured)._asdict() for a, b in pairs(choices)],
    }


def _lost(row_id: str, measured: Mapping[str, Measured]) -> tuple[float, Floats]:
    clean, area = measured[row_id], measured[f"{row_id}/{EVERY}"]
    return _auroc(clean) - _auroc(area), clean.replicates["auroc"] - area.replicates["auroc"]


def _auroc(one: Measured) -> float:
    """There is one: ``evaluate`` refuses test images of one class."""
    return cast(float, one.intervals["auroc"].value)


def told(
    choices: Mapping[str, Mapping[str, str]],
    comparisons: Sequence[Comparison],
    measured: Mapping[str, Measured],
    among: Sequence[str],
    bootstrap: int,
) -> dict[str, Any]:
    """What the evaluation artifact says of robustness under the kinds ``among``."""
    return {
        "kinds": list(among),
        "drops": drops(choices, measured),
        "text": sentence(choices, comparisons, measured, among, bootstrap),
    }


def sentence(
    choices: Mapping[str, Mapping[str, str]],
    comparisons: Sequence[Comparison],
    measured: Mapping[str, Measured],
    among: Sequence[str],
    bootstrap: int,
) -> str:
    """Which of the first two TL sources, by their fused choices, is the more robust, if one is shown to be.

    Robust is who keeps more AUROC (a significant difference of areas, after Holm) and also loses less of it (the
    interval of the difference of drops lies below 0).
    """
    names = [name for name in reversed(TL_SOURCES) if name in choices][:2]
    rows = [choices[name]["fused"] for name in names]
    held = [_auroc(measured[f"{row}/{EVERY}"]) for row in rows]
    over = f"over {'one kind' if len(among) == 1 else f'{len(among)} kinds'} of corruption in {GRADES} grades"
    if len(names) < 2:
        return f"Mean AUROC {over}: {held[0]:.3f} by {NAMES[names[0]]}, with no other source to hold it against."
    main = next(one for one in comparisons if (one.a, one.b) == (f"{rows[0]}/{EVERY}", f"{rows[1]}/{EVERY}"))
    lost, apart = [drop(row, measured) for row in rows], drop_difference(rows[0], rows[1], measured)
    figures = (
        f"mean AUROC {over} {held[0]:.3f} against {held[1]:.3f}, difference {main.difference:+.3f} (95 % interval "
        f"{main.low:+.3f} to {main.high:+.3f}{p_text(main, bootstrap)}); loss from clean images {lost[0].value:.3f} "
        f"against {lost[1].value:.3f}, difference {apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})."
    )
    first, second = (NAMES[name] for name in names)
    if main.adjusted_p is None:
        return f"There is no verdict on whether {first} or {second} is the more robust: {figures}"
    if not main.significant:
        return f"Neither {first} nor {second} is shown to be the more robust: {figures}"
    ahead = cast(float, main.difference) > 0
    loses_less = cast(float, apart.high) < 0 if ahead else cast(float, apart.low) > 0
    winner, other = (first, second) if ahead else (second, first)
    if loses_less:
        return f"Under corruption {winner} is more robust than {other}: {figures}"
    return f"Under corruption {winner} stays ahead of {other}, but is not shown to lose less: {figures}"
