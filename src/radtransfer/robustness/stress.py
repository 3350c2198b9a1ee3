"""The step that scores changed test images by every transfer-learning source; ``evaluate`` measures the scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer import artifacts
from radtransfer.fusion import predictor
from radtransfer.fusion.sources import sources
from radtransfer.preprocess.letterbox import Letterbox
from radtransfer.preprocess.store import Store, taken
from radtransfer.robustness import CONTROL, MASKED
from radtransfer.robustness.lesions import Box, hidden, moved, transferred
from radtransfer.training.inference import batches
from radtransfer.training.network import Network, load_network
from radtransfer.training.runtime import settle

CHUNK_BYTES = 2**25


def stress(
    *, target_store: Path, classifiers: list[Path], models: list[Path], seed: int, threads: int, out: Path
) -> None:
    """Score changed test images by what every TL source chose and write a **stress**.

    Changes: :data:`MASKED`, the annotated lesions hidden; :data:`CONTROL`, as much hidden elsewhere (see
    :mod:`radtransfer.robustness.lesions`). They are made of the positive images that have boxes and of all negative
    ones; a target without boxes has none. The labels of test images are read for that; nothing is chosen by them.

    Args:
        target_store: image store of the target.
        classifiers: one artifact per TL source.
        models: the fine-tuned models of all TL sources.
        seed: of what is hidden where.
        threads: CPU threads.
        out: folder to write: ``scores.parquet`` has a row for each change (``corruption``) and ``image_id``, and the
            calibrated scores of each source's choices in columns ``<TL source>/<candidate>``, float64.

    Raises:
        RadtransferError: the inputs do not belong together.
    """
    settle(threads, seed)
    store = Store.open(target_store)
    given = sources(store.artifact.digest, classifiers, models)
    inputs = {"target_store": store.artifact}
    for source in given.values():
        inputs |= source.inputs
    settings = {"seed": seed, "threads": threads}
    changes = _lesions(store, seed)
    with artifacts.writing(out, "stress", step="stress", settings=settings, inputs=inputs) as (folder, content):
        ids = store.manifest["image_id"].to_numpy()
        table = pd.DataFrame(
            {
                "corruption": [name for name, change in changes.items() for _ in change.rows],
                "image_id": [ids[row] for change in changes.values() for row in change.rows],
            },
            dtype=str,
        )
        for source in given.values() if changes else ():
            networks = {backbone: load_network(model.path) for backbone, model in source.models.items()}
            chosen = {
                str(candidate["id"]): predictor.of_candidate(
                    candidate, source.blocks, networks, source.classifiers.path
                )
                for candidate in source.candidates
                if candidate["id"] in source.classifiers.content["choice"].values()
            }
            for name, change in changes.items():
                scores = _scored(chosen, networks, store, change, f"stress {source.name} {name}")
                for candidate, its in scores.items():
                    table.loc[table["corruption"] == name, f"{source.name}/{candidate}"] = its
        table.to_parquet(folder / "scores.parquet", index=False)
        content |= {
            "store_digest": store.artifact.digest,
            "corruptions": {name: len(change.rows) for name, change in changes.items()},
        }


@dataclass(frozen=True)
class _Change:
    """A change of test images: which rows of the store it is made of, and how, [S, S] uint8 each."""

    rows: NDArray[np.intp]
    made: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def _lesions(store: Store, seed: int) -> dict[str, _Change]:
    """The two changes that hide lesions or as much elsewhere; none where no positive test image has a box."""
    test = store.rows("test")
    boxes = {row: [_box(box) for box in store.manifest["boxes"].iloc[row]] for row in test}
    positive = store.manifest["label"].to_numpy() == 1
    boxed = [row for row in test if positive[row] and boxes[row]]
    if not boxed:
        return {}
    rows = np.array([row for row in test if boxes[row] or not positive[row]])
    regions = {row: _region(store, row) for row in rows}
    off, masked = {}, {}
    for row in rows:
        rng = np.random.default_rng([seed, int(row)])
        of = row if positive[row] else boxed[rng.integers(len(boxed))]
        masked[row] = transferred(boxes[of], regions[of], regions[row])
        off[row] = moved(masked[row], regions[row], rng)
    return {name: _Change(rows, partial(_hidden, places)) for name, places in ((MASKED, masked), (CONTROL, off))}


def _hidden(places: dict[int, list[Box]], image: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    return hidden(image, places[row])


def _box(edges: NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    return x0, y0, x1, y1


def _region(store: Store, row: int) -> Box:
    """Where the image lies in its square."""
    width, height, shown = (store.manifest[name].iloc[row] for name in ("width", "height", "shown"))
    return Letterbox.of(int(width), int(height), store.size, shown).box(0, 0, int(width), int(height))


def _scored(
    chosen: dict[str, predictor.Predictor], networks: dict[str, Network], store: Store, change: _Change, what: str
) -> dict[str, NDArray[np.float64]]:
    """Scores of each chosen candidate for a change's images, each of which is made and passed once."""
    scores = {candidate: np.empty(len(change.rows)) for candidate in chosen}
    size = max(1, CHUNK_BYTES // store.size**2)
    for start in range(0, len(change.rows), size):
        rows = change.rows[start : start + size]
        images = np.stack([change.made(image, row) for image, row in zip(taken(store.images, rows), rows, strict=True)])
        for part, passed in batches(list(networks.values()), images, what=what):
            by_backbone = dict(zip(networks, passed, strict=True))
            place = slice(start + part.start, start + part.stop)
            for candidate, predict in chosen.items():
                scores[candidate][place] = predict.of_passed([by_backbone[one.backbone] for one in predict.networks])
    return scores
