"""What a bundle says of an image file: the same for a list of predictions and for explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import cv2
import numpy as np

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.fusion.predictor import Predictor, of_bundle
from radtransfer.preprocess.border import TOLERANCE
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import Letterbox, letterbox
from radtransfer.preprocess.pixels import X_RAY, Decoded, Grey, ImageError, Window
from radtransfer.training.inference import Passed

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


class Seen(NamedTuple):
    """An image that the networks may see.

    Attributes:
        pixels: uint8 [height, width], upright.
        stored: uint8 [S, S], as the networks take it.
        frame: where the image lies in that square.
    """

    pixels: Grey
    stored: Grey
    frame: Letterbox


@dataclass(frozen=True)
class Judge:
    """A bundle that was found sound, ready to judge image files.

    Attributes:
        bundle: its description.
        predictor: its networks, classifier, calibration and threshold.
    """

    bundle: Artifact
    predictor: Predictor

    @classmethod
    def of(cls, bundle: Path) -> Self:
        """Of a bundle's folder, every file of which is hashed first.

        Raises:
            RadtransferError: as of :func:`radtransfer.fusion.predictor.of_bundle`.
        """
        predictor = of_bundle(bundle)
        return cls(artifacts.read(bundle, "bundle"), predictor)

    def read(self, path: Path) -> Seen | Prediction:
        """Decode and letterbox a file as the run that made the bundle did; or why no network is to see it."""
        content = self.bundle.content
        try:
            decoded = decode(path, Window.of(content.get("ct_window", ())))
        except ImageError as error:
            if error.problem == "constant":
                return Prediction(path, unfit="blank")
            return Prediction(path, reason=str(error).removeprefix(f"{path}: "))
        unfit = plainly_unfit(decoded, content.get("unfit") or {})
        if unfit:
            return Prediction(path, unfit=unfit)
        crop_border = content.get("crop_border", False)
        return Seen(decoded.pixels, *letterbox(decoded.pixels, int(content["store_size"]), crop_border=crop_border))

    def judge(self, paths: Sequence[Path], passed: Sequence[Passed]) -> list[Prediction]:
        """What the networks say of images that they saw, by what each of them gave for them in this order."""
        limit = (self.bundle.content.get("unfit") or {}).get("limit")
        scores, distances = self.predictor.of_passed(passed), self.predictor.distances(passed)
        found = []
        for place, (path, score) in enumerate(zip(paths, scores.tolist(), strict=True)):
            distance = None if distances is None else float(distances[place])
            if distance is not None and limit is not None and distance > limit:
                unfit = f"unlike the training images (distance {distance:.2f}, limit {limit:.2f})"
                found.append(Prediction(path, score, unfit=unfit, distance=distance))
            else:
                label: Literal["abnormal", "normal"] = "abnormal" if score >= self.predictor.threshold else "normal"
                found.append(Prediction(path, score, label, distance=distance))
        return found


def check_files(images: Sequence[Path]) -> None:
    """See that all image files are there.

    Raises:
        RadtransferError: names the first that is a folder, or is not there.
    """
    absent = [path for path in images if not path.is_file()]
    folders = [path for path in absent if path.is_dir()]
    if folders:
        raise RadtransferError(f"{folders[0]}: is a folder; name the image files in it, e.g. {folders[0] / '*.png'}")
    if absent:
        raise RadtransferError(
            f"{absent[0]}: no such file ({len(absent)} of {len(images)} are missing); check the paths"
        )


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
