"""Scoring image files with a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.fusion.predictor import of_bundle
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.pixels import Window
from radtransfer.training.runtime import settle

CHUNK = 64  # images held in memory at once


@dataclass(frozen=True)
class Prediction:
    """What the bundle says of one image file.

    Attributes:
        image: the file.
        score: calibrated probability of abnormal; None where the file could not be read.
        label: by the bundle's own threshold; None where the file could not be read.
        reason: why it could not be read, without the file's name; empty otherwise.
    """

    image: Path
    score: float | None
    label: Literal["abnormal", "normal"] | None
    reason: str = ""


def predict(*, bundle: Path, images: list[Path], threads: int, explain_dir: Path | None = None) -> Iterator[Prediction]:
    """Score image files (PNG, JPEG, DICOM), one prediction per file in the order given.

    Decoding, letterboxing and inference are those of the run that made the bundle. A file that cannot be decoded
    yields a prediction without score; the others are scored all the same.

    Args:
        bundle: folder of the bundle; every file of it is hashed first.
        images: files to score.
        threads: CPU threads.
        explain_dir: folder for overlays of the readable images; None: none are made.

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
    readable: list[Path] = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        stored, reasons = [], {}
        for position, path in enumerate(chunk):
            try:
                stored.append(letterbox(decode(path, window).pixels, size, crop_border=crop_border)[0])
            except RadtransferError as error:
                reasons[position] = str(error).removeprefix(f"{path}: ")
        scores = iter(predictor(np.stack(stored)) if stored else ())
        for position, path in enumerate(chunk):
            if position in reasons:
                yield Prediction(path, None, None, reasons[position])
                continue
            readable.append(path)
            score = float(next(scores))
            yield Prediction(path, score, "abnormal" if score >= predictor.threshold else "normal")
    if explain_dir is not None and readable:
        from radtransfer.explain.run import explain_predictions

        explain_predictions(bundle=bundle, images=readable, out=explain_dir, threads=threads)
