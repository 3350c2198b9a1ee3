"""A run's artifacts in miniature: twenty-four images, two tiny random networks, two TL sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from radtransfer import artifacts
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.predictor import Predictor
from radtransfer.fusion.scoring import raw_score, save_classifier
from radtransfer.preprocess.store import write
from radtransfer.training.inference import infer
from radtransfer.training.network import Network

SIZE, WIDTH, HEIGHT = 64, 90, 120  # 90 x 120 px are shown: 48 x 64 px of the stored square, 8 px black on each side
BACKBONES = ("test_resnet", "test_vit")
SOURCES = ("imagenet", "scratch")
OVERALL = {"imagenet": "fused", "scratch": "single"}
CALIBRATION = {"slope": 0.7, "intercept": 0.1}
THRESHOLD = 0.5


class Region(nn.Module):
    """A body of one channel that sees contrast to mid-grey inside a region only; its logit is the mean of it."""

    def __init__(self, rows: slice, columns: slice, gain: float = 1.0) -> None:
        super().__init__()
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., rows, columns] = 1
        self.register_buffer("mask", mask)
        self.classifier = nn.Linear(1, 1)
        nn.init.constant_(self.classifier.weight, gain)
        nn.init.zeros_(self.classifier.bias)
        self.num_features = 1

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(x[:, :1].abs(), 8) * self.mask

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Module:
        return self.classifier


@pytest.fixture
def region_network() -> Callable[..., Network]:
    """Makes a network that sees only some rows and columns of its 8 x 8 feature map."""

    def make(rows: slice, columns: slice, gain: float = 1.0) -> Network:
        network = Network("test_resnet", 64)
        network.body = Region(rows, columns, gain)
        network.feature_dim = 1
        return network.eval()

    return make


def by_heads(*networks: Network, estimator: Any | None = None, on_heads: bool = False) -> Predictor:
    """The predictor whose score is the mean of these networks' logits, or what a classifier makes of them."""
    return Predictor(networks, estimator, Calibration(1.0, 0.0), 0.5, on_heads)


@dataclass(frozen=True)
class MiniRun:
    store: Path
    evaluation: Path
    classifiers: list[Path]
    models: list[Path]
    bundle: Path
    scores: pd.DataFrame
    sources: tuple[str, ...] = SOURCES
    threshold: float = THRESHOLD
    original: tuple[int, int] = (HEIGHT, WIDTH)

    def arguments(self) -> dict[str, object]:
        """What ``explain`` takes of it."""
        return {
            "target_store": self.store,
            "evaluation": self.evaluation,
            "classifiers": self.classifiers,
            "models": self.models,
        }


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory: pytest.TempPathFactory) -> MiniRun:
    root = tmp_path_factory.mktemp("mini")
    torch.set_num_threads(1)
    images, labels = _images()
    ids = [f"part/{n:02d}.png" for n in range(len(images))]
    splits = np.array((["train"] * 3 + ["test"] * 3) * 4)
    store = _store(root / "store", images, labels, ids, splits)

    test = splits == "test"
    scores = pd.DataFrame({"image_id": ids, "group_id": ids, "label": labels})[test].reset_index(drop=True)
    classifiers, models, choices = [], [], {}
    for number, source in enumerate(SOURCES):
        blocks, features = [], []
        for backbone in BACKBONES:
            torch.manual_seed(number)
            network = Network(backbone, SIZE).eval()
            models.append(root / f"model-{source}-{backbone}")
            own, _ = infer(network, images)
            with artifacts.writing(models[-1], "model", step="finetune", settings={}) as (folder, content):
                save_file({key: value.contiguous() for key, value in network.state_dict().items()},
                          folder / "weights.safetensors")  # fmt: skip
                content.update(backbone=backbone, tl_source=source, input_size=SIZE, feature_dim=own.shape[1])
            start = sum(block.shape[1] for block in features)
            digest = artifacts.read(models[-1], "model").digest
            blocks.append({"backbone": backbone, "start": start, "stop": start + own.shape[1], "model_digest": digest})
            features.append(own)
        fused = np.concatenate(features, axis=1)
        classifiers.append(root / f"classifiers-{source}")
        with artifacts.writing(classifiers[-1], "classifiers", step="classify", settings={}) as (folder, content):
            candidates = []
            for name, columns in (("fused", fused), (BACKBONES[0], features[0])):
                pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
                estimator = pipeline.fit(columns[~test], labels[~test])
                row_id = f"{source}/{name}/logistic_regression/seed3"
                scores[row_id] = Calibration(**CALIBRATION)(raw_score(estimator, columns[test]))
                file = f"{name}--logistic_regression.skops"
                save_classifier(estimator, folder / file)
                candidate = {"id": f"{name}/logistic_regression", "features": name, "classifier": "logistic_regression"}
                candidates.append(candidate | {"calibration": CALIBRATION, "threshold": THRESHOLD, "file": file})
            content.update(tl_source=source, seed=3, store_digest=artifacts.read(store, "image-store").digest)
            choice = {name: one["id"] for name, one in zip(("fused", "single"), candidates, strict=True)}
            content.update(blocks=blocks, candidates=candidates, choice=choice | {"overall": choice[OVERALL[source]]})
            choices[source] = {name: f"{source}/{one}/seed3" for name, one in content["choice"].items()}

    selected = choices["imagenet"]["overall"]
    with artifacts.writing(root / "evaluation", "evaluation", step="evaluate", settings={}) as (folder, content):
        scores.to_parquet(folder / "test_scores.parquet")
        artifacts.write_json(folder / "curves.json", {row: {"threshold": THRESHOLD} for row in scores.columns[3:]})
        content.update(selected=selected, choices=choices)
    with artifacts.writing(root / "bundle", "bundle", step="register", settings={}) as (folder, content):
        for model, backbone in zip(models[:2], BACKBONES, strict=True):
            target = folder / "models" / backbone
            target.mkdir(parents=True)
            for file in model.iterdir():
                (target / file.name).write_bytes(file.read_bytes())
        held = artifacts.read(classifiers[0], "classifiers")
        (folder / "classifier.skops").write_bytes((held.path / held.content["candidates"][0]["file"]).read_bytes())
        content.update(features="fused", classifier="logistic_regression", blocks=held.content["blocks"])
        content.update(calibration=CALIBRATION, threshold=THRESHOLD, store_size=SIZE)
    return MiniRun(store, root / "evaluation", classifiers, models, root / "bundle", scores)


def _images() -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Noise inside the letterbox; the abnormal ones have a bright spot at (20..28, 30..38)."""
    rng = np.random.default_rng(11)
    labels = np.tile([0, 1], 12).astype(np.int8)
    images = np.zeros((24, SIZE, SIZE), np.uint8)
    images[:, :, 8:56] = rng.integers(20, 90, (24, SIZE, 48))
    images[labels == 1, 30:38, 20:28] = 240
    return images, labels


def _store(
    path: Path, images: NDArray[np.uint8], labels: NDArray[np.int8], ids: list[str], splits: NDArray[np.str_]
) -> Path:
    with artifacts.writing(path, "image-store", step="preprocess", settings={}) as (folder, content):
        rows = [
            {
                "image_id": ids[n],
                "label": int(labels[n]),
                "label_name": "fractured" if labels[n] else "normal",
                "body_part": "hand",
                "patient_id": None,
                "study_id": None,
                "group_id": ids[n],
                "split": splits[n],
                "boxes": [[20.0, 30.0, 28.0, 38.0]] if labels[n] else [],
                "source_file": ids[n],
                "sha256": f"{n:064x}",
                "flags": [],
                "width": WIDTH + 60,
                "height": HEIGHT + 20,
                "shown": [50, 20, 50 + WIDTH, 20 + HEIGHT],
            }
            for n in range(len(ids))
        ]
        write(folder, rows, images, SIZE, [], len(ids))
        content.update(name="mini", layout="class_folders", role="target", part="hand", images=len(ids), size=SIZE)
        content.update(classes={"0": "normal", "1": "abnormal"}, positive_class="abnormal", synthetic=True)
        content.update(grouping="near_duplicate", files_found=len(ids), rejected=[], notes=[])
        content.update(counts={}, groups={})
    return path
