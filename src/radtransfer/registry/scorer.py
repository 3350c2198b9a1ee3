"""A bundle on the images of a store, which were prepared as it needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store, taken
from radtransfer.registry.judge import Judge, Prediction

CHUNK = 64  # images held in memory at once
TASK = {"part": "body part", "classes": "classes", "positive_class": "positive class"}
FORM = {"ct_window": "CT window", "crop_border": "cropped borders"}


@dataclass(frozen=True)
class Scorer:
    """A bundle that was found to fit the images, and what it says of them."""

    judge: Judge
    store: Store

    @classmethod
    def of(cls, folder: Path, store: Store) -> Self:
        """Raises:
        RadtransferError: damaged, of another task, or for images that are prepared otherwise.
        """
        judge = Judge.of(folder)
        content = judge.bundle.content
        wanted = {what: (content.get(key), store.content[key]) for key, what in (TASK | FORM).items() if key in content}
        wanted["side of stored images"] = (content["store_size"], store.size)
        for what, (its, here) in wanted.items():
            if its != here:
                raise RadtransferError(
                    f"the bundle {content['name']} ({judge.bundle.digest[:12]}) is for another {what}: {its!r}, and "
                    f"{store.artifact.path} has {here!r}; make a store as the bundle needs it"
                )
        return cls(judge, store)

    def of_rows(self, rows: NDArray[np.int64]) -> list[Prediction]:
        """What it says of these rows of the store, as `predict` does."""
        found: list[Prediction] = []
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            names = [Path(name) for name in self.store.manifest["image_id"].iloc[some]]
            passed = self.judge.predictor.passed(taken(self.store.images, some), "score")
            found += self.judge.judge(names, passed)
        return found
