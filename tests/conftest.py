"""A whole run in miniature, made by the library's own steps: tiny networks on small synthetic radiographs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import settings
from safetensors.torch import save_file

from radtransfer.cache import VARIABLE
from radtransfer.config import TL_SOURCES
from tests.weed import KEYS, Weed

settings.register_profile("any machine", deadline=None)  # a deadline tests what else the machine does
settings.load_profile("any machine")

TINY = ("test_resnet", "test_efficientnet")
SEED = 0


@dataclass
class Chain:
    """Folders of the artifacts that the steps made, in the order of the run."""

    data_root: Path
    target_store: Path
    source_store: Path
    pretrained: list[Path] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    features: dict[str, Path] = field(default_factory=dict)
    fused: dict[str, Path] = field(default_factory=dict)
    classifiers: list[Path] = field(default_factory=list)
    stress: Path = Path()
    evaluation: Path = Path()
    bundle: Path = Path()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own stays as it is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weed]:
    """An S3 server, to which the environment leads."""
    server = Weed(tmp_path_factory.mktemp("weed"))
    for key, value in (KEYS | {"AWS_ENDPOINT_URL_S3": server.url}).items():
        monkeypatch.setenv(key, value)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """All steps from preprocess to register, as a user of the library would call them."""
    from radtransfer.datasets.phantoms import make_phantoms
    from radtransfer.evaluation.evaluate import evaluate
    from radtransfer.fusion.classify import classify
    from radtransfer.fusion.extract import extract
    from radtransfer.fusion.fuse import fuse
    from radtransfer.preprocess.run import preprocess
    from radtransfer.registry.bundle import register
    from radtransfer.robustness.stress import stress
    from radtransfer.training.steps import finetune, pretrain

    root = tmp_path_factory.mktemp("chain")
    run = Chain(root / "data", root / "target", root / "source")
    make_phantoms(
        run.data_root / "phantoms", images_per_part=60, parts=["hand", "knee"], difficulty=0.2, size=80, seed=1
    )
    where = {"layout": "phantoms", "path": "phantoms"}
    preprocess(
        data_root=run.data_root,
        **{f"target_{key}": value for key, value in where.items()},
        **{f"source_{key}": value for key, value in where.items()},
        target_part="hand",
        source_parts=[],
        image_size=64,
        crop_border=True,
        test_fraction=0.3,
        validation_fraction=0.3,
        max_images=0,
        seed=SEED,
        target_out=run.target_store,
        source_out=run.source_store,
    )
    recipe: dict[str, Any] = {
        "epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.01, "input_size": 64, "layer_decay": 1.0,
        "freeze_epochs": 0, "patience": 0,
        "weights_mirror": str(mirror(root / "mirror")), "seed": SEED, "threads": 1,
        "checkpoints": "", "checkpoint_minutes": 5,
    }  # fmt: skip
    for backbone in TINY:
        run.pretrained.append(root / f"pretrained-{backbone}")
        pretrain(source_store=run.source_store, backbone=backbone, init="scratch", out=run.pretrained[-1], **recipe)
    for tl_source in TL_SOURCES:
        for backbone, pretrained in zip(TINY, run.pretrained, strict=True):
            run.models.append(root / f"{tl_source}-{backbone}")
            finetune(
                target_store=run.target_store,
                backbone=backbone,
                tl_source=tl_source,
                pretrained=pretrained if tl_source == "in_domain" else None,
                refit=True,
                out=run.models[-1],
                **recipe,
            )
        run.features[tl_source] = root / f"features-{tl_source}"
        extract(store=run.target_store, models=run.models[-len(TINY) :], threads=1, out=run.features[tl_source])
        run.fused[tl_source] = root / f"fused-{tl_source}"
        fuse(features=run.features[tl_source], out=run.fused[tl_source])
        run.classifiers.append(root / f"classifiers-{tl_source}")
        classify(fused=run.fused[tl_source], cv_folds=2, seed=SEED, out=run.classifiers[-1])
    run.evaluation, run.bundle = root / "evaluation", root / "bundle"
    run.stress = root / "stress"
    fitted = {"target_store": run.target_store, "classifiers": run.classifiers}
    stress(**fitted, models=run.models, corruptions=["blur", "occlusion"], seed=SEED, threads=1, out=run.stress)
    evaluate(**fitted, stress=run.stress, bootstrap=100, seed=SEED, out=run.evaluation)
    register(
        name="tiny",
        target_store=run.target_store,
        evaluation=run.evaluation,
        classifiers=run.classifiers,
        models=run.models,
        pretrained=run.pretrained,
        config={"name": "tiny", "backbones": list(TINY), "seed": SEED},
        registry="",
        out=run.bundle,
    )
    return run


def mirror(folder: Path) -> Path:
    """Random weights that stand in for ImageNet's: these tests are about the steps, not about the weights."""
    folder.mkdir()
    lines = []
    for name in TINY:
        torch.manual_seed(7)
        save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.safetensors")
        digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}.safetensors\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A real headless browser; the test is skipped where there is none."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        pytest.skip("no Chromium: name one by CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield browser
        browser.close()
