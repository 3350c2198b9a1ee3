"""Two folders of images, one per class: ``<class>/**`` or ``<body part>/<class>/**``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from radtransfer.datasets.records import NOT_DATA, Dataset, Folder, Record
from radtransfer.errors import RadtransferError

POSITIVE = ("abnormal", "positive", "fractured", "fracture", "malignant", "disease", "diseased", "sick", "1")


def read(folder: Folder, part: str | None) -> Dataset:
    """Read class folders. Without body-part folders the one part is named like the data-set folder.

    Raises:
        RadtransferError: there are not exactly two classes, they differ between body parts, or it is not plain
            which is the positive one.
    """
    del part
    named_after_class = [child for child in _folders(folder.path) if child.name.lower() in POSITIVE]
    roots = {folder.path.name: folder.path} if named_after_class else {c.name: c for c in _folders(folder.path)}
    records: list[Record] = []
    rejected: list[tuple[str, str]] = []
    classes: tuple[str, str] | None = None
    placed = set()
    for name, root in roots.items():
        pair = _classes(root)
        if classes is not None and pair != classes:
            raise RadtransferError(f"{root}: classes {pair}, but elsewhere {classes}; use the same names in each part")
        classes = pair
        for label, class_name in enumerate(pair):
            for path in folder.images(root.relative_to(folder.path).as_posix(), class_name):
                records.append(Record(folder.file(path), label, (name,)))
                placed.add(path)
    images = folder.images()
    rejected += [(folder.file(path), "lies in no class folder") for path in images if path not in placed]
    if classes is None:
        raise RadtransferError(f"{folder.path}: holds no folders; expected one per class, e.g. normal and abnormal")
    records.sort(key=lambda record: record.file)
    notes = ["no patient ids: split by duplicates and near duplicates, not by patient"]
    others = Counter(path.suffix.lower() or "no ending" for path in set(folder.files()) - set(images))
    if others:
        endings = ", ".join(f"{ending}: {count}" for ending, count in others.most_common(5))
        notes.append(f"{others.total()} files are no images and were passed over ({endings})")
    return Dataset("class_folders", folder.path.name, classes, records, rejected, notes)


def _folders(path: Path) -> list[Path]:
    found = (child for child in path.iterdir() if child.is_dir() and child.name != NOT_DATA)
    return sorted(child for child in found if not child.name.startswith("."))


def _classes(root: Path) -> tuple[str, str]:
    names = [child.name for child in _folders(root)]
    positive = [name for name in names if name.lower() in POSITIVE]
    if len(names) != 2 or len(positive) != 1:
        raise RadtransferError(
            f"{root}: found the folders {names}; expected two classes, the positive one named one of "
            f"{', '.join(POSITIVE)}. Rename the folders"
        )
    (negative,) = set(names) - set(positive)
    return negative, positive[0]
