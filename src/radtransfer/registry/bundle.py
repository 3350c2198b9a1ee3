"""The bundle: all that is needed to predict, and to tell what it was made of, in one folder that can be checked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.proportions import wilson
from radtransfer.fusion import FUSED, HEAD
from radtransfer.fusion.unfit import FALSE_ALARMS, UNFIT
from radtransfer.preprocess import inherit
from radtransfer.preprocess.store import Store
from radtransfer.provenance import code_version
from radtransfer.registry.card import model_card
from radtransfer.registry.entry import check_name, enter
from radtransfer.registry.versions import Registry

INTENDED_USE = "Research on transfer learning. Not a medical device; not for diagnosis or triage of patients."
COLOURED_IMAGES = 0.01
"""Share of images with colours in the target's store above which colour is no reason against an image."""


def register(
    *,
    name: str,
    target_store: Path,
    evaluation: Path,
    classifiers: list[Path],
    models: list[Path],
    pretrained: list[Path],
    config: Mapping[str, object],
    registry: str,
    out: Path,
) -> None:
    """Pack the selected candidate of an evaluation into a **bundle**, and enter it into a registry if one is named.

    Args:
        name: name of the model, in a registry too.
        target_store: image store of the target.
        evaluation: which candidate was selected, and what it scored.
        classifiers: artifacts of all TL sources, in any order.
        models: fine-tuned models of all TL sources, in any order.
        pretrained: pre-trained models of the run, those that its in-domain models were fine-tuned from.
        config: configuration of the run, which the bundle keeps.
        registry: folder or ``s3://BUCKET/PREFIX`` of the model registry (:mod:`radtransfer.registry.versions`), where
            the bundle becomes a version, and its pre-trained models do; empty: none. No version is promoted by that.
        out: folder to write.

    Raises:
        RadtransferError: the name cannot be a folder's, the selected candidate or one of its models is missing, or
            they do not belong together or were changed since they were made; or the registry cannot be written.
    """
    check_name(name, "register")
    opened = Registry.open(registry, write=True) if registry else None
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

    parents = _parents([by_digest[block["model_digest"]] for block in blocks], pretrained)
    inputs = {"target_store": store.artifact, "evaluation": evaluated, "classifiers": chosen}
    made_by = [*inputs.values(), *(by_digest[block["model_digest"]] for block in blocks)]
    with artifacts.writing(out, "bundle", step="register", settings={"name": name}, inputs=inputs) as (folder, content):
        for block in blocks:
            shutil.copytree(by_digest[block["model_digest"]].path, folder / "models" / block["backbone"])
        if candidate["classifier"] != HEAD:
            shutil.copyfile(chosen.path / candidate["file"], folder / "classifier.skops")
        shutil.copyfile(chosen.path / chosen.content["unfit"][row["features"]]["file"], folder / UNFIT)
        shutil.copyfile(target_store / inherit.FILE, folder / inherit.FILE)
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
            configuration=dict(config),
            data=_data(store),
            parents=parents,
            code_versions=sorted({artifact.made["version"] for artifact in made_by} | {code_version()}),
            intended_use=INTENDED_USE,
        )
        card = model_card(content, store.content, evaluated.content, metrics)
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    if opened is not None:
        enter(opened, out, pretrained)


def _parents(models: Sequence[Artifact], pretrained: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each model that was fine-tuned from a pre-trained one, that one: backbone, digest, source store, code.

    Raises:
        RadtransferError: one was not handed over.
    """
    by_digest = {model.digest: model for model in (artifacts.read(path, "model", verify=True) for path in pretrained)}
    found = []
    for model in models:
        digest = model.content["pretrained_digest"]
        if digest is None:
            continue
        if digest not in by_digest:
            raise RadtransferError(
                f"register: the pre-trained model behind {model.path} is missing; hand it over (pretrained)"
            )
        before = by_digest[digest]
        inputs = {"source_store": before.made["inputs"].get("source_store", ""), "code_version": before.made["version"]}
        found.append({"backbone": model.content["backbone"], "digest": digest, **inputs})
    return found


def _data(store: Store) -> dict[str, Any]:
    """Which images: the target's data set and part, its revision and digest, its store, counts by split and class.

    Which image was in which split, of target and source, is in ``splits.csv``.
    """
    said = {key: store.content[key] for key in ("name", "layout", "part", "images", "size", "grouping", "counts")}
    return said | {"origin": store.content.get("data", {}), "store_digest": store.artifact.digest}


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


def _of_source(found: list[Artifact], tl_source: str) -> Artifact:
    matching = [artifact for artifact in found if artifact.content["tl_source"] == tl_source]
    if len(matching) != 1:
        raise RadtransferError(
            f"register: expected one classifiers artifact of TL source {tl_source!r}, got {len(matching)}; "
            "hand over those of the same run"
        )
    return matching[0]
