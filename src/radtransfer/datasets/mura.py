"""MURA v1.1: upper-limb radiographs, normal or abnormal by study.

``{train,valid}/XR_<PART>/patient<id>/study<k>_{positive,negative}/image<i>.png``. ``valid`` is the published test set
of the part that is asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict

from radtransfer.datasets.pseudonym import Pseudonyms
from radtransfer.datasets.records import Dataset, Folder, Record

PATTERN = re.compile(
    r"(?P<official>train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<label>positive|negative)/"
    r"image\d+\.png"
)
PATIENT = re.compile(r"patient\d+")


def read(folder: Folder, part: str | None) -> Dataset:
    """Read a MURA folder; patient and study ids leave it as keyed pseudonyms, in the names of files as well.

    Raises:
        RadtransferError: ``train`` or ``valid`` is missing, or no pseudonym key is set.
    """
    del part
    pseudonyms = Pseudonyms.from_environment(f"{folder.path.name}, layout mura")
    records, rejected = [], []
    for name in ("train", "valid"):
        folder.need(name, "mura")
        for path in folder.images(name):
            found = PATTERN.fullmatch(path.relative_to(folder.path).as_posix())
            if found is None:
                rejected.append((folder.file(path), "not at <set>/XR_<PART>/patient<id>/study<k>_<label>/image<i>.png"))
                continue
            body_part, patient = found["part"].lower(), found["patient"]
            records.append(
                Record(
                    folder.file(path),
                    int(found["label"] == "positive"),
                    (body_part,),
                    patient_id=pseudonyms.of(patient),
                    study_id=pseudonyms.of(f"{patient}/{body_part}/{found['study']}"),
                    official="test" if found["official"] == "valid" else "train",
                )
            )
    records.sort(key=lambda record: record.file)
    notes = ["labels are per study; the official valid folder of the target part is its test split"]
    labels: dict[str | None, set[int]] = defaultdict(set)
    for record in records:
        labels[record.study_id].add(record.label)
    conflicts = frozenset(record.file for record in records if len(labels[record.study_id]) > 1)
    if conflicts:
        notes.append(f"{len(conflicts)} images are of studies that are there as positive and as negative")

    def called(file: str) -> str:
        return PATIENT.sub(lambda found: pseudonyms.of(found[0]), file)

    classes = ("negative", "positive")
    return Dataset("mura", folder.path.name, classes, records, rejected, notes, conflicts=conflicts, called=called)
