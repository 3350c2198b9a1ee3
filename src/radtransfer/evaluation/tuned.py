"""What light fine-tuning on a few of the unseen images does for the others.

The networks of every TL source go on training on the few, at a tenth of the run's learning rate for a fixed number of
epochs: there are too few to choose an epoch, a classifier or a threshold by. So each source is scored by the mean of
its networks' heads, before and after, with the calibration and threshold that the run fixed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import Floats
from radtransfer.fusion import FUSED, HEAD
from radtransfer.fusion.predictor import Predictor, of_candidate
from radtransfer.fusion.sources import Source
from radtransfer.preprocess.split import keep_at_most
from radtransfer.preprocess.store import Store
from radtransfer.training.checkpoints import Checkpoints
from radtransfer.training.inference import batches
from radtransfer.training.loop import Recipe, refit
from radtransfer.training.network import Network, load_network
from radtransfer.training.runtime import settle

EPOCHS = 10
RATE = 0.1
"""Of the run's learning rate: what the networks know already shall not be lost on a few images."""
CANDIDATE = f"{FUSED}/{HEAD}"


@dataclass(frozen=True)
class Tuned:
    """Scores of the images that were not trained on.

    Attributes:
        trained: how many images were.
        rest: positions [M] of the others in the store.
        thresholds: by TL source.
        before, after: by TL source, probabilities [M] by its networks as the run left them, and fine-tuned.
    """

    trained: int
    rest: NDArray[np.intp]
    thresholds: dict[str, float]
    before: dict[str, Floats]
    after: dict[str, Floats]


def tune(sources: Mapping[str, Source], images: Store, count: int, seed: int, threads: int) -> Tuned:
    """Fine-tune the networks of all TL sources on some images of a store and score the others.

    Args:
        sources: classifiers and models, by TL source.
        images: the store, of images that none of them has seen.
        count: images to train on at most, whole leakage groups, stratified by class.
        seed: of the choice of images, and of order and augmentation.
        threads: CPU threads.

    Raises:
        RadtransferError: a class would be missing among these images or among the others; memory ran out.
    """
    groups, labels = images.manifest["group_id"], images.manifest["label"]
    drawn = keep_at_most(groups.tolist(), labels.tolist(), count, seed)
    few = replace(images, manifest=images.manifest.assign(split=np.where(groups.isin(drawn), "train", "test")))
    rows, rest = few.rows("train"), few.rows("test")
    for name, part in ((f"the {len(rows)} to fine-tune on", rows), (f"the {len(rest)} others", rest)):
        if len(set(labels.to_numpy()[part].tolist())) < 2:
            raise RadtransferError(
                f"tune_images: {count} of {len(images.images)} images leave a class out of {name}; whole leakage "
                "groups are taken, stratified by class: name another number"
            )
    thresholds, before, after = dict[str, float](), dict[str, Floats](), dict[str, Floats]()
    for name, source in sources.items():
        candidate = next(one for one in source.candidates if one["id"] == CANDIDATE)
        thresholds[name] = float(candidate["threshold"])
        for scores, networks in (
            (before, {backbone: load_network(model.path) for backbone, model in source.models.items()}),
            (after, {backbone: _tuned(name, model, few, seed, threads) for backbone, model in source.models.items()}),
        ):
            scores[name] = _scores(of_candidate(candidate, source.blocks, networks, source.classifiers.path), few, rest)
    return Tuned(len(rows), rest, thresholds, before, after)


def _recipe(model: Artifact, seed: int) -> Recipe:
    """That of a model's own training, but for what makes it light."""
    own = {field.name: model.made["settings"][field.name] for field in fields(Recipe)}
    light = {"epochs": EPOCHS, "learning_rate": own["learning_rate"] * RATE, "freeze_epochs": 0, "patience": 0}
    return Recipe(**(own | light | {"seed": seed}))


def _tuned(source: str, model: Artifact, few: Store, seed: int, threads: int) -> Network:
    settle(threads, seed, tf32=True)
    network = load_network(model.path)
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as unused:
        what = f"external {source} {network.backbone}"
        refit(network, few, _recipe(model, seed), what, Checkpoints(Path(unused)), EPOCHS)
    return network


def _scores(predict: Predictor, images: Store, rest: NDArray[np.intp]) -> Floats:
    scores = np.empty(len(rest))
    for rows, passed in batches(predict.networks, images.images, what="external", of=rest):
        scores[rows] = predict.of_passed(passed)
    return scores
