"""As much of bundles and pre-trained models as a registry looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from radtransfer import artifacts
from radtransfer.preprocess.inherit import FILE
from radtransfer.registry.entry import enter
from radtransfer.registry.versions import Registry, Version


def tiny_bundle(path: Path, mark: str = "", parents: Sequence[Path] = (), splits: str = "", **content: object) -> Path:
    """A bundle named ``tiny``; equal marks, parents and content make equal bundles."""
    before = [artifacts.read(parent, "model") for parent in parents]
    about: dict[str, object] = {
        "name": "tiny",
        "tl_source": "in_domain" if parents else "imagenet",
        "threshold": 0.25,
        "configuration": {"seed": 3},
        "data": {"part": "hand", "counts": {"test": {"normal": 7, "fractured": 2}}, "origin": {"revision": "r1"}},
        "parents": [{"backbone": one.content["backbone"], "digest": one.digest} for one in before],
        "code_versions": ["0.1.0+made"],
        "metrics": {"auroc": {"value": 0.8125, "low": 0.7, "high": 0.9}},
    }
    with artifacts.writing(path, "bundle", step="register", settings={}) as (folder, said):
        (folder / "MODEL_CARD.md").write_text(f"# tiny {mark}\n")
        if splits:
            (folder / FILE).write_text(splits)
        (folder / "models").mkdir()
        (folder / "models" / "weights").write_bytes(bytes(range(200)))
        said.update(about | content)
    return path


def tiny_pretrained(path: Path, backbone: str, mark: str = "", **content: object) -> Path:
    with artifacts.writing(path, "model", step="pretrain", settings={"epochs": 2}) as (folder, said):
        (folder / "seen.txt").write_text(f"{mark}\n")
        said.update({"backbone": backbone, "stage": "pretrain", "init": "scratch", "validation_auroc": 0.75} | content)
    return path


def entered(registry: Registry, folder: Path, *marks: str) -> list[Version]:
    """Bundles of these marks, entered one after the other."""
    made = [tiny_bundle(folder / f"bundle-{mark}", mark) for mark in marks]
    return [enter(registry, bundle, [])[0] for bundle in made]
