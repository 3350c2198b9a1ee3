"""How often 95 % intervals hold the truth, by simulation: AUROC, accuracy, kappa and the paired AUROC difference.

    python benchmarks/coverage.py [--sets N] [--replicates B] [--sizes 50,200,1000] [--candidates] [--out FILE]

Binormal scores of two classifiers on the same images, whose noise correlates by .6. Independent data: every image is a
group. Grouped data: groups of 1 to 4 images, mean 2.5; three images in four take their group's label, the others draw
their own; two fifths of the variance of the noise belongs to the group. The classifiers are equally good, so that the
share of intervals of the difference that leave 0 out is the size of the test. Accuracy and kappa are taken at the
middle between the classes, where sensitivity and specificity are equal, so their true values are known.

The intervals are those of the library. The difference's percentiles come from all pairs of groups at once (a matrix
product) and from draws that are made once and shuffled for every set, since doing it as the library does would take
hours; every setting's first set is measured by the library as well, and the program stops if the two disagree.
``--candidates`` adds the intervals that were considered and not taken.

By default up to 200 images get 2,000 sets and more get 500: one standard error of 0.5 and of 1.0 percentage points.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm
from scipy.stats import t as student

from radtransfer.evaluation import delong
from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.counts import from_tests, jackknife
from radtransfer.evaluation.intervals import Resamples, measure, resample
from radtransfer.evaluation.metrics import Floats, Scored, from_confusion
from radtransfer.evaluation.proportions import wilson

PREVALENCES = (0.1, 0.3)
AREAS = (0.7, 0.9)
SHARED = 0.6  # correlation of the two classifiers' noise
WITHIN = 0.4  # share of the noise's variance that belongs to the group
OWN_LABEL = 0.25  # of grouped images, share that draws a label of its own
BATCH = 256  # replicates of a matrix product, for the processor's cache
Ends = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    grouped: bool
    images: int
    prevalence: float
    area: float

    @property
    def strength(self) -> float:
        """Distance of the classes' mean scores, in standard deviations."""
        return float(np.sqrt(2) * norm.ppf(self.area))

    @property
    def truth(self) -> dict[str, float]:
        hit = float(norm.cdf(self.strength / 2))
        p, n = self.prevalence, 1 - self.prevalence
        kappa = from_confusion(p * hit, p * (1 - hit), n * hit, n * (1 - hit))["kappa"]
        return {"AUROC": self.area, "accuracy": hit, "kappa": float(kappa), "difference": 0.0}


@dataclass(frozen=True)
class Drawn:
    """One set: groups and labels of its images, and the scores of both classifiers on the scale of the noise."""

    group: NDArray[np.intp]
    labels: NDArray[np.bool_]
    scores: tuple[Floats, Floats]


def draw(setting: Setting, rng: np.random.Generator, better: float = 0.0) -> Drawn:
    """A set with both classes; the true AUROCs lie ``better`` apart, half above and half below the setting's."""
    n = setting.images
    group = np.arange(n)
    if setting.grouped:
        group = np.repeat(np.arange(2 * n // 5), np.resize([1, 2, 3, 4], 2 * n // 5))
    count = int(group[-1]) + 1
    while True:
        labels = rng.random(n) < setting.prevalence
        if setting.grouped:
            of_group = (rng.random(count) < setting.prevalence)[group]
            labels = np.where(rng.random(n) < OWN_LABEL, labels, of_group)
        if labels.any() and not labels.all():
            break
    within = WITHIN if setting.grouped else 0.0

    def noise() -> Floats:
        drawn: Floats = np.sqrt(within) * rng.normal(size=count)[group] + np.sqrt(1 - within) * rng.normal(size=n)
        return drawn

    common = noise()
    first, second = (
        strength * labels + np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * noise()
        for strength in (replace(setting, area=setting.area + half).strength for half in (better / 2, -better / 2))
    )
    return Drawn(group, labels, (first, second))


def pairs(drawn: Drawn) -> tuple[Floats, Floats]:
    """Of each pair of groups with positives and with negatives, the pairs of images that either classifier orders."""
    y, group = drawn.labels, drawn.group
    rows, columns = (np.unique(group[side], return_inverse=True) for side in (y, ~y))
    shape = (len(rows[0]), len(columns[0]))
    at = rows[1][:, None] * shape[1] + columns[1][None, :]
    found: list[Floats] = []
    for scores in drawn.scores:
        order = (scores[y][:, None] > scores[~y][None, :]).astype(np.float64)
        found.append(np.bincount(at.ravel(), order.ravel(), shape[0] * shape[1]).reshape(shape).astype(np.float64))
    return found[0], found[1]


def replicated(drawn: Drawn, counts: Floats, area: bool) -> list[Floats]:
    """The difference of the AUROCs in each replicate [B]; with ``area`` also the AUROC of the first classifier."""
    first, second = pairs(drawn)
    y, group = drawn.labels, drawn.group
    rows, columns = np.unique(group[y]), np.unique(group[~y])
    drawn_rows, drawn_columns = counts[:, rows], counts[:, columns]
    positives = drawn_rows @ np.bincount(group[y], minlength=counts.shape[1])[rows]
    negatives = drawn_columns @ np.bincount(group[~y], minlength=counts.shape[1])[columns]
    sums = []
    for matrix in (first - second, first)[: 1 + area]:
        done = [
            np.einsum(
                "bg,bg->b",
                drawn_rows[at : at + BATCH].astype(np.float32) @ matrix.astype(np.float32),
                drawn_columns[at : at + BATCH],
            )
            for at in range(0, len(counts), BATCH)
        ]
        sums.append(np.concatenate(done) / (positives * negatives))
    return sums


def group_counts(resamples: Resamples) -> Floats:
    """How often each group was drawn [B, G]."""
    _, first = np.unique(resamples.group, return_index=True)
    return resamples.weights[:, first]


def shuffled(counts: Floats, drawn: Drawn, rng: np.random.Generator) -> Floats:
    """Replicates of a set: draws that do not know it, its groups in another order, those without a class left out."""
    moved = counts[:, rng.permutation(counts.shape[1])]
    held = [np.bincount(drawn.group[side], minlength=counts.shape[1]) for side in (drawn.labels, ~drawn.labels)]
    kept: Floats = moved[(moved @ held[0] > 0) & (moved @ held[1] > 0)]
    return kept


def percentiles(replicates: Floats, tail: float = 0.025) -> Ends:
    low, high = np.quantile(replicates[np.isfinite(replicates)], [tail, 1 - tail])
    return float(low), float(high)


def intervals(drawn: Drawn, setting: Setting, drawn_groups: Floats, candidates: bool) -> dict[str, dict[str, Ends]]:
    """Of each quantity the interval of the library (``""``) and of the other methods, by their names."""
    y, group = drawn.labels, drawn.group
    tests = [[Scored(scores, setting.strength / 2)] for scores in drawn.scores]
    found = delong.areas(y, tests, group)
    value, variance = float(found.values[0]), float(found.covariance[0, 0])
    held = [len(np.unique(group[side])) for side in (y, ~y)]
    area = delong.interval(value, variance, found.groups) or delong.extreme(value, *held)
    counts = from_tests(y, tests[0], group)
    accuracy, kappa = wilson(counts.right, np.ones(len(y)), group), jackknife(counts, "kappa")
    differences, *areas = replicated(drawn, drawn_groups, candidates)
    difference, error = delong.difference(found, 0, 1)
    z, t = float(norm.ppf(0.975)), float(student.ppf(0.975, max(found.groups - 1, 1)))
    ends: dict[str, dict[str, Ends]] = {
        "AUROC": {"": area},
        "accuracy": {"": (accuracy.low, accuracy.high) if accuracy else (0, 0)},
        "kappa": {"": (kappa.low, kappa.high) if kappa else (0, 0)},
        "difference": {"": percentiles(differences)},
    }
    if not candidates:
        return ends
    ends["AUROC"] |= {
        "percentile": percentiles(areas[0]),
        "DeLong": (value - z * np.sqrt(variance), value + z * np.sqrt(variance)),
        "logit DeLong, normal": logit(value, variance, z, held),
    }
    cells = drawn_groups @ counts.table[0]
    ends["accuracy"]["percentile"] = percentiles((cells[:, 0] + cells[:, 2]) / cells.sum(axis=1))
    single = wilson(counts.right, np.ones(len(y)), np.arange(len(y)))
    ends["accuracy"]["Wilson, groups ignored"] = (single.low, single.high) if single else (0, 0)
    ends["kappa"]["percentile"] = percentiles(from_confusion(*cells.T)["kappa"])
    ends["difference"] |= {
        "DeLong": (difference - z * error, difference + z * error),
        "DeLong, Student": (difference - t * error, difference + t * error),
        "expanded percentile": percentiles(
            differences, float(norm.cdf(-t * np.sqrt(found.groups / max(found.groups - 1, 1))))
        ),
    }
    return ends


def logit(value: float, variance: float, quantile: float, held: list[int]) -> Ends:
    if not 0 < value < 1 or not np.isfinite(variance):
        return delong.extreme(value, *held)
    middle, half = np.log(value / (1 - value)), quantile * np.sqrt(variance) / (value * (1 - value))
    return float(expit(middle - half)), float(expit(middle + half))


def agree(drawn: Drawn, setting: Setting, replicates: int) -> None:
    """Stop if the library's own path measures another difference than the matrix product does."""
    y, group = drawn.labels, drawn.group
    resamples = resample(group, y, replicates, 0)
    first, second = (expit(scores) for scores in drawn.scores)
    threshold = float(expit(setting.strength / 2))
    measured = {name: measure(y, scores, threshold, resamples) for name, scores in (("a", first), ("b", second))}
    by_library = compare("a", "b", "auroc", measured, "f")
    ours = intervals(replace(drawn, group=resamples.group), setting, group_counts(resamples), False)
    area = measured["a"].intervals["auroc"]
    for mine, told in ((ours["difference"][""], by_library), (ours["AUROC"][""], area)):
        if told.low is None or told.high is None or not np.allclose(mine, (told.low, told.high), atol=1e-5):
            sys.exit(f"{setting}: the library gives {told.low} to {told.high}, the benchmark {mine}")


def simulate(
    setting: Setting, sets: int, replicates: int, candidates: bool
) -> tuple[dict[str, dict[str, float]], float]:
    """Share of sets whose interval holds the truth, by quantity and method; median groups with the rarer class."""
    rng = np.random.default_rng(
        [setting.images, int(100 * setting.prevalence), int(100 * setting.area), setting.grouped]
    )
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    few = []
    groups = int(draw(setting, rng).group[-1]) + 1
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=replicates).astype(np.float64)
    for number in range(sets):
        drawn = draw(setting, rng)
        if not number:
            agree(drawn, setting, replicates)
        few.append(min(len(np.unique(drawn.group[side])) for side in (drawn.labels, ~drawn.labels)))
        for name, methods in intervals(drawn, setting, shuffled(counts, drawn, rng), candidates).items():
            for method, (low, high) in methods.items():
                held[name][method] += low - 1e-9 <= setting.truth[name] <= high + 1e-9
    shares = {name: {method: count / sets for method, count in methods.items()} for name, methods in held.items()}
    return shares, float(np.median(few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--sets", type=int, default=2000, help="simulated sets of each setting; above 200 images a quarter"
    )
    parser.add_argument("--replicates", type=int, default=999, help="bootstrap replicates of each set")
    parser.add_argument("--sizes", default="50,200,1000", help="numbers of images")
    parser.add_argument("--candidates", action="store_true", help="also the methods that were not taken")
    parser.add_argument("--out", type=Path, help="also write the table here (Markdown)")
    given = parser.parse_args()
    started, lines = time.process_time(), []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    sizes = [int(size) for size in given.sizes.split(",")]
    for number, (grouped, images, prevalence, area) in enumerate(product((False, True), sizes, PREVALENCES, AREAS)):
        setting = Setting(grouped, images, prevalence, area)
        shares, few = simulate(
            setting, given.sets if images <= 200 else given.sets // 4, given.replicates, given.candidates
        )
        columns = [f"{name} {method}".strip() for name, methods in shares.items() for method in methods]
        if not number:
            say("| data | images | prevalence | AUROC | groups | " + " | ".join(columns) + " |")
            say("|---|" + "---:|" * (4 + len(columns)))
        cells = [f"{100 * share:.1f}" for methods in shares.values() for share in methods.values()]
        kind = "grouped" if grouped else "independent"
        say(f"| {kind} | {images} | {prevalence:g} | {area:g} | {few:g} | " + " | ".join(cells) + " |")
    errors = [100 * np.sqrt(0.95 * 0.05 / sets) for sets in (given.sets, given.sets / 4)]
    say(
        f"\nPer cent of {given.sets} simulated sets whose 95 % interval holds the truth (one standard error "
        f"{errors[0]:.1f}), above 200 images of a quarter as many ({errors[1]:.1f}); {given.replicates} replicates; "
        f"groups: median number of groups that hold the rarer class. {time.process_time() - started:.0f} s of "
        "processor time."
    )
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
