"""GRAZPEDWRI-DX in its published layout: files as named by the publisher, columns in the publisher's order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radtransfer import datasets
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.decode import decode

HEADER = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,ao_classification,cast,"
    "diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,device_manufacturer"
)
FRONTAL, LATERAL = "0001_1297860395_01_WRI-L1_M014", "0001_1297860435_01_WRI-L2_M014"
LATER, OTHER = "0001_1299000000_02_WRI-L2_M014", "0002_0354485735_01_WRI-R3_F012"
ROWS = [
    f"{FRONTAL},1,1,1297860395,M,14.1,L,1,1,23r-M/2.1,,,,,,0.144,Siemens",
    f"{LATERAL},1,1,1297860435,M,14.1,L,2,1,23r-M/2.1,,,,1,,0.144,Siemens",
    f"{LATER},1,2,1299000000,M,14.2,L,2,0,23r-M/2.1,1,,1,1.0,1,0.144,Siemens",
    f"{OTHER},2,1,354485735,F,12,R,3,1,,,1,,,,0.144,Agfa",
]
BOXES = "8 0.1 0.1 0.1 0.1\n3 0.5 0.25 0.2 0.1\n4 0.4 0.4 0.1 0.1\n3 0.95 0.5 0.2 0.2\n"
"""Text, fracture, metal, fracture that reaches over the edge."""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    base = tmp_path / "GRAZPEDWRI-DX"
    for part, stem in ((1, FRONTAL), (1, LATERAL), (2, LATER), (4, OTHER)):
        image(base / f"images_part{part}" / f"{stem}.png")
    (base / "dataset.csv").write_text("\n".join([HEADER, *ROWS]))
    labels = base / "folder_structure" / "yolov5" / "labels"
    labels.mkdir(parents=True)
    for stem in (FRONTAL, LATERAL):
        (labels / f"{stem}.txt").write_text(BOXES)
    return base


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(40, 30)
    Image.fromarray(levels).save(path)


def read(base: Path) -> datasets.Dataset:
    return datasets.read("grazpedwri", base.parent, base.name)


def test_the_published_layout_is_read(base: Path) -> None:
    dataset = read(base)
    by_stem = {Path(record.file).stem: record for record in dataset.records}
    assert dataset.classes == ("no_fracture", "fracture") and dataset.parts == ["wrist"]
    # The fracture of the first study shows in one of its two views: labels are per image.
    assert {stem: record.label for stem, record in by_stem.items()} == {FRONTAL: 0, LATERAL: 1, LATER: 1, OTHER: 0}
    assert by_stem[LATERAL].boxes == (pytest.approx((0.4, 0.2, 0.6, 0.3)), pytest.approx((0.85, 0.4, 1.0, 0.6)))
    assert by_stem[FRONTAL].boxes == by_stem[LATER].boxes == ()
    assert dataset.conflicts == {by_stem[FRONTAL].file}  # boxes of a fracture that dataset.csv does not see
    assert "1 images have fracture boxes, and none by dataset.csv, which was followed" in dataset.notes
    known = {stem: dict(one.split("=") for one in record.attributes) for stem, record in by_stem.items()}
    flags = ("hardware", "cast", "osteopenia", "diagnosis_uncertain")
    assert {stem: [flag for flag in flags if its[flag] == "yes"] for stem, its in known.items()} == {
        FRONTAL: [],
        LATERAL: [],
        LATER: ["hardware", "cast", "osteopenia"],
        OTHER: ["diagnosis_uncertain"],
    }
    rest = {name: value for name, value in known[OTHER].items() if name not in flags}
    assert rest == {"view": "oblique", "side": "right", "age": "12-17", "sex": "female", "manufacturer": "Agfa"}
    assert known[LATER]["view"] == "lateral" and known[LATER]["sex"] == "male" and known[LATER]["side"] == "left"
    assert "14.2" not in repr(dataset.records)
    assert by_stem[LATER].file == f"GRAZPEDWRI-DX/images_part2/{LATER}.png"
    assert dataset.rejected == [] and all("not there" not in note for note in dataset.notes)
    decoded = decode(base.parent / by_stem[LATER].file)
    assert decoded.pixels.min() == 0 and decoded.pixels.max() == 255 and "16bit" in decoded.flags


def test_patients_and_studies_leave_as_pseudonyms(base: Path) -> None:
    records = read(base).records
    frontal, lateral, later, other = records
    assert frontal.patient_id == lateral.patient_id == later.patient_id != other.patient_id
    assert frontal.study_id == lateral.study_id != later.study_id
    assert later.study_id != other.study_id  # study 1 and 2 of one patient, study 1 of another
    assert all(len(str(record.patient_id)) == len(str(record.study_id)) == 16 for record in records)


def test_one_folder_of_images_and_labels_beside_it_will_do(base: Path) -> None:
    for part in (1, 2, 4):
        (base / f"images_part{part}").rename(base / "images") if part == 1 else None
    (base / "folder_structure" / "yolov5" / "labels").rename(base / "labels")
    dataset = read(base)
    assert [len(record.boxes) for record in dataset.records] == [0, 2, 0, 0]
    (base / "labels").rename(base / "elsewhere")
    dataset = read(base)
    assert [len(record.boxes) for record in dataset.records] == [0, 0, 0, 0]
    assert any("no boxes" in note for note in dataset.notes)


def test_more_manufacturers_than_there_can_be_are_refused(base: Path) -> None:
    rows = []
    for number in range(21):
        stem = f"{number:04d}_1_01_WRI-L1_M001"
        image(base / "images_part3" / f"{stem}.png")
        rows.append(f"{stem},{number},1,1,M,1,L,1,1,,,,,1,,0.1,{'Ärztin' if number % 2 else 'Doe'} {number}")
    (base / "dataset.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(RadtransferError, match=r"GRAZPEDWRI-DX: more than 20 different texts.*'manufacturer'"):
        read(base)


def test_nothing_is_lost_in_silence(base: Path) -> None:
    image(base / "images_part3" / "0009_1_01_WRI-L1_M001.png")  # in no row
    image(base / "images_part3" / f"{OTHER}.png")  # there twice
    rows = [*ROWS, *(f"{patient:04d}_1_01_WRI-L1_M001,{patient},1,1,M,1,L,1,1,,,,,1,,0.1,X" for patient in range(3, 8))]
    rows[1] = rows[1].replace(",,1,,0.144", ",,maybe,,0.144")
    rows[2] = rows[2].replace(",1,2,", ",,2,", 1)
    (base / "dataset.csv").write_text("\n".join([HEADER, *rows]))
    dataset = read(base)
    assert [Path(record.file).stem for record in dataset.records] == [FRONTAL]
    assert {Path(file).stem: reason for file, reason in dataset.rejected} == {
        "0009_1_01_WRI-L1_M001": "not in dataset.csv",
        LATERAL: "fracture_visible is 'maybe', expected 1 or nothing",
        LATER: "dataset.csv names no patient or no study",
        OTHER: "2 images have this name",
    }
    assert len(dataset.records) + len(dataset.rejected) == 6
    assert "5 images of dataset.csv are not there" in dataset.notes
    (base / "dataset.csv").write_text("\n".join([HEADER, *ROWS, ROWS[0]]))
    assert (f"GRAZPEDWRI-DX/images_part1/{FRONTAL}.png", "dataset.csv has 2 rows of it") in read(base).rejected


def test_a_set_that_is_not_whole_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = base / "folder_structure" / "yolov5" / "labels" / f"{LATERAL}.txt"
    for text in ("3 0.5 0.25 0.2 0.1\n3 0.5 wide 0.2 0.1\n", "3 0.5 0.2 0.2 0.1\n3 nan 0.5 0.2 0.1\n"):
        labels.write_text(text)
        with pytest.raises(RadtransferError, match=rf"{LATERAL}\.txt, line 2: expected 'class cx cy w h'"):
            read(base)
    labels.write_bytes(b"\xff\xfe")
    with pytest.raises(RadtransferError, match="not a text file"):
        read(base)
    (base / "dataset.csv").write_text(HEADER.replace("fracture_visible", "fracture") + "\n" + ROWS[0])
    with pytest.raises(RadtransferError, match="column 'fracture_visible' is missing; did you mean fracture"):
        read(base)
    (base / "dataset.csv").write_text("\n".join([HEADER, *ROWS]))
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(RadtransferError, match=rf"GRAZPEDWRI-DX, layout grazpedwri: has patient ids.*{VARIABLE}"):
        read(base)
    for part in (1, 2, 4):
        (base / f"images_part{part}").rename(base / f"part{part}")
    with pytest.raises(RadtransferError, match="has none of the folders images, images_part1"):
        read(base)
    (base / "dataset.csv").unlink()
    with pytest.raises(RadtransferError, match=r"dataset\.csv: missing; a grazpedwri data set holds it"):
        read(base)
