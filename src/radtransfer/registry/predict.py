"""Scoring image files with a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.fusion.predictor import Predictor, of_bundle
from radtransfer.preprocess.border import TOLERANCE
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.pixels import X_RAY, Decoded, ImageError, Window
from radtransfer.training.runtime import settle

CHUNK = 64  # images held in memory at once

SHOWN = 0.01
"""Share of an image's pixels that must be more than :data:`~radtransfer.preprocess.border.TOLERANCE` grey levels off
the median, or it is blank; among every second image of FracAtlas the least is .105."""

COLOURED_PIXELS = 0.05
"""Share of clearly coloured pixels above which an image is no radiograph; letters and arrows have less."""


@dataclass(frozen=True)
class Prediction:
    """What the bundle says of one image file.

    Attributes:
        image: the file.
        score: calibrated probability of abnormal; None where no network saw the image.
        label: by the bundle's own threshold; None where the file could not be read or the image is unfit.
        reason: why it could not be read, without the file's name; empty otherwise.
        unfit: why the model must not judge it: ``blank``, ``colour``, ``modality ...`` or ``unlike the training
            images (...)``; empty otherwise.
        distance: from the training images, 1: as far as the median one; None where it was not asked.
    """

    image: Path
    score: float | None = None
    label: Literal["abnormal", "normal"] | None = None
    reason: str = ""
    unfit: str = ""
    distance: float | None = None


def predict(*, bundle: Path, images: list[Path], threads: int, explain_dir: Path | None = None) -> Iterator[Prediction]:
    """Score image files (PNG, JPEG, DICOM), one prediction per file in the order given.

    Decoding, letterboxing and inference are those of the run that made the bundle. A file that cannot be decoded yields
    a prediction without score; the others are scored all the same. An image that is unfit for the model gets no label.
    No network sees it if that can be told without one (:func:`plainly_unfit`), else it is the distance of its features
    that tells (:mod:`radtransfer.fusion.unfit`), and its score stands, for whoever looks into it. A bundle made before
    there were distances tells blank images alone.

    Args:
        bundle: folder of the bundle; every file of it is hashed first.
        images: files to score.
        threads: CPU threads.
        explain_dir: folder for overlays of the images that get a label; None: none are made.

    Raises:
        RadtransferError: a bundle that was tampered with or is not one, an image file that is not there, or a folder
            for overlays that is not empty; before the first prediction.
    """
    absent = [path for path in images if not path.is_file()]
    folders = [path for path in absent if path.is_dir()]
    if folders:
        raise RadtransferError(f"{folders[0]}: is a folder; name the image files in it, e.g. {folders[0] / '*.png'}")
    if absent:
        raise RadtransferError(
            f"{absent[0]}: no such file ({len(absent)} of {len(images)} are missing); check the paths"
        )
    if explain_dir is not None:
        artifacts.check_free(explain_dir)
    settle(threads, 0)
    predictor = of_bundle(bundle)
    content = artifacts.read(bundle, "bundle").content
    size, window = int(content["store_size"]), Window.of(content.get("ct_window", ()))
    crop_border = content.get("crop_border", False)
    unfit = content.get("unfit") or {}
    fit: list[Path] = []
    for start in range(0, len(images), CHUNK):
        found: list[Prediction | None] = []
        stored = []
        for path in images[start : start + CHUNK]:
            try:
                decoded = decode(path, window)
            except ImageError as error:
                blank, reason = error.problem == "constant", str(error).removeprefix(f"{path}: ")
                found.append(Prediction(path, unfit="blank") if blank else Prediction(path, reason=reason))
                continue
            reason = plainly_unfit(decoded, unfit)
            found.append(Prediction(path, unfit=reason) if reason else None)
            if not reason:
                stored.append(letterbox(decoded.pixels, size, crop_border=crop_border)[0])
        judged = iter(_judged(predictor, np.stack(stored), unfit.get("limit")) if stored else ())
        for path, one in zip(images[start : start + CHUNK], found, strict=True):
            prediction = one or replace(next(judged), image=path)
            if prediction.label is not None:
                fit.append(path)
            yield prediction
    if explain_dir is not None and fit:
        from radtransfer.explain.run import explain_predictions

        explain_predictions(bundle=bundle, images=fit, out=explain_dir, threads=threads)


def plainly_unfit(decoded: Decoded, unfit: Mapping[str, Any]) -> str:
    """Why an image is none of the kind that the model was trained on, as far as that is seen without a network.

    Args:
        decoded: the image.
        unfit: the bundle's entry of that name; empty: of an older bundle, which does not say what it was trained on.

    Returns:
        ``blank``: fewer than :data:`SHOWN` of the pixels are unlike the rest; ``colour``: more than
        :data:`COLOURED_PIXELS` of them are clearly coloured, which those of the training images are not;
        ``modality ...``: the DICOM header says CT where X-rays were learnt, ultrasound, and so on, and none of the
        run's own images did. Empty: nothing speaks against it.
    """
    levels = cv2.calcHist([decoded.pixels], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    median = int(np.searchsorted(levels.cumsum(), levels.sum() / 2))
    if levels[max(0, median - TOLERANCE) : median + TOLERANCE + 1].sum() > (1 - SHOWN) * levels.sum():
        return "blank"
    if not unfit:
        return ""
    if decoded.coloured > COLOURED_PIXELS and not unfit["coloured"]:
        return "colour"
    learnt = (X_RAY if unfit["modality"] == "X-ray" else {unfit["modality"]}).union(unfit["dicom_modalities"])
    if decoded.modality and decoded.modality not in learnt:
        return f"modality {decoded.modality}, the training images are {unfit['modality']}"
    return ""


def _judged(predictor: Predictor, images: NDArray[np.uint8], limit: float | None) -> Iterator[Prediction]:
    """What the networks say of stored images [N, S, S]; the predictions lack their files."""
    passed = predictor.passed(images)
    scores = predictor.of_passed(passed)
    distances = predictor.distances(passed)
    for place, score in enumerate(scores.tolist()):
        distance = None if distances is None else float(distances[place])
        if distance is not None and limit is not None and distance > limit:
            unfit = f"unlike the training images (distance {distance:.2f}, limit {limit:.2f})"
            yield Prediction(Path(), score, unfit=unfit, distance=distance)
        else:
            yield Prediction(Path(), score, "abnormal" if score >= predictor.threshold else "normal", distance=distance)
