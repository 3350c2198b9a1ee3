"""Features of every stored image from one fine-tuned model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.training.inference import infer
from radtransfer.training.network import load_network
from radtransfer.training.runtime import settle


def extract(*, store: Path, model: Path, threads: int, out: Path) -> None:
    """Run a fine-tuned model over the target store and write **features**.

    ``features.npy`` float32 [N, D] are the pooled features before the head, ``logits.npy`` float32 [N] the network's
    own output, ``index.parquet`` says which image a row is. Of a refitted model there are both fits
    (:func:`radtransfer.artifacts.fits`). The label of a test image is left out (NULL), so that
    nothing made from features can choose by it.

    Args:
        store: target image store, the one that the model was fine-tuned on.
        model: fine-tuned model.
        threads: CPU threads.
        out: folder to write.

    Raises:
        RadtransferError: the model is not a fine-tuned one, was fine-tuned on another store (its training images
            could be this store's test images), expects another image size, or gives features that are not finite.
    """
    images = Store.open(store)
    description = artifacts.read(model, "model")
    about = description.content
    if about["stage"] != "finetune":
        raise RadtransferError(f"{model}: expected a fine-tuned model, found one of stage {about['stage']!r}")
    if about["store_size"] != images.size:
        raise RadtransferError(
            f"{model}: was trained on stored images of {about['store_size']} px, but {store} holds {images.size} px; "
            "run preprocess and finetune with one image_size"
        )
    if images.artifact.digest not in description.made["inputs"].values():
        raise RadtransferError(
            f"{model}: was not fine-tuned on {store} (no input with digest {images.artifact.digest[:12]}), so test "
            "images may have trained it; fine-tune on this store"
        )
    settle(threads, about["seed"])
    settings = {"threads": threads}
    inputs = {"store": images.artifact, "model": description}
    with artifacts.writing(out, "features", step="extract", settings=settings, inputs=inputs) as (folder, content):
        what = f"extract {about['tl_source']} {about['backbone']}"
        for fit in artifacts.fits(about):
            features, logits = infer(load_network(model, fit), images.images, what=what)
            odd = np.flatnonzero(~(np.isfinite(features).all(axis=1) & np.isfinite(logits)))
            if len(odd):
                image = images.manifest["image_id"].iloc[odd[0]]
                raise RadtransferError(
                    f"{model}: gives features that are not finite for {len(odd)} images, first {image}; its training "
                    "diverged, lower the learning rate"
                )
            np.save(folder / f"{fit}features.npy", features)
            np.save(folder / f"{fit}logits.npy", logits)
        index = images.manifest[["image_id", "group_id", "split"]].reset_index(drop=True)
        labels = images.manifest["label"].reset_index(drop=True).astype("Int8")
        index["label"] = labels.mask(index["split"] == "test")
        index.to_parquet(folder / "index.parquet", index=False)
        content.update(
            backbone=about["backbone"],
            tl_source=about["tl_source"],
            feature_dim=about["feature_dim"],
            images=len(index),
            refit=about["refit"],
            store_digest=images.artifact.digest,
            model_digest=description.digest,
            seed=about["seed"],
        )
