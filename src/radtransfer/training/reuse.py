"""Models that an earlier run pre-trained, taken up in place of pre-training."""

from __future__ import annotations

import shutil
from pathlib import Path

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store

SEEN = "seen.txt"
"""In a pre-trained model: the sha256 of each image file it was trained or validated on, one a line."""
BEFORE = {"task": "abnormality", "boxes": False}
"""What models were pre-trained for before there was a choice, which they do not say."""


def find(folder: Path, backbone: str, init: str, task: str, *, boxes: bool) -> Artifact:
    """The pre-trained model of a backbone, with every file verified.

    Args:
        folder: ``pretrained/`` of an earlier run, or a version of them: one model a backbone, in a folder of its name.
        backbone: name of the timm model.
        init: what its pre-training must have started from.
        task, boxes: what it must have learnt.

    Raises:
        RadtransferError: not there, damaged, or of another stage, backbone, start or task.
    """
    model = artifacts.read(folder / backbone, "model", verify=True)
    asked = {"stage": "pretrain", "backbone": backbone, "init": init, "task": task, "boxes": boxes}
    said = BEFORE | model.content
    for key, wanted in asked.items():
        if said.get(key) != wanted:
            raise RadtransferError(
                f"pretrained_models: {model.path} has {key} {said.get(key)!r}, this run needs {wanted!r}; "
                "name those of a run that fits"
            )
    if not (model.path / SEEN).is_file():
        raise RadtransferError(
            f"pretrained_models: {model.path} does not list the images it has seen ({SEEN}), so nothing shows that "
            "none of them is a test image here; pre-train anew"
        )
    return model


def take_up(model: Artifact, source: Store, out: Path) -> None:
    """Copy a pre-trained model as it is, digest and provenance included.

    Every image it has seen must be one of this run's source images: of those, and of those only, preprocessing has made
    sure that none shares a leakage group with a target image.

    Args:
        model: from :func:`find`.
        source: this run's store of related images.
        out: folder to write.

    Raises:
        RadtransferError: the model has seen other images, or ``out`` is taken.
    """
    seen = set((model.path / SEEN).read_text(encoding="ascii").split())
    strange = seen - set(source.manifest["sha256"])
    if strange:
        raise RadtransferError(
            f"pretrained_models: {len(strange)} of the {len(seen)} images that {model.path} has seen are not among "
            f"this run's source images (sha256 {min(strange)[:12]}...), and may share a patient with its test images; "
            "name the source it was trained on (source_path, source_parts), or pre-train anew"
        )
    with artifacts.staged(out) as staging:
        shutil.copytree(model.path, staging, dirs_exist_ok=True)
        artifacts.read(staging, "model", verify=True)
