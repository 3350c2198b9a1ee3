"""Feature fusion: the features of all backbones of one transfer-learning source, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from radtransfer import artifacts


def fuse(*, features: Path, out: Path) -> None:
    """Concatenate the features of several backbones and write **fused** features.

    Early fusion as in Alammar et al. (2023). ``fused.npy`` is float32 [N, sum of D]: one block of columns per
    backbone, in the order of the features; ``content.blocks`` says which columns came from which model. ``logits.npy``
    float32 [N, B] has the networks' own outputs in the same order. Of refitted models there are both fits
    (:func:`radtransfer.artifacts.fits`).

    Args:
        features: feature artifact of one transfer-learning source.
        out: folder to write.

    Raises:
        RadtransferError: not a feature artifact.
    """
    given = artifacts.read(features, "features")
    models = given.content["models"]
    edges = np.cumsum([0] + [model["feature_dim"] for model in models]).tolist()
    with artifacts.writing(out, "fused", step="fuse", settings={}, inputs={"features": given}) as (folder, content):
        for fit in artifacts.fits(given.content):
            for name, join, file in (("features", np.hstack, "fused"), ("logits", np.column_stack, "logits")):
                paths = [given.path / f"{fit}{place}-{name}.npy" for place in range(len(models))]
                np.save(folder / f"{fit}{file}.npy", join([np.load(path, allow_pickle=False) for path in paths]))
        (folder / "index.parquet").write_bytes((given.path / "index.parquet").read_bytes())
        content.update(
            tl_source=given.content["tl_source"],
            blocks=[
                {
                    "backbone": model["backbone"],
                    "start": start,
                    "stop": stop,
                    "model_digest": model["model_digest"],
                }
                for model, start, stop in zip(models, edges, edges[1:], strict=False)
            ],
            images=given.content["images"],
            refit=given.content["refit"],
            seed=given.content["seed"],
            store_digest=given.content["store_digest"],
        )
