"""The step that scores changed test images by every transfer-learning source; ``evaluate`` measures the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer import artifacts
from radtransfer.fusion.predictor import Choices
from radtransfer.fusion.sources import sources
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.store import Store, taken
from radtransfer.progress import track
from radtransfer.robustness import CONTROL, MASKED
from radtransfer.robustness.corruptions import corrupted
from radtransfer.robustness.kinds import GRADES, graded, read_kinds
from radtransfer.robustness.lesions import Box, hidden, moved, transferred
from radtransfer.training.inference import passed
from radtransfer.training.runtime import settle

BATCH = 32
"""Images that are made and passed at a time."""


@dataclass(frozen=True)
class Change:
    """A change of test images: which rows of the store it is made of, and how, [S, S] uint8 each."""

    rows: NDArray[np.intp]
    made: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def stress(
    *,
    target_store: Path,
    classifiers: list[Path],
    models: list[Path],
    corruptions: list[str],
    seed: int,
    threads: int,
    out: Path,
) -> None:
    """Score changed test images by what every TL source chose and write a **stress**.

    Changes: :data:`MASKED`, the annotated lesions hidden; :data:`CONTROL`, as much hidden elsewhere (see
    :mod:`radtransfer.robustness.lesions`). They are made of the positive images that have boxes and of all negative
    ones; a target without boxes has none. The labels of test images are read for that; nothing is chosen by them.
    And all test images, corrupted in each of the kinds asked for at each grade
    (:mod:`radtransfer.robustness.corruptions`), e.g. ``blur-3``.

    Each changed image is made once, for all sources, and no more than :data:`BATCH` are held at a time.

    Args:
        target_store: image store of the target.
        classifiers: one artifact per TL source.
        models: the fine-tuned models of all TL sources.
        corruptions: kinds, of :data:`radtransfer.robustness.kinds.KINDS`.
        seed: of what is hidden where and of all chance in corruptions.
        threads: CPU threads.
        out: folder to write: ``scores.parquet`` has a row for each change (``corruption``) and ``image_id``, and the
            calibrated scores of each source's choices in columns ``<TL source>/<candidate>``, float64.

    Raises:
        RadtransferError: the inputs do not belong together, or a kind is unknown.
    """
    kinds = read_kinds(corruptions)
    settle(threads, seed)
    store = Store.open(target_store)
    given = sources(store.artifact.digest, classifiers, models)
    inputs = {"target_store": store.artifact}
    for source in given.values():
        inputs |= source.inputs
    settings = {"corruptions": kinds, "seed": seed, "threads": threads}
    changes = _lesions(store, seed) | graded_changes(store, kinds, seed)
    with artifacts.writing(out, "stress", step="stress", settings=settings, inputs=inputs) as (folder, content):
        ids = store.manifest["image_id"].to_numpy()
        table = pd.DataFrame(
            {
                "corruption": [name for name, change in changes.items() for _ in change.rows],
                "image_id": [ids[row] for change in changes.values() for row in change.rows],
            },
            dtype=str,
        )
        if changes:
            scores = scored(Choices.of(given), store.images, changes)
            table = pd.concat([table, pd.DataFrame({"/".join(name): its for name, its in scores.items()})], axis=1)
        table.to_parquet(folder / "scores.parquet", index=False)
        content |= {
            "store_digest": store.artifact.digest,
            "corruptions": {name: len(change.rows) for name, change in changes.items()},
        }


def scored(
    choices: Choices, images: NDArray[np.uint8], changes: Mapping[str, Change]
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Scores of all changed images, change by change, by each choice.

    Args:
        choices: of every TL source.
        images: uint8 [N, S, S] of the store.
        changes: what is made of them.
    """
    work = [(change, row) for change in changes.values() for row in change.rows]
    scores = {name: np.empty(len(work)) for name in choices.predictors}
    starts = range(0, len(work), BATCH)
    for start in track(starts, "stress", len(starts)):
        part = work[start : start + BATCH]
        originals = taken(images, np.array([row for _, row in part]))
        made = np.stack([change.made(image, row) for image, (change, row) in zip(originals, part, strict=True)])
        for name, its in choices.scores(passed(choices.networks, made, "stress")).items():
            scores[name][start : start + BATCH] = its
    return scores


def graded_changes(store: Store, kinds: Sequence[str], seed: int) -> dict[str, Change]:
    """Every kind at every grade, of all test images; what an image gets hangs on its file's digest."""
    test = store.rows("test")
    regions = {row: region(store, row) for row in test} if kinds else {}

    def made(kind: str, grade: int, image: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = (round(edge) for edge in regions[row])
        name = str(store.manifest["sha256"].iloc[row])
        return corrupted(image, (x0, y0, x1, y1), kind, grade, seed=seed, name=name)

    return {
        graded(kind, grade): Change(test, partial(made, kind, grade))
        for kind in kinds
        for grade in range(1, GRADES + 1)
    }


def _lesions(store: Store, seed: int) -> dict[str, Change]:
    """The two changes that hide lesions or as much elsewhere; none where no positive test image has a box."""
    test = store.rows("test")
    boxes = {row: [_box(box) for box in store.manifest["boxes"].iloc[row]] for row in test}
    positive = store.manifest["label"].to_numpy() == 1
    boxed = [row for row in test if positive[row] and boxes[row]]
    if not boxed:
        return {}
    rows = np.array([row for row in test if boxes[row] or not positive[row]])
    regions = {row: region(store, row) for row in rows}
    off, masked = {}, {}
    for row in rows:
        rng = np.random.default_rng([seed, int(row)])
        of = row if positive[row] else boxed[rng.integers(len(boxed))]
        masked[row] = transferred(boxes[of], regions[of], regions[row])
        off[row] = moved(masked[row], regions[row], rng)
    return {name: Change(rows, partial(_hidden, places)) for name, places in ((MASKED, masked), (CONTROL, off))}


def _hidden(places: dict[int, list[Box]], image: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    return hidden(image, places[row])


def _box(edges: NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    return x0, y0, x1, y1
