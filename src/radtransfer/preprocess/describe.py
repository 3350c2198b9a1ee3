"""What an image store says of itself in its ``dataset.json``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from radtransfer.attributes import order
from radtransfer.datasets import published
from radtransfer.preprocess.ingest import Levels
from radtransfer.preprocess.selection import Side
from radtransfer.preprocess.split import SPLITS


def describe(side: Side, rows: list[dict[str, Any]], levels: list[Levels], size: int, pairs: int) -> dict[str, Any]:
    """The content description of a store, JSON values only.

    Args:
        side: what it was made from, with all that was rejected.
        rows: rows of its manifest.
        levels: grey levels of the image of each row.
        size: side of the stored images, px.
        pairs: number of pairs of near duplicates among them.
    """
    dataset = side.dataset
    splits = [name for name in SPLITS if any(row["split"] == name for row in rows)]
    groups = Counter(row["group_id"] for row in rows)
    classes: dict[str, set[int]] = {}
    for row in rows:
        classes.setdefault(row["group_id"], set()).add(row["label"])
    mixed = sum(1 for labels in classes.values() if len(labels) > 1)
    by_patient = all(row["patient_id"] for row in rows)
    notes = [*dataset.notes, *side.notes]
    if not by_patient:
        largest = max(groups.values())
        notes.append(f"{pairs} pairs of near duplicates joined; the largest leakage group has {largest} images")
        if mixed:
            notes.append(f"{mixed} leakage groups hold images of both classes")
    counts = Counter((row["split"], row["label_name"]) for row in rows)
    parts = Counter((row["body_part"], row["label_name"]) for row in rows)
    known = Counter(one for row in rows for one in row["attributes"])
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "role": side.role,
        "part": side.part,
        "modality": dataset.modality,
        "images": len(rows),
        "size": size,
        "classes": {str(label): name for label, name in enumerate(dataset.classes)},
        "positive_class": dataset.classes[1],
        "synthetic": dataset.synthetic,
        "grouping": "patient" if by_patient else "near_duplicate",
        "counts": {where: {name: counts[where, name] for name in dataset.classes} for where in splits},
        "groups": {where: len({row["group_id"] for row in rows if row["split"] == where}) for where in splits},
        "parts": {
            part: {name: parts[part, name] for name in dataset.classes} for part in sorted({part for part, _ in parts})
        },
        "flags": dict(sorted(Counter(flag for row in rows for flag in row["flags"]).items())),
        "attributes": {one: known[one] for one in sorted(known, key=order)},
        "grey_levels": {
            name: _quantiles([its for its, row in zip(levels, rows, strict=True) if row["label_name"] == name])
            for name in dataset.classes
        },
        "files_found": side.found,
        "rejected": [one._asdict() for one in side.rejected],
        "notes": notes,
        **published.terms(dataset.layout),
    }


def _quantiles(levels: list[Levels]) -> dict[str, list[float]]:
    """Of each figure the 5, 50 and 95 % quantile over the images."""
    edges = np.quantile(np.array(levels), (0.05, 0.5, 0.95), axis=0).T
    return {name: [round(float(edge), 4) for edge in its] for name, its in zip(Levels._fields, edges, strict=True)}
