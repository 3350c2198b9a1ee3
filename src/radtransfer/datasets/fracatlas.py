"""FracAtlas: musculoskeletal radiographs, fractured or not.

Abedeen et al., Scientific Data 10 (2023), doi 10.1038/s41597-023-02432-4. ``images/{Fractured,Non_fractured}`` is the
truth; ``dataset.csv`` gives body parts, views and flags; ``Annotations/YOLO`` fracture boxes. There are no patient ids.
"""

from __future__ import annotations

from radtransfer.attributes import Attributes
from radtransfer.datasets.records import Dataset, Folder, Record
from radtransfer.datasets.rows import read_rows
from radtransfer.datasets.yolo import yolo_boxes

PARTS = ("hand", "leg", "hip", "shoulder")
FLAGS = {"hardware": "hardware", "mixed": "several_parts", "multiscan": "several_scans"}
VIEWS = ("frontal", "lateral", "oblique")
CLASSES = {"Non_fractured": 0, "Fractured": 1}


def read(folder: Folder, part: str | None) -> Dataset:
    """Read a FracAtlas folder; ``part`` does not change what its classes are.

    Raises:
        RadtransferError: the CSV or a class folder is missing, or the CSV has other columns than published.
    """
    del part
    columns = ("image_id", "fractured", *PARTS, *FLAGS, *VIEWS)
    table = {row.cells["image_id"]: row.cells for row in read_rows(folder.need("dataset.csv", "fracatlas"), columns)}
    records, rejected, conflicts = [], [], []
    attributes = Attributes(str(folder.path))
    for name, label in CLASSES.items():
        folder.need(f"images/{name}", "fracatlas")
        for path in folder.images("images", name):
            file, row = folder.file(path), table.get(path.name)
            parts = tuple(part for part in PARTS if row and row[part] == "1")
            if row is None or not parts:
                rejected.append((file, "not in dataset.csv" if row is None else "dataset.csv names no body part"))
                continue
            if row["fractured"] != str(label):
                conflicts.append(file)
            known = {attribute: row[flag] for flag, attribute in FLAGS.items()}
            known["view"] = "+".join(view for view in VIEWS if row[view] == "1")
            annotation = folder.path / "Annotations" / "YOLO" / f"{path.stem}.txt"
            boxes = yolo_boxes(annotation) if label and annotation.is_file() else ()
            records.append(Record(file, label, parts, boxes=boxes, attributes=attributes.of(known)))
    notes = ["no patient ids: split by duplicates and near duplicates, not by patient"]
    if conflicts:
        names = sorted(file.rpartition("/")[2] for file in conflicts)
        notes.append(f"dataset.csv contradicts the folder, which was followed: {', '.join(names)}")
    records.sort(key=lambda record: record.file)
    return Dataset(
        "fracatlas",
        folder.path.name,
        ("non_fractured", "fractured"),
        records,
        rejected,
        notes,
        conflicts=frozenset(conflicts),
    )
