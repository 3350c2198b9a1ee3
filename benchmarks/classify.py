"""What the search of `classify` costs: against scikit-learn's GridSearchCV over the same grid, and against bare fits.

    python benchmarks/classify.py [--images 3000] [--blocks 3] [--width 1280] [--folds 5] [--only NAME] [--skip-plain]

Synthetic features, from which a third of the variance tells what it can of a label; all classifiers on the fused
columns with their default settings. For each classifier, alone (so nothing is shared between classifiers):

* ours: :func:`radtransfer.fusion.search.find`;
* plain: ``GridSearchCV`` over pipelines of ``StandardScaler``, the same reduction and scikit-learn's own classifier,
  boosting on the same bins;
* floor: the fits of the estimators alone, on columns that were scaled and reduced beforehand and counted nowhere.

Then the whole search at once, as `classify` does it, with what classifiers share, too; and the last fit of each on all
training images. All run on two threads of one process (GridSearchCV's processes would have to start first). Seconds
are of processor time, which hangs less on what runs beside it, and so is the ratio. Exit code 1 if a choice differs, or
the whole search with its last fits takes over 5 minutes of wall time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

os.environ["OMP_NUM_THREADS"] = "1"  # OpenMP counts its threads for each thread that calls it

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from radtransfer.fusion.classifiers import Fed, LinearSVM, classifier, pipeline
from radtransfer.fusion.grid import CLASSIFIERS, Settings, space
from radtransfer.fusion.search import Columns, Folds, Job, find, fit, grouped_folds, side_by_side

ALLOWED_SECONDS = 300
WORKERS = 2
Done = TypeVar("Done")


def features(images: int, blocks: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.int_]]:
    """Columns [images, blocks * width] as pooled activations have them, labels, and groups of two images."""
    rng = np.random.default_rng(0)
    labels = (rng.random(images) < 0.4).astype(np.int8)
    factors = rng.normal(size=(images, 60))
    factors[:, :6] += 0.4 * labels[:, None]
    columns = np.hstack([factors @ rng.normal(size=(60, width)) * 0.15 for _ in range(blocks)])
    columns += 0.5 * rng.normal(size=columns.shape)
    return np.maximum(0, columns).astype(np.float32).astype(np.float64), labels, np.arange(images) // 2


def timed(work: Callable[[], Done]) -> tuple[Done, float, float]:
    """What it gives, its wall seconds and its processor seconds."""
    began, before = time.perf_counter(), time.process_time()
    done = work()
    return done, time.perf_counter() - began, time.process_time() - before


def plain(
    name: str, tried: list[Settings], columns: Columns, labels: NDArray[np.int8], folds: Folds
) -> tuple[Settings, float]:
    """What GridSearchCV finds."""
    smallest = min(len(inside) for inside, _ in folds)
    grid = []
    for settings in tried:
        made = pipeline(name, settings, columns.widths, smallest - 1, 0)
        steps = dict(made.steps)
        if settings["weights"] != "signal":
            steps["scale"] = StandardScaler()
        if isinstance(steps["classifier"], LinearSVM):
            steps["classifier"] = SVC(kernel="linear", C=settings["C"], class_weight="balanced")
        grid.append({key: [step] for key, step in steps.items()})
    whole = Pipeline([(key, "passthrough") for key in grid[0]])
    with parallel_config("threading"), threadpool_limits(1):
        search = GridSearchCV(whole, grid, scoring="roc_auc", cv=folds, n_jobs=WORKERS, refit=False)
        search.fit(columns.values, labels)
    return tried[search.best_index_], float(search.best_score_)


def floor(name: str, tried: list[Settings], columns: Columns, labels: NDArray[np.int8], folds: Folds) -> float:
    """Processor seconds of the fits alone."""
    fed: dict[tuple[Fed, int], NDArray[np.float64]] = {}
    smallest = min(len(inside) for inside, _ in folds)
    tasks = [(Fed.of(one, smallest - 1), number, one) for one in tried for number in range(len(folds))]
    for kind, number, _ in tasks:
        if (kind, number) not in fed:
            inside, _held = folds[number]
            steps = Pipeline(kind.steps(columns.widths, 0))
            fed[kind, number] = steps.fit_transform(columns.values[inside], labels[inside])

    def alone(task: tuple[Fed, int, Settings]) -> None:
        kind, number, settings = task
        classifier(name, settings, 0).fit(fed[kind, number], labels[folds[number][0]])

    return timed(lambda: side_by_side(alone, tasks, f"floor {name}"))[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", choices=[*CLASSIFIERS], action="append", help="repeatable")
    parser.add_argument("--skip-plain", action="store_true", help="do not measure GridSearchCV")
    args = parser.parse_args()

    values, labels, groups = features(args.images, args.blocks, args.width)
    columns = Columns(values, (args.width,) * args.blocks)
    folds = grouped_folds(labels, groups, args.folds, 1, 0)
    names = args.only or [*CLASSIFIERS]
    jobs = [Job("fused", name, space(name, {}, 16, 0)) for name in names]
    smallest = min(len(inside) for inside, _ in folds)
    print(f"{args.images} images, {values.shape[1]} columns, {len(folds)} folds; seconds (processor)")
    print(f"{'classifier':20}{'settings':>9}{'ours':>8}{'floor':>8}{'plain':>8}{'ratio':>7}  same choice")
    same, sums = True, np.zeros(3)
    for job in jobs:
        ((best, auroc),), _, ours = timed(partial(find, [job], {"fused": columns}, labels, folds, 0, job.name))
        least = floor(job.name, job.settings, columns, labels, folds)
        row = f"{job.name:20}{len(job.settings):9}{ours:8.1f}{least:8.1f}"
        if not args.skip_plain:
            (other, score), _, theirs = timed(partial(plain, job.name, job.settings, columns, labels, folds))
            same &= best == other
            sums += (ours, least, theirs)
            row += f"{theirs:8.1f}{theirs / ours:7.1f}  {best == other} (AUROC {auroc:.6f}, {score:.6f})"
        print(row, flush=True)

    def search() -> list[Any]:
        return find(jobs, {"fused": columns}, labels, folds, 0, "search")

    found, wall, whole = timed(search)
    chosen = [("fused", job.name, settings) for job, (settings, _) in zip(jobs, found, strict=True)]
    every = np.arange(len(labels))
    _, last_wall, last = timed(lambda: fit(chosen, {"fused": columns}, every, labels, smallest, 0, "last fits"))
    print(f"whole search, shared between classifiers: {whole:.1f} s of processor, {wall:.1f} s of wall")
    print(f"last fits: {last:.1f} s of processor, {last_wall:.1f} s of wall")
    if not args.skip_plain:
        print(f"sums: ours alone {sums[0]:.1f}, floor {sums[1]:.1f}, plain {sums[2]:.1f}; ratio {sums[2] / whole:.1f}")
    if wall + last_wall > ALLOWED_SECONDS:
        print(f"over {ALLOWED_SECONDS} s")
    return 0 if same and wall + last_wall <= ALLOWED_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
