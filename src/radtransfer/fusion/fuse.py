"""Feature fusion: the features of all backbones of one transfer-learning source, side by side."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from radtransfer import artifacts
from radtransfer.errors import RadtransferError


def fuse(*, features: list[Path], out: Path) -> None:
    """Concatenate the features of several backbones and write **fused** features.

    Early fusion as in Alammar et al. (2023). ``fused.npy`` is float32 [N, sum of D]: one block of columns per
    backbone, in alphabetical order whatever the order of ``features``; ``content.blocks`` says which columns came
    from which model. ``logits.npy`` float32 [N, B] has the networks' own outputs in the same order. Of refitted models
    there are both fits (:func:`radtransfer.artifacts.fits`).

    Args:
        features: feature artifacts of one transfer-learning source.
        out: folder to write.

    Raises:
        RadtransferError: none given; or they differ in transfer-learning source, store, seed, refitting or images; or
            a backbone comes twice.
    """
    if not features:
        raise RadtransferError("fuse: no features given; name those of at least one backbone")
    parts = sorted((artifacts.read(path, "features") for path in features), key=lambda part: part.content["backbone"])
    first = parts[0]
    index = pd.read_parquet(first.path / "index.parquet")
    for previous, part in itertools.pairwise(parts):
        if part.content["backbone"] == previous.content["backbone"]:
            raise RadtransferError(
                f"{part.path}: backbone {part.content['backbone']} comes twice (also {previous.path}); fuse takes one "
                "model per backbone"
            )
        for key in ("tl_source", "store_digest", "seed", "refit"):
            if part.content[key] != first.content[key]:
                raise RadtransferError(
                    f"{part.path}: {key} is {part.content[key]!r}, but {first.path} has {first.content[key]!r}; fuse "
                    "takes features of one transfer-learning source, one store and one seed, all refitted or none"
                )
        if not pd.read_parquet(part.path / "index.parquet").equals(index):
            raise RadtransferError(f"{part.path}: its images are not those of {first.path}; extract both again")
    inputs = {part.content["backbone"]: part for part in parts}
    with artifacts.writing(out, "fused", step="fuse", settings={}, inputs=inputs) as (folder, content):
        for fit in artifacts.fits(first.content):
            columns = [np.load(part.path / f"{fit}features.npy", allow_pickle=False) for part in parts]
            logits = [np.load(part.path / f"{fit}logits.npy", allow_pickle=False) for part in parts]
            np.save(folder / f"{fit}fused.npy", np.concatenate(columns, axis=1))
            np.save(folder / f"{fit}logits.npy", np.stack(logits, axis=1))
        edges = np.cumsum([0] + [block.shape[1] for block in columns]).tolist()
        index.to_parquet(folder / "index.parquet", index=False)
        content.update(
            tl_source=first.content["tl_source"],
            blocks=[
                {
                    "backbone": part.content["backbone"],
                    "start": start,
                    "stop": stop,
                    "model_digest": part.content["model_digest"],
                }
                for part, start, stop in zip(parts, edges, edges[1:], strict=False)
            ],
            images=len(index),
            refit=first.content["refit"],
            seed=first.content["seed"],
            store_digest=first.content["store_digest"],
        )
