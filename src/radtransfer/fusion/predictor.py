"""The complete predictor: stored images in, calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import MAX_SIDE
from radtransfer.errors import RadtransferError
from radtransfer.fusion import FUSED, HEAD, STACKING
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.scoring import load_classifier, raw_score
from radtransfer.fusion.sources import Source
from radtransfer.fusion.unfit import UNFIT, Detector
from radtransfer.training.inference import Passed, infer
from radtransfer.training.network import Network, check_backbones, load_network

MAX_STEPS = 100_000
"""Steps of an isotonic calibration that are read from a bundle."""


@dataclass(frozen=True)
class Predictor:
    """Backbones, fusion, classifier and calibration of one candidate, as one function of stored images.

    Attributes:
        networks: the backbones whose features it reads, in the order of the fused columns.
        estimator: the fitted classifier; None: the mean of the networks' own heads decides.
        calibration: from its raw score to a probability.
        threshold: p at or above it is called positive.
        on_heads: the classifier reads the outputs of the networks' heads, not their features.
        detector: tells images that are unlike the training images; None: none is asked, or the bundle is older.
    """

    networks: tuple[Network, ...]
    estimator: Any | None
    calibration: Calibration
    threshold: float
    on_heads: bool = False
    detector: Detector | None = None

    def __call__(self, images: NDArray[np.uint8], what: str = "predict") -> NDArray[np.float64]:
        """Calibrated probability of the positive class, float64 [N], for uint8 [N, S, S]."""
        return self.of_passed(self.passed(images, what))

    def passed(self, images: NDArray[np.uint8], what: str = "predict") -> list[Passed]:
        """What each of :attr:`networks` gives for uint8 [N, S, S]: features [N, D] and logits [N]."""
        return [infer(network, images, what=f"{what} {network.backbone}") for network in self.networks]

    def of_passed(self, passed: Sequence[Passed]) -> NDArray[np.float64]:
        """The same of what each of :attr:`networks` gave for the images, features [N, D] and logits [N]."""
        if self.estimator is None:
            raw = np.mean([logits.astype(np.float64) for _, logits in passed], axis=0)
        elif self.on_heads:
            raw = raw_score(self.estimator, np.column_stack([logits for _, logits in passed]))
        else:
            raw = raw_score(self.estimator, np.concatenate([features for features, _ in passed], axis=1))
        return self.calibration(raw)

    def distances(self, passed: Sequence[Passed]) -> NDArray[np.float64] | None:
        """How far each image [N] lies from the training images; see :class:`radtransfer.fusion.unfit.Detector`."""
        if self.detector is None:
            return None
        return self.detector.distance([features for features, _ in passed])


def of_candidate(
    candidate: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], networks: Mapping[str, Network], folder: Path
) -> Predictor:
    """The predictor of one candidate of a classifiers artifact.

    Args:
        candidate: its entry in ``classifiers.json``.
        blocks: the columns of the fused features.
        networks: the trained networks of its TL source by backbone.
        folder: where the candidate's file lies.

    Raises:
        RadtransferError: a network is missing, or the candidate's file cannot be read.
    """
    estimator = None if candidate["classifier"] == HEAD else load_classifier(folder / str(candidate["file"]))
    return _build(candidate, blocks, networks, estimator)


def of_source(source: Source, row_id: str) -> Predictor:
    """The predictor of the candidate of a TL source that is behind a row of ``metrics.json``.

    Raises:
        RadtransferError: there is none, or it cannot be read.
    """
    networks = {backbone: load_network(model.path) for backbone, model in source.models.items()}
    return of_candidate(source.candidate(row_id), source.blocks, networks, source.classifiers.path)


@dataclass(frozen=True)
class Choices:
    """What every TL source chose, scoring the same images; no network passes an image twice.

    Attributes:
        predictors: by TL source and candidate.
    """

    predictors: Mapping[tuple[str, str], Predictor]

    @classmethod
    def of(cls, given: Mapping[str, Source]) -> Choices:
        """Those of sources that were checked to belong together.

        Raises:
            RadtransferError: as of :func:`of_candidate`.
        """
        found = {}
        for source in given.values():
            networks = {backbone: load_network(model.path) for backbone, model in source.models.items()}
            for candidate in source.candidates:
                if candidate["id"] in source.classifiers.content["choice"].values():
                    predict = of_candidate(candidate, source.blocks, networks, source.classifiers.path)
                    found[source.name, str(candidate["id"])] = predict
        return cls(found)

    @cached_property
    def networks(self) -> list[Network]:
        """All that they read, each once."""
        return list(dict.fromkeys(network for one in self.predictors.values() for network in one.networks))

    def scores(self, passed: Sequence[Passed]) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Calibrated probabilities [N] of each, by what each of :attr:`networks` gave for the images."""
        by_network = dict(zip(self.networks, passed, strict=True))
        return {
            name: predict.of_passed([by_network[network] for network in predict.networks])
            for name, predict in self.predictors.items()
        }


def of_bundle(bundle: Path) -> Predictor:
    """The predictor of a bundle, every file of which is hashed and compared first.

    Raises:
        RadtransferError: not a bundle, tampered with, incomplete, or naming what this version does not know.
    """
    content = _verified(bundle).content
    wanted = _backbones(content["features"], content["blocks"])
    networks = {backbone: load_network(bundle / "models" / backbone) for backbone in wanted}
    estimator = None if content["classifier"] == HEAD else load_classifier(bundle / "classifier.skops")
    found = _build(content, content["blocks"], networks, estimator)
    if not content.get("unfit"):
        return found
    detector = Detector.load(bundle / UNFIT)
    width = sum(network.feature_dim for network in found.networks)
    if len(detector.mean) != width:
        raise RadtransferError(
            f"{bundle / UNFIT}: is for {len(detector.mean)} columns, the networks give {width}; make the bundle again"
        )
    return replace(found, detector=detector)


class _Block(BaseModel):
    model_config = ConfigDict(strict=True)
    backbone: str = Field(pattern=r"^\w[\w.-]*$")  # it names a folder too, and timm takes anything behind a dot
    start: int
    model_digest: str


class _Calibration(BaseModel):
    model_config = ConfigDict(strict=True)
    slope: FiniteFloat
    intercept: FiniteFloat
    steps: list[list[Annotated[float, Field(ge=0, le=1)]]] = Field(default=[], max_length=MAX_STEPS)

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: list[list[float]]) -> list[list[float]]:
        if (
            any(len(step) != 2 for step in steps)
            or steps != sorted(steps)
            or any(later[1] < step[1] for step, later in pairwise(steps))
        ):
            raise ValueError("expected pairs that rise")
        return steps


class _Unfit(BaseModel):
    model_config = ConfigDict(strict=True)
    limit: FiniteFloat = Field(ge=1)
    modality: Literal["X-ray", "CT"]
    dicom_modalities: list[Annotated[str, Field(pattern=r"^[A-Z]{2,3}$")]]
    coloured: bool


class _Content(BaseModel):
    """What prediction reads of a bundle's description."""

    model_config = ConfigDict(strict=True)
    features: str
    classifier: str
    blocks: list[_Block] = Field(min_length=1)
    calibration: _Calibration
    threshold: FiniteFloat
    store_size: int = Field(ge=1, le=MAX_SIDE)
    ct_window: list[FiniteFloat] = []
    crop_border: bool = False
    unfit: _Unfit | None = None


def _verified(bundle: Path) -> Artifact:
    """A bundle from elsewhere: every file is hashed, every value that is used is checked first."""
    artifact = artifacts.read(bundle, "bundle", verify=True)
    try:
        content = _Content.model_validate(artifact.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RadtransferError(f"{bundle}: bundle.json: {where}: {first['msg']}; make the bundle again") from None
    digests = {block.backbone: block.model_digest for block in content.blocks}
    if content.features not in (FUSED, *digests):
        raise RadtransferError(f"{bundle}: bundle.json: features {content.features!r} are of none of its models")
    check_backbones(list(digests))
    for backbone in _backbones(content.features, artifact.content["blocks"]):
        model = artifacts.read(bundle / "models" / backbone, "model")
        if model.digest != digests[backbone]:
            raise RadtransferError(f"{model.path}: not the model that the bundle was made with; make the bundle again")
    return artifact


def _build(
    about: Mapping[str, Any],
    blocks: Sequence[Mapping[str, Any]],
    networks: Mapping[str, Network],
    estimator: Any | None,
) -> Predictor:
    """The predictor that a candidate or a bundle describes."""
    wanted = _backbones(about["features"], blocks)
    missing = [backbone for backbone in wanted if backbone not in networks]
    if missing:
        raise RadtransferError(
            f"predictor of {about['features']!r}: the trained model of {missing[0]} is missing; hand it over"
        )
    return Predictor(
        networks=tuple(networks[backbone] for backbone in wanted),
        estimator=estimator,
        calibration=Calibration.of(about["calibration"]),
        threshold=float(about["threshold"]),
        on_heads=about["classifier"] == STACKING,
    )


def _backbones(features: str, blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The backbones behind ``features`` in the order of the fused columns."""
    if features != FUSED:
        return [features]
    return [block["backbone"] for block in sorted(blocks, key=lambda block: int(block["start"]))]
