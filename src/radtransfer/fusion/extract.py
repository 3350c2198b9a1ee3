"""Features of every stored image from the fine-tuned models of one transfer-learning source."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.split import UNUSED
from radtransfer.preprocess.store import Store
from radtransfer.training.inference import batches
from radtransfer.training.network import load_network
from radtransfer.training.runtime import settle


def extract(*, store: Path, models: Sequence[Path], threads: int, out: Path) -> None:
    """Run fine-tuned models over the target store, in one pass, and write **features**.

    For each model, in alphabetical order of backbones whatever the order of ``models``, ``<place>-features.npy``
    float32 [N, D] has the pooled features before the head and ``<place>-logits.npy`` float32 [N] the network's own
    output; ``content.models`` says whose they are, ``index.parquet`` which image a row is. Of refitted models there are
    both fits (:func:`radtransfer.artifacts.fits`). The label of a test image is left out (NULL), so that nothing made
    from features can choose by it. Memory does not grow with the number of images.

    Args:
        store: target image store, the one that the models were fine-tuned on.
        models: fine-tuned models of one transfer-learning source, each of another backbone.
        threads: CPU threads.
        out: folder to write.

    Raises:
        RadtransferError: none given; one is not fine-tuned, was fine-tuned on another store (its training images could
            be this store's test images), expects another image size, or gives features that are not finite; or they
            differ in source, seed or refitting, or a backbone comes twice.
    """
    images = Store.open(store)
    described = [_checked(path, images) for path in models]
    if not described:
        raise RadtransferError("extract: no models given; name those of at least one backbone")
    described.sort(key=lambda model: str(model.content["backbone"]))
    first = described[0]
    for previous, model in itertools.pairwise(described):
        if model.content["backbone"] == previous.content["backbone"]:
            raise RadtransferError(
                f"{model.path}: backbone {model.content['backbone']} comes twice (also {previous.path}); give one "
                "model per backbone"
            )
        for key in ("tl_source", "seed", "refit"):
            if model.content[key] != first.content[key]:
                raise RadtransferError(
                    f"{model.path}: {key} is {model.content[key]!r}, but {first.path} has {first.content[key]!r}; give "
                    "models of one transfer-learning source and one seed, all refitted or none"
                )
    settle(threads, first.content["seed"])
    inputs = {"store": images.artifact} | {str(model.content["backbone"]): model for model in described}
    with artifacts.writing(out, "features", step="extract", settings={"threads": threads}, inputs=inputs) as written:
        folder, content = written
        for fit in artifacts.fits(first.content):
            _pass(described, fit, images, folder)
        index = images.manifest[["image_id", "group_id", "split"]].reset_index(drop=True)
        labels = images.manifest["label"].reset_index(drop=True).astype("Int8")
        index["label"] = labels.mask(index["split"].isin(("test", UNUSED)))
        index.to_parquet(folder / "index.parquet", index=False)
        content.update(
            tl_source=first.content["tl_source"],
            models=[
                {
                    "backbone": model.content["backbone"],
                    "feature_dim": model.content["feature_dim"],
                    "model_digest": model.digest,
                }
                for model in described
            ],
            images=len(index),
            refit=first.content["refit"],
            store_digest=images.artifact.digest,
            seed=first.content["seed"],
        )


def _checked(path: Path, images: Store) -> Artifact:
    model = artifacts.read(path, "model")
    about, store = model.content, images.artifact
    if about["stage"] != "finetune":
        raise RadtransferError(f"{path}: expected a fine-tuned model, found one of stage {about['stage']!r}")
    if about["store_size"] != images.size:
        raise RadtransferError(
            f"{path}: was trained on stored images of {about['store_size']} px, but {store.path} holds {images.size} "
            "px; run preprocess and finetune with one image_size"
        )
    if store.digest not in model.made["inputs"].values():
        raise RadtransferError(
            f"{path}: was not fine-tuned on {store.path} (no input with digest {store.digest[:12]}), so test images "
            "may have trained it; fine-tune on this store"
        )
    return model


def _pass(models: list[Artifact], fit: str, images: Store, folder: Path) -> None:
    """Write features and logits of one fit of all models."""
    networks = [load_network(model.path, fit) for model in models]
    count = len(images.images)
    files = [
        tuple(
            np.lib.format.open_memmap(folder / f"{fit}{place}-{name}.npy", mode="w+", dtype=np.float32, shape=shape)
            for name, shape in (("features", (count, network.feature_dim)), ("logits", (count,)))
        )
        for place, network in enumerate(networks)
    ]
    what = f"extract {models[0].content['tl_source']} {fit.rstrip('_')}".rstrip()
    for rows, passed in batches(networks, images.images, what=what):
        for model, (features, logits), (all_features, all_logits) in zip(models, passed, files, strict=True):
            odd = np.flatnonzero(~(np.isfinite(features).all(axis=1) & np.isfinite(logits)))
            if len(odd):
                image = images.manifest["image_id"].iloc[rows.start + odd[0]]
                raise RadtransferError(
                    f"{model.path}: gives features that are not finite, first for image {image}; its training "
                    "diverged, lower the learning rate"
                )
            all_features[rows], all_logits[rows] = features, logits
    for pair in files:
        for array in pair:
            array.flush()
