"""What a registry records of a bundle and of the pre-trained models behind it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from radtransfer import artifacts, provenance
from radtransfer.artifacts import Artifact
from radtransfer.config import NAME_PATTERN
from radtransfer.datasets.roots import clean
from radtransfer.errors import RadtransferError
from radtransfer.registry import ledger
from radtransfer.registry.versions import BUNDLE, PRETRAINED, Parent, Registry, Version

OF_MODEL = ("tl_source", "features", "classifier", "refit", "calibrated_by", "threshold_rule", "threshold", "row_id")
OF_PRETRAINED = ("init", "task", "boxes", "input_size", "seed", "precision")


def check_name(name: object, where: str) -> str:
    """The name of a model, which becomes a folder of the registry and may come from a bundle made elsewhere.

    Raises:
        RadtransferError: it cannot; ``where`` says where it was met.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise RadtransferError(
            f"{where}: the name {name!r} cannot name a model; expected 1 to 41 lower-case letters, digits and dashes, "
            "the first no dash; register it under such a name"
        )
    return name


def enter(registry: Registry, bundle: Path, pretrained: Sequence[Path]) -> tuple[Version, bool]:
    """Enter a bundle, and before it the pre-trained models of its run, under ``<name>-pretrained``.

    What is there already is not entered again: the same bundle (by its digest) is the version that it was, so that a
    task that is tried again does no harm, and pre-trained models that any version holds are that version's.

    Args:
        registry: where, opened to be written.
        bundle: folder of the bundle; every file is hashed and compared.
        pretrained: pre-trained models of its run, likewise; they may be left out if a version has them.

    Returns:
        The bundle's version, and whether it is new.

    Raises:
        RadtransferError: ``bundle`` is no sound bundle, its name is none, or what it builds on is nowhere.
    """
    artifact = artifacts.read(bundle, "bundle", verify=True)
    content = artifact.content
    name = check_name(content.get("name"), str(bundle))
    models = [artifacts.read(path, "model", verify=True) for path in pretrained]
    held = [enter_pretrained(registry, f"{name}-{PRETRAINED}", models, content.get("data", {}))] if models else []
    needed = {each["backbone"]: each["digest"] for each in content.get("parents", [])}
    parents = []
    if needed:
        parent = next((each for each in held if needed.items() <= each.models.items()), None) or _holding(
            registry, needed
        )
        if parent is None:
            raise RadtransferError(
                f"{bundle}: builds on pre-trained models of {', '.join(needed)}, which {registry.place.name} does not "
                "have; hand them over too, the folders in `pretrained` of its run"
            )
        parents = [Parent(name=parent.name, number=parent.number, models=needed)]
    about = _about(content.get("code_versions", [artifact.made["version"]])) | {
        "digest": artifact.digest,
        "data": content.get("data", {}),
        "configuration": content.get("configuration", {}),
        "model": {key: content[key] for key in OF_MODEL if key in content},
        "models": {each["backbone"]: each["model_digest"] for each in content.get("blocks", [])},
        "metrics": content.get("metrics", {}),
        "parents": parents,
    }
    same = artifact.digest
    paths = _files(bundle)
    return registry.enter(paths, name=name, kind=BUNDLE, about=about, same=lambda version: version.digest == same)


def enter_pretrained(registry: Registry, name: str, models: Sequence[Artifact], data: dict[str, Any]) -> Version:
    """The version that holds these pre-trained models; entered under this name if there is none.

    Args:
        registry: where, opened to be written.
        name: of the model.
        models: one a backbone, verified.
        data: of their run, as the bundle says it.

    Raises:
        RadtransferError: two are of one backbone, or one was not pre-trained.
    """
    held = {str(model.content["backbone"]): model.digest for model in models}
    odd = [model for model in models if model.content.get("stage") != "pretrain"]
    if odd or len(held) < len(models):
        fault = (odd or [models[-1]])[0]
        raise RadtransferError(
            f"{fault.path}: expected pre-trained models, one a backbone; found stage {fault.content.get('stage')!r} of "
            f"{fault.content.get('backbone')!r} among {len(models)}; hand over the folders in `pretrained` of one run"
        )
    known = _holding(registry, held)
    if known is not None:
        return known
    sources = sorted({model.made["inputs"].get("source_store", "") for model in models})
    about = _about(sorted({model.made["version"] for model in models})) | {
        "digest": hashlib.sha256(json.dumps(sorted(held.items())).encode()).hexdigest(),
        "data": {key: data[key] for key in ("origin",) if key in data} | {"source_stores": sources},
        "configuration": {model.content["backbone"]: model.made["settings"] for model in models},
        "model": {key: models[0].content[key] for key in OF_PRETRAINED if key in models[0].content},
        "models": held,
        "metrics": {
            model.content["backbone"]: {"validation_auroc": model.content.get("validation_auroc")} for model in models
        },
        "parents": [],
    }
    paths = {
        f"{clean(backbone, str(model.path))}/{file}": path
        for backbone, model in zip(held, models, strict=True)
        for file, path in _files(model.path).items()
    }
    return registry.enter(paths, name=name, kind=PRETRAINED, about=about, same=lambda version: _has(version, held))[0]


def _holding(registry: Registry, models: dict[str, str]) -> Version | None:
    """A version of any name that holds these pre-trained models, the newest first."""
    for name in registry.names():
        if not name.endswith(f"-{PRETRAINED}"):
            continue
        found = [version for version in registry.versions(name) if version.kind == PRETRAINED and _has(version, models)]
        if found:
            removed = ledger.read(registry.place, name)[0].removed
            left = [version for version in found if version.number not in removed]
            if left:
                return left[-1]
    return None


def _files(folder: Path) -> dict[str, Path]:
    """The files of an artifact by their names; links and the like were refused when it was read."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _has(version: Version, models: dict[str, str]) -> bool:
    return models.items() <= version.models.items()


def _about(code: list[str]) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"entered": now, "by": provenance.who(), "code": code, "image": provenance.image()}
