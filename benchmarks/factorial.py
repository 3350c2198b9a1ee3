"""What moves the validation score, many settings at a time: networks with a random half of the variations each.

    python benchmarks/factorial.py --config FILE --data-root DIR --trainings N [--tl-source imagenet]
        [--backbone NAME] [--folds 4] --vary 'key=value[; key=value]' ...

A factorial design (Box, Hunter & Hunter 2005, ch. 5): every one of N networks tells something of every variation, where
`benchmarks/ablation.py`, whose options and folds these are, spends as many on one. Each network has its own seed,
trains in a process of one thread and is scored on one fold, at its best epoch there. Prints what a variation adds to a
fold's AUROC, by least squares with the folds apart, and the 95 % interval: the chance of training is in it, that of
which images there are is not. It is assumed that variations add up. A variation of the data or of pre-training is not
one of these. Test images are not read.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from ablation import BASE, DATA, RECIPE, asked, checked, folds, pretrained, told_apart, trained
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from radtransfer import limits
from radtransfer.configfile import load
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store

DESIGNS = 2000
"""Random ones, of which the best is taken."""
EPOCHS = "finetune_epochs"


def design(trainings: int, variations: int, count: int) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which variations each training has, bool [N, V], and the fold it is scored on, from 0 [N].

    In a fold half of the trainings have a variation. Of many such designs the one by which all effects together are
    known best (A-optimal).
    """
    fold = np.arange(trainings) % count
    best, least = np.zeros((trainings, variations), bool), np.inf
    rng = np.random.default_rng(0)
    for _ in range(DESIGNS):
        has = np.zeros((trainings, variations), bool)
        for number in range(count):
            rows = np.flatnonzero(fold == number)
            for variation in range(variations):
                half = (len(rows) + (number + variation) % 2) // 2
                has[rng.permutation(rows)[:half], variation] = True
        terms = _terms(has, fold)
        if trainings > terms.shape[1] == np.linalg.matrix_rank(terms):
            spread = float(np.trace(np.linalg.inv(terms.T @ terms)[count:, count:]))
            if spread < least:
                best, least = has, spread
    if np.isinf(least):
        sys.exit(f"--trainings {trainings}: too few for {variations} variations on {count} folds")
    return best, fold


def effects(
    scores: NDArray[np.float64], has: NDArray[np.bool_], fold: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each variation adds to a score, and half the width of its 95 % interval (Student's t)."""
    terms = _terms(has, fold)
    found = np.asarray(np.linalg.lstsq(terms, scores, rcond=None)[0], np.float64)
    free, count = len(scores) - terms.shape[1], terms.shape[1] - has.shape[1]
    variance = float(((scores - terms @ found) ** 2).sum()) / free
    spread = np.sqrt(variance * np.diag(np.linalg.inv(terms.T @ terms)))
    return found[count:], np.asarray(stats.t.ppf(0.975, free) * spread[count:], np.float64)


def _terms(has: NDArray[np.bool_], fold: NDArray[np.intp]) -> NDArray[np.float64]:
    """Columns that are fitted: a level for each fold, and each variation."""
    return np.hstack([np.eye(int(fold.max()) + 1)[fold], has - 0.5])


def main() -> None:
    """Train, and print what each variation adds."""
    parser = asked(__doc__ or "")
    parser.add_argument("--trainings", type=int, required=True)
    given = parser.parse_args()
    config, started = checked(given), time.monotonic()
    told = {text: told_apart(text) for text in given.vary}
    for text, (entries, _) in told.items():
        other = {key for key, value in load(given.config, entries) if value != getattr(config, key)}
        if other - RECIPE - {EPOCHS} or other & DATA:
            sys.exit(f"--vary {text}: varies more than fine-tuning; see benchmarks/ablation.py")
    has, fold = design(given.trainings, len(told), given.folds)
    with (
        tempfile.TemporaryDirectory(prefix="radtransfer-factorial-") as name,
        ProcessPoolExecutor(limits.cpus(), multiprocessing.get_context("fork")) as pool,
    ):
        store = Path(name) / "target"
        preprocess(
            data_root=given.data_root, target_out=store, source_out=Path(f"{store}.source"),
            **config.model_dump(include=DATA),
        )  # fmt: skip
        related = pool.submit(pretrained, given, config, Path(f"{store}.source"), {}, {}).result()  # no torch in here
        cut, labels = list(folds(Store.open(store), given.folds)), Store.open(store).manifest["label"].to_numpy()
        begun = []
        for number, row in enumerate(has):
            taken = [each for each, on in zip(told.values(), row, strict=True) if on]
            settings = [
                *(part for entries, _ in taken for part in entries),
                f"seed={config.seed + number}",
                "threads=1",
            ]
            constants = {key: value for _, fixed in taken for key, value in fixed.items()}
            out, rows = Path(name) / f"model-{number}", cut[fold[number]]
            varied = load(given.config, settings)
            begun.append(pool.submit(trained, given, varied, store, rows, constants, out, related))
        scores = np.zeros(given.trainings)
        for number, future in enumerate(begun):
            scores[number] = roc_auc_score(labels[cut[fold[number]]["validation"]], future.result())
            names = "; ".join(text for text, on in zip(told, has[number], strict=True) if on)
            print(f"fold {fold[number] + 1}: {names or BASE}: AUROC {scores[number]:.3f}", flush=True)
    for text, effect, half in zip(told, *effects(scores, has, fold), strict=True):
        print(f"{text}: {effect:+.3f} ({effect - half:+.3f} to {effect + half:+.3f})")
    what = f"{given.tl_source}, {given.backbone}, {given.config.name}, mean AUROC {scores.mean():.3f}"
    print(f"{what}, {given.trainings} trainings, {time.monotonic() - started:.0f} s, {limits.cpus()} cores")


if __name__ == "__main__":
    main()
