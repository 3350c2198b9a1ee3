"""FracAtlas: musculoskeletal radiographs, fractured or not.

Abedeen et al., Scientific Data 10 (2023), doi 10.1038/s41597-023-02432-4. ``images/{Fractured,Non_fractured}`` is the
truth; ``dataset.csv`` gives body parts and flags; ``Annotations/YOLO`` gives fracture boxes. There are no patient ids.
"""

from __future__ import annotations

import csv
from pathlib import Path

from radtransfer.datasets.records import Box, Dataset, Folder, Record
from radtransfer.errors import RadtransferError

PARTS = ("hand", "leg", "hip", "shoulder")
FLAGS = ("mixed", "hardware", "multiscan", "frontal", "lateral", "oblique")
CLASSES = {"Non_fractured": 0, "Fractured": 1}


def read(folder: Folder, part: str | None) -> Dataset:
    """Read a FracAtlas folder; ``part`` does not change what its classes are.

    Raises:
        RadtransferError: the CSV or a class folder is missing, or the CSV has other columns than published.
    """
    del part
    table = _table(folder.need("dataset.csv", "fracatlas"))
    records, rejected, conflicts = [], [], []
    for name, label in CLASSES.items():
        folder.need(f"images/{name}", "fracatlas")
        for path in folder.images("images", name):
            file, row = folder.file(path), table.get(path.name)
            parts = tuple(part for part in PARTS if row and row[part] == "1")
            if row is None or not parts:
                rejected.append((file, "not in dataset.csv" if row is None else "dataset.csv names no body part"))
                continue
            if row["fractured"] != str(label):
                conflicts.append(path.name)
            flags = tuple(flag for flag in FLAGS if row[flag] == "1")
            annotation = folder.path / "Annotations" / "YOLO" / f"{path.stem}.txt"
            boxes = yolo_boxes(annotation) if label and annotation.is_file() else ()
            records.append(Record(file, label, parts, boxes=boxes, flags=flags))
    notes = ["no patient ids: split by duplicates and near duplicates, not by patient"]
    if conflicts:
        notes.append(f"dataset.csv contradicts the folder, which was followed: {', '.join(sorted(conflicts))}")
    records.sort(key=lambda record: record.file)
    return Dataset("fracatlas", folder.path.name, ("non_fractured", "fractured"), records, rejected, notes)


def yolo_boxes(path: Path) -> tuple[Box, ...]:
    """Boxes of a YOLO annotation file (lines ``class cx cy w h``, shares of the upright image), clipped to the image.

    Raises:
        RadtransferError: a line is not of that form.
    """
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            _, centre_x, centre_y, width, height = (float(word) for word in line.split())
        except ValueError:
            raise RadtransferError(f"{path}, line {number}: expected 'class cx cy w h', got {line!r}") from None
        x0, x1 = (min(max(centre_x + side * width / 2, 0.0), 1.0) for side in (-1, 1))
        y0, y1 = (min(max(centre_y + side * height / 2, 0.0), 1.0) for side in (-1, 1))
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)


def _table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = {"image_id", "fractured", *PARTS, *FLAGS} - set(reader.fieldnames or ())
        if missing:
            raise RadtransferError(
                f"{path}: column {sorted(missing)[0]!r} is missing; expected the published dataset.csv"
            )
        return {row["image_id"]: row for row in reader}
