"""The bundle: all that is needed to predict, in one folder that can be checked; and its versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import NAME_PATTERN
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.proportions import wilson
from radtransfer.fusion import FUSED, HEAD
from radtransfer.fusion.unfit import FALSE_ALARMS, UNFIT
from radtransfer.preprocess.store import Store
from radtransfer.registry.card import model_card

INTENDED_USE = "Research on transfer learning. Not a medical device; not for diagnosis or triage of patients."
CHAMPION = "champion.json"
COLOURED_IMAGES = 0.01
"""Share of images with colours in the target's store above which colour is no reason against an image."""


def register(
    *,
    name: str,
    target_store: Path,
    evaluation: Path,
    classifiers: list[Path],
    models: list[Path],
    registry: Path | None,
    out: Path,
) -> None:
    """Pack the selected candidate of an evaluation into a **bundle**, and enter it into a registry if one is named.

    Args:
        name: name of the model, which is also the name of its folder in a registry.
        target_store: image store of the target.
        evaluation: which candidate was selected, and what it scored.
        classifiers: artifacts of all TL sources, in any order.
        models: fine-tuned models of all TL sources, in any order.
        registry: folder of the model registry, or None; see :func:`enter`.
        out: folder to write.

    Raises:
        RadtransferError: the name cannot be a folder's, the selected candidate or one of its models is missing, or
            they do not belong together or were changed since they were made.
    """
    _check_name(name, "register")
    store = Store.open(target_store)
    evaluated = artifacts.read(evaluation, "evaluation", verify=True)
    metrics = artifacts.read_json(evaluation / "metrics.json")
    row = next(row for row in metrics["results"] if row["id"] == evaluated.content["selected"])
    chosen = _of_source([artifacts.read(path, "classifiers", verify=True) for path in classifiers], row["tl_source"])
    candidate_id = f"{row['features']}/{row['classifier']}"
    candidate = next((one for one in chosen.content["candidates"] if one["id"] == candidate_id), None)
    if candidate is None or chosen.content["store_digest"] != store.artifact.digest:
        raise RadtransferError(f"{chosen.path}: holds no candidate {candidate_id!r} fitted on {target_store}")
    blocks = [block for block in chosen.content["blocks"] if row["features"] in (FUSED, block["backbone"])]
    by_digest = {model.digest: model for model in (artifacts.read(path, "model", verify=True) for path in models)}
    missing = [block["backbone"] for block in blocks if block["model_digest"] not in by_digest]
    if missing:
        raise RadtransferError(f"register: the model of {missing[0]} behind {row['id']} is missing; hand it over")

    inputs = {"target_store": store.artifact, "evaluation": evaluated, "classifiers": chosen}
    with artifacts.writing(out, "bundle", step="register", settings={"name": name}, inputs=inputs) as (folder, content):
        for block in blocks:
            shutil.copytree(by_digest[block["model_digest"]].path, folder / "models" / block["backbone"])
        if candidate["classifier"] != HEAD:
            shutil.copyfile(chosen.path / candidate["file"], folder / "classifier.skops")
        shutil.copyfile(chosen.path / chosen.content["unfit"][row["features"]]["file"], folder / UNFIT)
        content.update(
            name=name,
            row_id=row["id"],
            tl_source=row["tl_source"],
            features=row["features"],
            classifier=row["classifier"],
            blocks=blocks,
            refit=chosen.content["refit"],
            store_size=store.size,
            ct_window=store.content.get("ct_window", []),
            crop_border=store.content.get("crop_border", False),
            calibration=candidate["calibration"],
            calibrated_by=chosen.content["calibration"],
            threshold_rule=chosen.content["threshold_rule"],
            threshold=candidate["threshold"],
            unfit=_refusals(chosen, row["features"], store),
            positive_class=store.content["positive_class"],
            classes=store.content["classes"],
            part=store.content["part"],
            layout=store.content["layout"],
            synthetic=store.content["synthetic"],
            metrics=row,
            digests={key: artifact.digest for key, artifact in inputs.items()},
            intended_use=INTENDED_USE,
        )
        card = model_card(content, store.content, evaluated.content, metrics)
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    if registry is not None:
        enter(out, registry)


def enter(bundle: Path, registry: Path) -> Path:
    """Copy a bundle into a registry under the next version, ``<registry>/<name>/v0001`` and so on.

    The folders themselves are the list of versions: a copy is made beside them and renamed to the first free number,
    which only one of several writers can do. The first version becomes champion (``champion.json``); later ones do not
    replace it.

    Returns:
        the new version's folder.

    Raises:
        RadtransferError: ``bundle`` is not a sound bundle, or its name cannot be a folder's.
    """
    artifact = artifacts.read(bundle, "bundle", verify=True)
    home = registry / _check_name(artifact.content.get("name"), str(bundle))
    home.mkdir(parents=True, exist_ok=True)
    staging = home / f".partial-{uuid.uuid4().hex}"
    try:
        shutil.copytree(bundle, staging)
        number = 1
        while True:
            version = home / f"v{number:04d}"
            if not version.exists():
                try:
                    staging.rename(version)
                    break
                except OSError:
                    if not version.exists():
                        raise
            number += 1
        _crown(home, version, artifact)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return version


def _refusals(chosen: Artifact, features: str, store: Store) -> dict[str, Any]:
    """When prediction calls an image unfit, and how many of the test images it would so call."""
    limit = chosen.content["unfit"][features]["limit"]
    test = pd.read_parquet(chosen.path / "distances.parquet").query("split == 'test'")
    groups = np.unique(test["group_id"].to_numpy(), return_inverse=True)[1]
    beyond = (test[features].to_numpy() > limit).astype(np.float64)
    share = wilson(beyond, np.ones(len(test)), groups)
    assert share is not None  # there is no evaluation without test images
    return {
        "limit": limit,
        "false_alarms_meant": FALSE_ALARMS,
        "false_alarms": {"images": len(test), "unfit": int(beyond.sum())} | share._asdict(),
        "modality": store.content["modality"],
        "dicom_modalities": store.content["dicom_modalities"],
        "coloured": store.content["flags"].get("colour", 0) > COLOURED_IMAGES * store.content["images"],
    }


def _check_name(name: object, where: str) -> str:
    """The name, which becomes a folder of the registry and may come from a bundle made elsewhere."""
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise RadtransferError(
            f"{where}: the name {name!r} cannot name a model; expected 1 to 41 lower-case letters, digits and dashes, "
            "the first no dash; register it under such a name"
        )
    return name


def _of_source(found: list[Artifact], tl_source: str) -> Artifact:
    matching = [artifact for artifact in found if artifact.content["tl_source"] == tl_source]
    if len(matching) != 1:
        raise RadtransferError(
            f"register: expected one classifiers artifact of TL source {tl_source!r}, got {len(matching)}; "
            "hand over those of the same run"
        )
    return matching[0]


def _crown(home: Path, version: Path, artifact: Artifact) -> None:
    """Point ``champion.json`` to this version unless there is a champion; a hard link is made by one writer only."""
    pointer: dict[str, Any] = {"schema": artifacts.SCHEMA, "version": version.name, "digest": artifact.digest}
    staging = home / f".{CHAMPION}-{uuid.uuid4().hex}"
    staging.write_text(json.dumps(pointer, indent=1) + "\n", encoding="utf-8")
    try:
        os.link(staging, home / CHAMPION)
    except FileExistsError:
        pass
    finally:
        staging.unlink()
