"""IQ-OTH/NCCD: chest CT slices, normal, benign or malignant.

Alyasriy and AL-Huseiny, Mendeley Data, doi 10.17632/bhmdr45bh2. One folder per class (``Bengin`` is the publisher's
spelling); no case ids, and consecutive file numbers are often slices of one case.
"""

from __future__ import annotations

from radtransfer.datasets.records import Dataset, Folder, Record

FOLDERS = {"normal": "Normal cases", "benign": "Bengin cases", "malignant": "Malignant cases"}
PAIRS = {"normal-benign": ("normal", "benign"), "normal-malignant": ("normal", "malignant")}


def read(folder: Folder, part: str | None) -> Dataset:
    """Read an IQ-OTH/NCCD folder.

    Args:
        folder: where it lies.
        part: class pair, the second one positive; anything else: normal against benign and malignant together.

    Raises:
        RadtransferError: a class folder is missing.
    """
    wanted = PAIRS.get(part or "", tuple(FOLDERS))
    records = []
    for kind, name in FOLDERS.items():
        folder.need(name, "iqothnccd")
        label = int(kind != "normal")
        for path in folder.images(name):
            parts = tuple(pair for pair, kinds in PAIRS.items() if kind in kinds)
            if kind in wanted:
                records.append(Record(folder.file(path), label, parts))
    classes = PAIRS.get(part or "", ("normal", "abnormal"))
    notes = [
        "no case ids: slices of one case are found by their likeness, and some may be missed",
        "window settings differ by class: a grey-level histogram alone tells normal from malignant",
    ]
    records.sort(key=lambda record: record.file)
    return Dataset("iqothnccd", folder.path.name, classes, records, notes=notes, modality="CT", slices=True)
