"""GRAZPEDWRI-DX: wrists of children after trauma, with or without a visible fracture.

Nagy et al., Scientific Data 9 (2022) 222, doi 10.1038/s41597-022-01328-z. 16-bit PNG files in ``images`` or in the
published ``images_part1`` to ``images_part4``; ``dataset.csv`` gives patients, labels and flags (1 or empty) by file
name; boxes are YOLO's, in ``folder_structure/yolov5/labels``.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from radtransfer.attributes import Attributes
from radtransfer.datasets.pseudonym import Pseudonyms
from radtransfer.datasets.records import Box, Dataset, Folder, Record
from radtransfer.datasets.rows import read_rows
from radtransfer.datasets.yolo import yolo_boxes
from radtransfer.errors import RadtransferError

IMAGES = ("images", "images_part1", "images_part2", "images_part3", "images_part4")
LABELS = ("folder_structure/yolov5/labels", "yolov5/labels", "labels")
PART = "wrist"
FRACTURE = 3
"""Number of the class ``fracture`` in the YOLO files; the others are no fractures (metal, text, soft tissue, ...)."""
FLAGS = {"cast": "cast", "metal": "hardware", "osteopenia": "osteopenia", "diagnosis_uncertain": "diagnosis_uncertain"}
PROJECTIONS = {"1": "frontal", "2": "lateral", "3": "oblique"}
TEXTS = {"laterality": "side", "gender": "sex", "age": "age", "device_manufacturer": "manufacturer"}
COLUMNS = ("filestem", "patient_id", "study_number", "fracture_visible", "projection", *TEXTS, *FLAGS)
_TRUTH = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1}


def read(folder: Folder, part: str | None) -> Dataset:
    """Read a GRAZPEDWRI-DX folder; patient and study ids leave it as keyed pseudonyms, and so do names of files.

    Raises:
        RadtransferError: images or CSV are missing, the CSV has other columns than published, a file of boxes is not
            in YOLO's form, there are more manufacturers than there may be, or no pseudonym key is set.
    """
    del part
    table: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in read_rows(folder.need("dataset.csv", "grazpedwri"), COLUMNS):
        table[row.cells["filestem"]].append(row.cells)
    there = [name for name in IMAGES if (folder.path / name).is_dir()]
    if not there:
        raise RadtransferError(f"{folder.path}: has none of the folders {', '.join(IMAGES)}; unpack the images there")
    boxes = next((folder.path / name for name in LABELS if (folder.path / name).is_dir()), None)
    pseudonyms = Pseudonyms.from_environment(f"{folder.path.name}, layout grazpedwri")
    images = [path for name in there for path in folder.images(name)]
    stems = Counter(path.stem for path in images)
    records, rejected, conflicts = [], [], []
    attributes = Attributes(str(folder.path))
    for path in images:
        rows = table.get(path.stem, [])
        unfit = _unfit(rows, stems[path.stem])
        if unfit:
            rejected.append((folder.file(path), unfit))
        else:
            annotation = boxes / f"{path.stem}.txt" if boxes else None
            fractures = yolo_boxes(annotation, FRACTURE) if annotation and annotation.is_file() else ()
            records.append(_record(folder.file(path), rows[0], fractures, pseudonyms, attributes))
            if fractures and not records[-1].label:
                conflicts.append(folder.file(path))
    records.sort(key=lambda record: record.file)
    notes = ["labels are per image: a fracture that only another view of the study shows does not count"]
    missing = [name for name in table if name not in stems]
    if missing:
        notes.append(f"{len(missing)} images of dataset.csv are not there")
    if boxes is None:
        notes.append(f"no boxes: none of the folders {', '.join(LABELS)} is there")
    if conflicts:
        notes.append(f"{len(conflicts)} images have fracture boxes, and none by dataset.csv, which was followed")
    return Dataset(
        "grazpedwri",
        folder.path.name,
        ("no_fracture", "fracture"),
        records,
        rejected,
        notes,
        conflicts=frozenset(conflicts),
        called=pseudonyms.of_file,
    )


def _unfit(rows: list[dict[str, str]], images: int) -> str | None:
    """Why an image cannot be used, by its rows and the number of images of its name."""
    if len(rows) != 1:
        return f"dataset.csv has {len(rows)} rows of it" if rows else "not in dataset.csv"
    if images > 1:
        return f"{images} images have this name"
    if not (rows[0]["patient_id"] and rows[0]["study_number"]):
        return "dataset.csv names no patient or no study"
    truth = rows[0]["fracture_visible"]
    return None if truth in _TRUTH else f"fracture_visible is {truth[:40]!r}, expected 1 or nothing"


def _record(
    file: str, row: dict[str, str], fractures: tuple[Box, ...], pseudonyms: Pseudonyms, attributes: Attributes
) -> Record:
    label = _TRUTH[row["fracture_visible"]]
    known = {name: "yes" if _TRUTH.get(row[column]) else "no" for column, name in FLAGS.items()}
    known |= {name: row[column] for column, name in TEXTS.items()} | {"view": PROJECTIONS.get(row["projection"], "")}
    return Record(
        file,
        label,
        (PART,),
        patient_id=pseudonyms.of(row["patient_id"]),
        study_id=pseudonyms.of(f"{row['patient_id']}/{row['study_number']}"),
        boxes=fractures if label else (),
        attributes=attributes.of(known),
    )
