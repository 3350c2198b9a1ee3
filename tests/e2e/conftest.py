"""A small data set and configuration with which the whole road takes a minute or two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]
SIDE = 64


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    options = ["--images-per-part", "110", "--parts", "hand", "--parts", "forearm", "--size", str(SIDE)]
    subprocess.run([*CLI, "datasets", "phantoms", "--out", str(root / "phantoms"), *options], check=True, timeout=120)
    (root / "phantoms" / "hand" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    return root


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    settings = {
        "name": "tiny",
        "target_layout": "phantoms",
        "target_path": "phantoms",
        "target_part": "hand",
        "source_layout": "phantoms",
        "source_path": "phantoms",
        "image_size": SIDE,
        "input_size": SIDE,
        "backbones": ["tf_efficientnet_lite1", "tf_efficientnet_lite0"],
        "pretrain_epochs": 1,
        "finetune_epochs": 1,
        "cv_folds": 2,
        "cv_repeats": 1,
        "bootstrap": 100,
        "corruptions": ["blur"],
        "explain_images": 1,
        "lime_samples": 16,
        "quality_images": 2,
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
