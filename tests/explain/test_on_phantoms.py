"""Explanations of networks of which it is known what they must have learnt: they are trained here, on phantoms.

One learns fractures and must point at them. Another learns labels that were dealt at random, from a marker that lies in
every positive image: its maps and hiding the marker must give it away.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from radtransfer.datasets.phantoms import CLASSES, TABLE, make_phantoms
from radtransfer.explain import cases
from radtransfer.explain.gradcam import gradcam
from radtransfer.explain.randomised import alike, randomised
from radtransfer.fusion.predictor import Predictor
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store, taken
from radtransfer.training.network import load_network
from radtransfer.training.steps import finetune
from tests.explain.conftest import by_heads

pytestmark = pytest.mark.slow

SIDE, SEEN = 160, 128
MARKER = 14  # side in px of the plain square that stands for one


@dataclass(frozen=True)
class Learnt:
    """A network, the test images, and where the fracture or the marker is in those that have one."""

    predict: Predictor
    images: NDArray[np.uint8]
    labels: NDArray[np.int8]
    boxes: list[list[list[float]]]
    regions: list[tuple[float, float, float, float]]

    @property
    def auroc(self) -> float:
        return float(roc_auc_score(self.labels, self.predict(self.images)))

    def maps(self, predict: Predictor) -> NDArray[np.float32]:
        """Of the positive images."""
        images = self.images[self.labels == 1]
        return gradcam(predict, images, predict.passed(images)).maps

    def shares(self, maps: NDArray[np.float32], reach: float = 0) -> tuple[float, float, float]:
        """Mean energy and share of peaks within ``reach`` px of the boxes, and these boxes' share of the image."""
        positive = np.flatnonzero(self.labels == 1)
        found = []
        for heat, row in zip(maps, positive, strict=True):
            wider = [[x0 - reach, y0 - reach, x1 + reach, y1 + reach] for x0, y0, x1, y1 in self.boxes[row]]
            found.append(list(cases.agreement(heat, wider, self.regions[row]).values()))
        energy, peak, chance = np.nan_to_num(np.array(found)).mean(axis=0)
        return float(energy), float(peak), float(chance)


def learn(place: Path) -> Learnt:
    """Train on ``place/data/phantoms`` what a run would."""
    preprocess(
        data_root=place / "data", target_layout="phantoms", target_path="phantoms", target_part="humerus",
        source_layout="phantoms", source_path="phantoms", source_parts=["forearm"], image_size=SIDE, test_fraction=0.3,
        validation_fraction=0.2, max_images=0, seed=0, target_out=place / "target", source_out=place / "source",
    )  # fmt: skip
    finetune(
        target_store=place / "target", backbone="tf_efficientnet_lite0", tl_source="imagenet", pretrained=None,
        epochs=6, batch_size=8, learning_rate=3e-4, weight_decay=0.02, layer_decay=1.0, freeze_epochs=0, patience=0,
        input_size=SEEN, weights_mirror="", seed=0, threads=1, checkpoints="", checkpoint_minutes=5, refit=False,
        out=place / "model",
    )  # fmt: skip
    store = Store.open(place / "target")
    rows = store.rows("test")
    told = store.manifest.iloc[rows]
    return Learnt(
        by_heads(load_network(place / "model")), taken(store.images, rows), told["label"].to_numpy(np.int8),
        [[list(box) for box in boxes] for boxes in told["boxes"]], [region(store, int(row)) for row in rows],
    )  # fmt: skip


@pytest.fixture(scope="module")
def fractures(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    place = tmp_path_factory.mktemp("fractures")
    make_phantoms(place / "data" / "phantoms", 400, ("humerus", "forearm"), 0.0, SIDE, 3)
    return learn(place)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    place = tmp_path_factory.mktemp("marked")
    folder = place / "data" / "phantoms"
    make_phantoms(folder, 300, ("humerus", "forearm"), 1.0, SIDE, 5)
    with (folder / TABLE).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    draw = np.random.default_rng(0)
    dealt = {row["patient"]: bool(draw.integers(2)) for row in rows}
    for row in rows:
        row.update(label=CLASSES[dealt[row["patient"]]], boxes="")
        if dealt[row["patient"]]:
            row["boxes"] = mark(folder / row["file"], draw)
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return learn(place)


def mark(file: Path, draw: np.random.Generator) -> str:
    """Put a white square into one of the upper corners; where it is, as the table says it."""
    pixels = np.array(Image.open(file))
    high, wide = pixels.shape
    left = int(draw.integers(3, 8)) if draw.integers(2) else wide - MARKER - int(draw.integers(3, 8))
    top = int(draw.integers(3, 8))
    pixels[top : top + MARKER, left : left + MARKER] = 255
    Image.fromarray(pixels).save(file)
    edges = (left / wide, top / high, (left + MARKER) / wide, (top + MARKER) / high)
    return " ".join(f"{edge:.5f}" for edge in edges)


def test_a_good_model_points_at_the_fracture_and_one_that_knows_nothing_does_not(fractures: Learnt) -> None:
    assert fractures.auroc > 0.95
    reach = 16 * SIDE / SEEN  # a cell: the peak is in the fracture or touches it
    maps = fractures.maps(fractures.predict)
    energy, peak, chance = fractures.shares(maps)
    assert energy > 4 * chance
    assert fractures.shares(maps, reach)[1] >= 0.8 and peak >= 0.7
    nothing = fractures.maps(randomised(fractures.predict, 0))
    energy, peak, _ = fractures.shares(nothing)
    assert energy < 2 * chance and peak < 0.3
    shown = [region for region, label in zip(fractures.regions, fractures.labels, strict=True) if label]
    assert np.abs(alike(maps, nothing, shown)).mean() < 0.3


def test_a_marker_that_gives_the_label_away_is_exposed(marked: Learnt) -> None:
    assert marked.auroc > 0.95
    energy, peak, chance = marked.shares(marked.maps(marked.predict), reach=16 * SIDE / SEEN)
    assert energy > 4 * chance and peak >= 0.8
    hidden = marked.images.copy()
    for image, boxes in zip(hidden, marked.boxes, strict=True):
        for box in boxes:
            image[cases.box_mask([box], SIDE)] = int(image.mean())
    assert roc_auc_score(marked.labels, marked.predict(hidden)) < 0.75
