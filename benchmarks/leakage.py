"""What leakage would be worth: pixels alone, with images split at random and by leakage groups.

    python benchmarks/leakage.py --data-root DIR [--layout iqothnccd --path IQ-OTHNCCD --part normal-benign]

A 5-nearest-neighbour classifier on 32 x 32 px reductions knows nothing of disease, but recognises the other slices of
a case. Prints its AUROC in five-fold cross-validation, mean over three seeds: with the images split at random, as is
often done, and in groups, as this project does it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store

SIDE = 32
SEEDS = 3


def aurocs(store: Store) -> tuple[float, float]:
    """AUROC with images split at random, and in leakage groups; the store's side is a multiple of 32 px."""
    groups, labels = store.manifest["group_id"].to_numpy(), store.manifest["label"].to_numpy()
    step = store.size // SIDE
    small = store.images.reshape(-1, SIDE, step, SIDE, step).mean(axis=(2, 4)).reshape(len(labels), -1)

    def auroc(folds: StratifiedKFold | StratifiedGroupKFold) -> float:
        scores = np.zeros(len(labels))
        for fit, rest in folds.split(small, labels, groups if isinstance(folds, StratifiedGroupKFold) else None):
            model = KNeighborsClassifier(5, weights="distance").fit(small[fit], labels[fit])
            scores[rest] = model.predict_proba(small[rest])[:, 1]
        return float(roc_auc_score(labels, scores))

    at_random = [auroc(StratifiedKFold(5, shuffle=True, random_state=seed)) for seed in range(SEEDS)]
    in_groups = [auroc(StratifiedGroupKFold(5, shuffle=True, random_state=seed)) for seed in range(SEEDS)]
    return float(np.mean(at_random)), float(np.mean(in_groups))


def main() -> None:
    """Make the store and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--layout", default="iqothnccd")
    parser.add_argument("--path", default="IQ-OTHNCCD")
    parser.add_argument("--part", default="normal-benign")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radtransfer-leakage-") as folder:
        target = Path(folder) / "target"
        preprocess(
            data_root=given.data_root, target_layout=given.layout, target_path=given.path, target_part=given.part,
            source_layout="fracatlas", source_path="FracAtlas", source_parts=["shoulder"], image_size=4 * SIDE,
            test_fraction=0.2, validation_fraction=0.2, max_images=0, seed=0, target_out=target,
            source_out=Path(folder) / "source",
        )  # fmt: skip
        store = Store.open(target)
        at_random, in_groups = aurocs(store)
        print(
            f"{given.path} {given.part}: {len(store.images)} images in {store.manifest['group_id'].nunique()} groups\n"
            f"  split at random     AUROC {at_random:.3f}\n"
            f"  split in groups     AUROC {in_groups:.3f}"
        )


if __name__ == "__main__":
    main()
