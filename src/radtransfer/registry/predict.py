"""Scoring image files with a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from radtransfer import artifacts
from radtransfer.registry.judge import Judge, Prediction, check_files
from radtransfer.training.runtime import settle

CHUNK = 64  # images held in memory at once


def predict(*, bundle: Path, images: list[Path], threads: int, explain_dir: Path | None = None) -> Iterator[Prediction]:
    """Score image files (PNG, JPEG, DICOM), one prediction per file in the order given.

    Decoding, letterboxing and inference are those of the run that made the bundle. A file that cannot be decoded yields
    a prediction without score; the others are scored all the same. An image that is unfit for the model gets no label.
    No network sees it if that can be told without one (:func:`~radtransfer.registry.judge.plainly_unfit`), else it is
    the distance of its features that tells (:mod:`radtransfer.fusion.unfit`), and its score stands, for whoever looks
    into it. A bundle made before there were distances tells blank images alone.

    Args:
        bundle: folder of the bundle; every file of it is hashed first.
        images: files to score.
        threads: CPU threads.
        explain_dir: folder for explanations of the files that can be read, see
            :func:`radtransfer.explain.files.explain_files`; None: none are made.

    Raises:
        RadtransferError: a bundle that was tampered with or is not one, an image file that is not there, or, with
            ``explain_dir``, is named twice, or a folder for explanations that is not empty; before the first
            prediction. A backbone that cannot be explained; after the last one.
    """
    check_files(images)
    if explain_dir is not None:
        from radtransfer.explain.files import LIME_SAMPLES, check_distinct, explain_judged

        check_distinct(images)
        artifacts.check_free(explain_dir)
    settle(threads, 0)
    judge = Judge.of(bundle)
    readable: list[Path] = []
    for start in range(0, len(images), CHUNK):
        paths = images[start : start + CHUNK]
        found: list[Prediction | None] = []
        stored = []
        for path in paths:
            one = judge.read(path)
            found.append(one if isinstance(one, Prediction) else None)
            if not isinstance(one, Prediction):
                stored.append(one.stored)
        seen = [path for path, one in zip(paths, found, strict=True) if one is None]
        judged = iter(judge.judge(seen, judge.predictor.passed(np.stack(stored))) if seen else ())
        for told in found:
            prediction = told or next(judged)
            if not prediction.reason:
                readable.append(prediction.image)
            yield prediction
    if explain_dir is not None and readable:
        explain_judged(judge, readable, lime_samples=LIME_SAMPLES, seed=0, threads=threads, out=explain_dir)
