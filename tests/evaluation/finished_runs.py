"""Folders of finished runs, written as `radtransfer run` leaves them, with scores that a test makes up."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from radtransfer import artifacts

SOURCES = {"in_domain": 2.0, "imagenet": 1.6, "scratch": 0.6}
ROWS = {
    f"{source}/{features}-{classifier}": (source, features, classifier, strength)
    for source, strength in SOURCES.items()
    for features, classifier in (("fused", "svm_linear"), ("lite0", "head"))
} | {
    "shortcut/grey_level_histogram": ("shortcut", "grey_level_histogram", "logistic_regression", 0.1),
    "shortcut/image_metadata": ("shortcut", "image_metadata", "logistic_regression", 0.05),
    "shortcut/majority_class": ("shortcut", "majority_class", "majority", 0.0),
}


def images(count: int = 120, positives: int = 40, per_group: int = 1) -> pd.DataFrame:
    """Test images: ``image_id``, ``group_id``, ``label``, ``sha256``; groups of one class each."""
    names = [f"DATA/{number:04}.png" for number in range(count)]
    return pd.DataFrame(
        {
            "image_id": names,
            "group_id": [f"image-{number // per_group:04}" for number in range(count)],
            "label": (np.arange(count) < positives).astype(np.int8),
            "sha256": [hashlib.sha256(name.encode()).hexdigest() for name in names],
        }
    )


def write_run(
    folder: Path,
    test: pd.DataFrame,
    *,
    noise: int = 0,
    boost: float | Mapping[str, float] = 0.0,
    level: float = 0.0,
    **config: Any,
) -> Path:
    """A finished run.

    Args:
        folder: its folder.
        test: its test images, of :func:`images`.
        noise: seed of its scores.
        boost: added to the strength of every network, or of those of the sources that it names.
        level: added to every logit: of a model that scores higher than others.
        config: entries of its configuration.
    """
    own = {"name": "made", "seed": 0, "test_fold": [], "pretrained_models": "", "batch_size": 8, "label_fraction": 1.0}
    config = own | config
    folder.mkdir(parents=True)
    rng = np.random.default_rng(noise)
    labels = test["label"].to_numpy(dtype=bool)
    table = test.drop(columns="sha256").copy()
    shared = rng.normal(size=len(test))
    results, curves, ids = [], {}, {}
    for name, (source, features, classifier, strength) in ROWS.items():
        row_id = name if source == "shortcut" else f"{name}/seed{config['seed']}"
        ids[source, features] = row_id
        more = boost.get(source, 0.0) if isinstance(boost, Mapping) else boost
        power = strength + (more if source != "shortcut" else 0)
        own = 0.7 * shared + 0.7 * rng.normal(size=len(test))
        table[row_id] = 0.3 if classifier == "majority" else expit(level - 0.5 + power * (labels - 0.5) + own)
        told = {"id": row_id, "tl_source": source, "features": features, "classifier": classifier}
        results.append(told | {"selected": row_id.startswith("in_domain/fused")})
        curves[row_id] = {"threshold": float(expit(level - 0.5))}
    sources = list(SOURCES)
    choices = {one: {"fused": ids[one, "fused"], "single": ids[one, "lite0"]} for one in sources}
    with artifacts.writing(folder / "evaluation", "evaluation", step="evaluate", settings={}) as (staging, content):
        described = {"target": "Made hand", "positive_class": "fractured", "results": results}
        artifacts.write_json(staging / "metrics.json", described)
        artifacts.write_json(staging / "curves.json", curves)
        table.to_parquet(staging / "test_scores.parquet", index=False)
        content |= {"selected": choices["in_domain"]["fused"], "choices": choices, "warnings": []}
        count = round(100 * config["label_fraction"])
        counts = {"images": count, "positives": count // 3}
        content["learnt_from"] = {"train": counts, "validation": counts}
    with (folder / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(["role", "image_id", "sha256", "split"])
        lines.writerows(["target", one.image_id, one.sha256, "test"] for one in test.itertuples())
    told = {"config": config, "code_version": "0.1.0+aa", "data_version": "d1"}
    artifacts.write_json(folder / "run.json", told)
    return folder


def write_crossfit(
    folder: Path, test: pd.DataFrame, folds: int, seeds: Sequence[int] = (0,), *, boost: float = 0.0, **config: Any
) -> Path:
    """A finished cross-fitting whose folds deal groups by seed and whose models score at levels of their own."""
    for seed in seeds:
        names = np.array(sorted(set(test["group_id"])))
        dealt = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % folds + 1, strict=True))
        fold = test["group_id"].map(dealt)
        for number in range(1, folds + 1):
            out = folder / f"seed{seed}-fold{number}"
            own = {"seed": seed, "test_fold": [number, folds]} | config
            write_run(
                out, test[fold == number], noise=100 * seed + number, boost=boost, level=1.5 * (-1) ** number, **own
            )
    return folder
