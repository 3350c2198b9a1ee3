from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from radtransfer import datasets
from radtransfer.datasets.pseudonym import VARIABLE, Pseudonyms
from radtransfer.datasets.yolo import yolo_boxes
from radtransfer.errors import RadtransferError

HEADER = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count,frontal,lateral,oblique"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.fixture
def fracatlas(tmp_path: Path) -> Path:
    base = tmp_path / "FracAtlas"
    touch(base, "images/Fractured/a.jpg", "images/Fractured/b.jpg", "images/Non_fractured/c.jpg")
    touch(base, "images/Non_fractured/stray.jpg", "images/Non_fractured/nopart.jpg")
    rows = ["a.jpg,1,1,0,0,1,1,0,1,1,1,0,0", "b.jpg,0,1,0,0,0,0,0,0,0,0,1,0", "c.jpg,0,0,0,1,0,0,0,0,0,1,0,0"]
    (base / "dataset.csv").write_text("\n".join([HEADER, *rows, "nopart.jpg,0,0,0,0,0,0,0,0,0,1,0,0"]))
    (base / "Annotations/YOLO").mkdir(parents=True)
    (base / "Annotations/YOLO/a.txt").write_text("0 0.5 0.25 0.2 0.1\n0 0.95 0.5 0.2 0.2\n")
    (base / "Annotations/YOLO/c.txt").write_text("")
    return tmp_path


def test_fracatlas_folder_is_the_truth_and_the_table_gives_parts(fracatlas: Path) -> None:
    read = datasets.read("fracatlas", fracatlas, "FracAtlas")
    by_name = {record.file.rpartition("/")[2]: record for record in read.records}
    assert read.classes == ("non_fractured", "fractured")
    assert {name: (record.label, record.parts) for name, record in by_name.items()} == {
        "a.jpg": (1, ("hand", "leg")),
        "b.jpg": (1, ("leg",)),
        "c.jpg": (0, ("shoulder",)),
    }
    assert by_name["a.jpg"].attributes == ("hardware=yes", "several_parts=yes", "several_scans=no", "view=frontal")
    assert by_name["b.jpg"].attributes == ("hardware=no", "several_parts=no", "several_scans=no", "view=lateral")
    assert by_name["a.jpg"].boxes == (
        pytest.approx((0.4, 0.2, 0.6, 0.3)),
        pytest.approx((0.85, 0.4, 1.0, 0.6)),  # clipped to the image
    )
    assert dict(read.rejected) == {
        "FracAtlas/images/Non_fractured/stray.jpg": "not in dataset.csv",
        "FracAtlas/images/Non_fractured/nopart.jpg": "dataset.csv names no body part",
    }
    assert any("contradicts the folder" in note and "b.jpg" in note for note in read.notes)
    assert read.conflicts == {"FracAtlas/images/Fractured/b.jpg"}
    assert read.parts == ["hand", "leg", "shoulder"]


def test_fracatlas_that_is_not_whole_is_named(fracatlas: Path) -> None:
    (fracatlas / "FracAtlas/Annotations/YOLO/a.txt").write_text("0 0.5 0.25 0.2 0.1\n0 0.5 wide 0.2 0.1\n")
    with pytest.raises(RadtransferError, match=r"a\.txt, line 2: expected 'class cx cy w h'"):
        yolo_boxes(fracatlas / "FracAtlas/Annotations/YOLO/a.txt")
    (fracatlas / "FracAtlas/dataset.csv").write_text(HEADER.replace("hip,", ""))
    with pytest.raises(RadtransferError, match="column 'hip' is missing"):
        datasets.read("fracatlas", fracatlas, "FracAtlas")
    (fracatlas / "FracAtlas/dataset.csv").unlink()
    with pytest.raises(RadtransferError, match=r"dataset\.csv: missing; a fracatlas data set holds it"):
        datasets.read("fracatlas", fracatlas, "FracAtlas")


@pytest.fixture
def mura(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    base = tmp_path / "MURA-v1.1"
    touch(base, "train/XR_WRIST/patient00001/study1_positive/image1.png")
    touch(
        base,
        "train/XR_WRIST/patient00001/study2_negative/image1.png",
        "train/XR_ELBOW/patient00001/study1_negative/image1.png",
    )
    touch(base, "valid/XR_HUMERUS/patient11185/study1_negative/image1.png", "train/XR_WRIST/._image.png")
    (base / "train_image_paths.csv").write_text("MURA-v1.1/train/...\n")
    return tmp_path


def test_mura_reads_studies_patients_and_official_split(mura: Path) -> None:
    read = datasets.read("mura", mura, "MURA-v1.1")
    found = [(record.label, record.parts, record.official) for record in read.records]
    assert found == [
        (0, ("elbow",), "train"),
        (1, ("wrist",), "train"),
        (0, ("wrist",), "train"),
        (0, ("humerus",), "test"),
    ]
    elbow, first, second, humerus = read.records
    assert elbow.patient_id == first.patient_id == second.patient_id != humerus.patient_id
    assert len({elbow.study_id, first.study_id, second.study_id, humerus.study_id}) == 4
    assert "patient" not in f"{first.patient_id}{first.study_id}{read.called(first.file)}"
    assert read.called(first.file) == f"MURA-v1.1/train/XR_WRIST/{first.patient_id}/study1_positive/image1.png"
    assert [file for file, _ in read.rejected] == ["MURA-v1.1/train/XR_WRIST/._image.png"]


def test_a_mura_study_with_two_labels_is_a_conflict(mura: Path) -> None:
    base = mura / "MURA-v1.1"
    assert datasets.read("mura", mura, "MURA-v1.1").conflicts == frozenset()
    touch(base, "train/XR_WRIST/patient00001/study1_negative/image2.png")
    read = datasets.read("mura", mura, "MURA-v1.1")
    assert read.conflicts == {
        f"MURA-v1.1/train/XR_WRIST/patient00001/study1_{label}"
        for label in ("positive/image1.png", "negative/image2.png")
    }
    assert "2 images are of studies that are there as positive and as negative" in read.notes


def test_pseudonyms_depend_on_the_key_alone(mura: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = datasets.read("mura", mura, "MURA-v1.1").records
    again = datasets.read("mura", mura, "MURA-v1.1").records
    monkeypatch.setenv(VARIABLE, "another key for this test")
    other = datasets.read("mura", mura, "MURA-v1.1").records
    assert [record.patient_id for record in one] == [record.patient_id for record in again]
    assert not {record.patient_id for record in one} & {record.patient_id for record in other}
    # HMAC-SHA256 of RFC 4231, test case 2.
    assert Pseudonyms(b"Jefe").of("what do ya want for nothing?") == "5bdcc146bf60754e"
    assert "Jefe" not in repr(Pseudonyms(b"Jefe"))


@pytest.mark.parametrize("key", [None, "short"])
def test_patient_ids_without_a_key_are_refused(mura: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    if key is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(RadtransferError, match=rf"MURA-v1\.1.*{VARIABLE}.*export {VARIABLE}="):
        datasets.read("mura", mura, "MURA-v1.1")


def test_iqothnccd_pairs(tmp_path: Path) -> None:
    base = tmp_path / "IQ-OTHNCCD"
    touch(base, "Normal cases/Normal case (1).jpg", "Bengin cases/Bengin case (1).jpg", "Malignant cases/m (1).jpg")
    read = datasets.read("iqothnccd", tmp_path, "IQ-OTHNCCD", "normal-malignant")
    assert read.classes == ("normal", "malignant") and read.modality == "CT" and read.slices
    assert [record.label for record in read.records] == [1, 0]
    both = datasets.read("iqothnccd", tmp_path, "IQ-OTHNCCD")
    assert both.classes == ("normal", "abnormal") and [record.label for record in both.records] == [1, 1, 0]
    assert both.parts == ["normal-benign", "normal-malignant"]
    benign = datasets.read("iqothnccd", tmp_path, "IQ-OTHNCCD", "normal-benign")
    assert benign.classes == ("normal", "benign") and len(benign.records) == 2


def test_class_folders_with_and_without_parts(tmp_path: Path) -> None:
    touch(tmp_path / "flat", "ok/1.png", "ok/deep/2.JPG", "Malignant/3.dcm", "4.png", "ok/readme.txt")
    flat = datasets.read("class_folders", tmp_path, "flat")
    assert flat.classes == ("ok", "Malignant") and flat.parts == ["flat"]
    assert [(record.file, record.label) for record in flat.records] == [
        ("flat/Malignant/3.dcm", 1),
        ("flat/ok/1.png", 0),
        ("flat/ok/deep/2.JPG", 0),
    ]
    assert flat.rejected == [("flat/4.png", "lies in no class folder")]
    touch(tmp_path / "parts", *(f"{part}/{kind}/1.png" for part in ("hip", "knee") for kind in ("normal", "abnormal")))
    parts = datasets.read("class_folders", tmp_path, "parts")
    assert parts.parts == ["hip", "knee"] and len(parts.records) == 4


def test_class_folders_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "odd", "cats/1.png", "dogs/1.png")
    with pytest.raises(RadtransferError, match=r"positive one named one of abnormal, positive"):
        datasets.read("class_folders", tmp_path, "odd")
    touch(tmp_path / "three", "normal/1.png", "abnormal/1.png", "unsure/1.png")
    with pytest.raises(RadtransferError, match="expected two classes"):
        datasets.read("class_folders", tmp_path, "three")
    touch(tmp_path / "mixed", "hip/normal/1.png", "hip/abnormal/1.png", "knee/healthy/1.png", "knee/sick/1.png")
    with pytest.raises(RadtransferError, match="use the same names"):
        datasets.read("class_folders", tmp_path, "mixed")


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "FracAtlas").mkdir()
    with pytest.raises(RadtransferError, match="unknown layout 'fracatlass'; did you mean fracatlas"):
        datasets.read("fracatlass", tmp_path, "FracAtlas")
    with pytest.raises(RadtransferError, match=r"no folder 'Fracatlas', .*did you mean 'FracAtlas'"):
        datasets.read("fracatlas", tmp_path, "Fracatlas")
    with pytest.raises(RadtransferError, match="no such folder; name the folder that holds your data sets"):
        datasets.read("fracatlas", tmp_path / "nowhere", "FracAtlas")
    touch(tmp_path / "empty", "normal/x.txt", "abnormal/x.txt")
    with pytest.raises(RadtransferError, match="no image that the layout 'class_folders' can place"):
        datasets.read("class_folders", tmp_path, "empty")


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "outside", "secret.png")
    touch(tmp_path / "root" / "flat", "ok/1.png", "abnormal/2.png")
    (tmp_path / "root" / "flat" / "ok" / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    read = datasets.read("class_folders", tmp_path / "root", "flat")
    assert [record.file for record in read.records] == ["flat/abnormal/2.png", "flat/ok/1.png"]
    assert read.rejected == [("flat/ok/link.png", "a link that leads out of the data root, or nowhere")]
    (tmp_path / "root" / "way").symlink_to(tmp_path / "outside")
    with pytest.raises(RadtransferError, match="outside the data root"):
        datasets.read("class_folders", tmp_path / "root", "way")


def test_nothing_in_class_folders_is_lost_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that no decoder reads, exports without endings, folders that must not be read, names that are no text."""
    touch(tmp_path / "own", "ok/1.png", "abnormal/2.PNG", "ok/3.tif", "ok/IM0004", "abnormal/IM0005", "ok/deep/6.png")
    read = datasets.read("class_folders", tmp_path, "own")
    assert len(read.records) == 3 and not read.rejected
    assert "3 files are no images and were passed over (no ending: 2, .tif: 1)" in read.notes

    def scandir(path: Any) -> Any:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(RadtransferError, match=r"deep: cannot be read .*make it readable"):
        datasets.read("class_folders", tmp_path, "own")
    monkeypatch.undo()
    Path(os.fsdecode(os.fsencode(tmp_path / "own" / "ok") + b"/m\xfcller.png")).touch()
    with pytest.raises(RadtransferError, match=r"m\\udcfcller\.png': the name of this file is not UTF-8; rename it"):
        datasets.read("class_folders", tmp_path, "own")


def test_dicom_without_an_ending_is_an_image(tmp_path: Path) -> None:
    touch(tmp_path, *(f"own/{folder}/x.png" for folder in ("normal", "abnormal")), "own/normal/README")
    scan = bytes(128) + b"DICM" + bytes(20)
    for name in ("normal/IM0001", "abnormal/1.2.840.10008.77", "abnormal/.IM0002", "normal/scan.tmp"):
        (tmp_path / "own" / name).write_bytes(scan)
    read = datasets.read("class_folders", tmp_path, "own")
    assert [(record.file, record.label) for record in read.records] == [
        ("own/abnormal/1.2.840.10008.77", 1),
        ("own/abnormal/x.png", 1),
        ("own/normal/IM0001", 0),
        ("own/normal/x.png", 0),
    ]
    assert "3 files are no images and were passed over (no ending: 2, .tmp: 1)" in read.notes
    assert Pseudonyms(b"k" * 16).of_file("own/1.2.840.10008.77").count(".") == 0


def test_what_macos_adds_to_archives_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{top}own/{folder}/x.png" for top in ("", "own/__MACOSX/") for folder in ("normal", "abnormal")))
    read = datasets.read("class_folders", tmp_path, "own")
    assert len(read.records) == 2 and not read.rejected and len(read.notes) == 1
