"""How long the evaluation of a full run takes: 3 TL sources, 15 candidates each, three shortcuts, images and studies.

    python benchmarks/evaluation.py [--images 400] [--candidates 15] [--replicates 2000]

Measures what grows with candidates and replicates in ``evaluate``: all rows on three levels (images, studies by their
mean and by their highest score), of two choices of each source those of all graded corruptions with the areas under
their curves, and the comparisons. The images are drawn (200 groups of two, one in three positive).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits

from radtransfer.evaluation import degradation, verdict
from radtransfer.evaluation.intervals import measure, resample
from radtransfer.evaluation.levels import Level
from radtransfer.robustness.kinds import GRADES, KINDS, graded

AIM = 60.0
SOURCES = ("scratch", "imagenet", "in_domain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--candidates", type=int, default=15, help="of each TL source")
    parser.add_argument("--replicates", type=int, default=2000)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    unit = np.arange(given.images) // 2
    of_study = rng.random(unit[-1] + 1) < 1 / 3
    names = [f"{source}/{number}" for source in SOURCES for number in range(given.candidates)]
    names += [*verdict.LEARNT, "shortcut/majority_class"]
    scores = {name: expit(rng.normal(size=given.images) + of_study[unit]) for name in names}
    with threadpool_limits(1):
        started, worked = time.perf_counter(), time.process_time()
        on_images = resample(unit, of_study[unit], given.replicates, 0)
        on_studies = resample(np.arange(len(of_study)), of_study, given.replicates, 0)
        image = Level(
            name="image", labels=of_study[unit], groups=unit.astype(object), unit=np.arange(given.images),
            resamples=on_images,
        )  # fmt: skip
        study = Level(
            name="study", labels=of_study, groups=np.arange(len(of_study)).astype(object), unit=unit, pooling="mean",
            resamples=on_studies,
        )  # fmt: skip
        levels = (image, study, replace(study, pooling="max"))
        measured = {
            name + level.suffix: measure(level.labels, level.scores(one), 0.5, level.resamples)
            for level in levels
            for name, one in scores.items()
        }
        choices = {source: {"fused": f"{source}/0", "single": f"{source}/1"} for source in SOURCES}
        for name in [row for choice in choices.values() for row in choice.values()]:
            for change in [graded(kind, grade) for kind in KINDS for grade in range(1, GRADES + 1)]:
                measured[f"{name}/{change}"] = measure(image.labels, scores[name], 0.5, on_images)
            its = degradation.areas(name, list(KINDS), measured)
            measured |= {f"{name}/{change}": area for change, area in its.items()}
        within = verdict.within("in_domain/0", choices, measured) + degradation.compared(choices, measured)
        comparisons = verdict.judged(within, 100)
        degradation.drops(choices, measured)
        wall, worked = time.perf_counter() - started, time.process_time() - worked
    print(
        f"{len(measured)} rows and {len(comparisons)} comparisons with {given.replicates} replicates of "
        f"{given.images} images: {wall:.1f} s of wall time, {worked:.1f} s of one processor (aim: below {AIM:.0f} s)"
    )


if __name__ == "__main__":
    main()
