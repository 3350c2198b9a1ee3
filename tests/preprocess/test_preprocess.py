from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from radtransfer.datasets import phantoms
from radtransfer.datasets.pseudonym import VARIABLE, Pseudonyms
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store
from tests.preprocess.test_dicom import dicom


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    phantoms.make_phantoms(root / "ph", 45, ("forearm", "humerus", "knee"), size=96, seed=3)
    return root


def run(root: Path, out: Path, **settings: Any) -> tuple[Store, Store]:
    given = {
        "target_out": out / "target",
        "source_out": out / "source",
        "data_root": root,
        "target_layout": "phantoms",
        "target_path": "ph",
        "target_part": "humerus",
        "source_layout": "phantoms",
        "source_path": "ph",
        "source_parts": [],
        "image_size": 48,
        "test_fraction": 0.2,
        "validation_fraction": 0.2,
        "max_images": 0,
        "seed": 0,
    }
    preprocess(**(given | settings))
    return Store.open(out / "target"), Store.open(out / "source")


def draw(path: Path, case: int, fractured: bool = False, view: int = 0, part: str = "hand") -> Path:
    pixels, _ = phantoms.draw(part, fractured, 0.3, 128, anatomy_seed=(9, case), view_seed=(9, case, view))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_each_image_is_tested_in_one_fold(root: Path, tmp_path: Path) -> None:
    tested: list[str] = []
    for number in (1.0, 2, 3):
        target, source = run(root, tmp_path / str(number), test_fold=[number, 3.0])
        table = target.manifest
        assert f"the test images are fold {int(number)} of 3" in target.content["notes"]
        assert set(source.manifest["split"]) == {"train", "validation"}
        assert abs((table["split"] == "validation").mean() - 0.2) < 0.05
        tested += table.loc[table["split"] == "test", "image_id"].tolist()
    assert sorted(tested) == table["image_id"].tolist()


def test_label_fractions_share_test_images_and_source_and_are_nested(root: Path, tmp_path: Path) -> None:
    stores = {share: run(root, tmp_path / str(share), label_fraction=share) for share in (0.3, 0.6, 1)}
    tables = {share: target.manifest.set_index("image_id") for share, (target, _) in stores.items()}
    assert len({source.artifact.digest for _, source in stores.values()}) == 1
    used = {share: set(table.index[table["split"].isin(("train", "validation"))]) for share, table in tables.items()}
    assert used[0.3] < used[0.6] < used[1]
    for share, table in tables.items():
        assert (table["split"] == "test").equals(tables[1]["split"] == "test")
        learnt = table["split"].isin(("train", "validation"))
        assert table["split"][learnt].equals(tables[1]["split"][learnt])  # less, and nothing in another place
        assert set(table["split"][~learnt]) == {"test"} | ({"unused"} if share < 1 else set())
        for split in ("train", "validation"):
            whole, part = ((one["split"] == split).sum() for one in (tables[1], table))
            assert abs(part - share * whole) <= 4
            assert set(table["label"][table["split"] == split]) == {0, 1}
        content = stores[share][0].content
        assert content["label_fraction"] == share
        assert any(note.startswith("label_fraction") for note in content["notes"]) == (share < 1)
    unused = tables[0.3].index[tables[0.3]["split"] == "unused"]
    assert stores[0.3][0].content["counts"]["unused"].keys() == stores[0.3][0].content["counts"]["train"].keys()
    assert len(stores[0.3][0].rows("train", "validation", "test")) == len(tables[1]) - len(unused)
    listed = pd.read_csv(tmp_path / "0.3" / "target" / "splits.csv").query("role == 'target'").set_index("image_id")
    assert listed["split"].to_dict() == tables[0.3]["split"].to_dict()
    assert listed["dealt_to"].to_dict() == tables[1]["split"].to_dict()


def test_a_label_fraction_that_cannot_be_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match=r"label_fraction 0\.001 leaves a class without images"):
        run(root, tmp_path, label_fraction=0.001)
    with pytest.raises(RadtransferError, match=r"label_fraction: 1\.5 is out of range"):
        run(root, tmp_path, label_fraction=1.5)
    assert not list(tmp_path.iterdir())


def test_the_source_is_the_same_in_every_fold(tmp_path: Path) -> None:
    """So one pre-training serves all folds: what shares a group with any target image is left out, tested or not."""
    place = folders(tmp_path)
    for number, path in enumerate(sorted((place / "hand" / "normal").glob("*.png"))[:6]):
        shutil.copy(path, place / "knee" / "normal" / f"{7000 + 50 * number}.png")
    made = [run(tmp_path, tmp_path / f"out{number}", **CF, test_fold=[number, 3]) for number in (1, 2, 3)]
    assert len({target.artifact.digest for target, _ in made}) == 3
    assert len({source.artifact.digest for _, source in made}) == 1
    for target, source in made:
        assert sum("duplicate of the target image" in one["reason"] for one in source.content["rejected"]) >= 6
        assert not set(source.manifest["group_id"]) & set(target.manifest["group_id"])


def test_both_stores_hold_what_their_description_says(root: Path, tmp_path: Path) -> None:
    target, source = run(root, tmp_path)
    for store, role, splits in (
        (target, "target", ["train", "validation", "test"]),
        (source, "source", ["train", "validation"]),
    ):
        content, table = store.content, store.manifest
        assert content["role"] == role and list(content["counts"]) == splits
        assert content["synthetic"] is True and content["grouping"] == "patient"
        assert content["classes"] == {"0": "normal", "1": "fractured"} and content["positive_class"] == "fractured"
        assert content["images"] == len(table) == len(store.images) == store.content["files_found"]
        counted = Counter(zip(table["split"], table["label_name"], strict=True))
        assert content["counts"] == {s: {c: counted[s, c] for c in ("normal", "fractured")} for s in splits}
        assert content["groups"] == table.groupby("split")["group_id"].nunique().to_dict()
        assert table["image_id"].is_unique and table["image_id"].is_monotonic_increasing
        assert table["patient_id"].notna().all()
        for k in (0, 7):
            pixels = decode(root / table["source_file"][k]).pixels
            assert pixels.shape == (table["height"][k], table["width"][k])
            np.testing.assert_array_equal(store.images[k], letterbox(pixels, 48)[0])
    assert set(target.manifest["body_part"]) == {"humerus"} and len(target.manifest) == 45
    assert set(source.manifest["body_part"]) == {"forearm", "knee"} and len(source.manifest) == 90
    assert not set(target.manifest["group_id"]) & set(source.manifest["group_id"])
    for boxes, label in zip(target.manifest["boxes"], target.manifest["label"], strict=True):
        assert len(boxes) == label
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 48 and 0 <= y0 < y1 <= 48


def test_same_seed_same_bytes_other_seed_other_splits(root: Path, tmp_path: Path) -> None:
    first, again, other = (run(root, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for k in (0, 1):
        assert first[k].artifact.digest == again[k].artifact.digest
        for name in ("images.npy", "manifest.parquet", "rejected.csv"):
            assert (first[k].artifact.path / name).read_bytes() == (again[k].artifact.path / name).read_bytes()
        assert first[k].manifest["split"].tolist() != other[k].manifest["split"].tolist()


def test_the_cap_leaves_out_whole_groups_and_lists_them(root: Path, tmp_path: Path) -> None:
    full, _ = run(root, tmp_path / "full")
    target, source = run(root, tmp_path / "capped", max_images=30)
    for store in (target, source):
        assert 25 <= len(store.manifest) <= 30
        assert store.content["files_found"] == len(store.manifest) + len(store.content["rejected"])
        assert {entry["reason"] for entry in store.content["rejected"]} == {"left out by max_images"}
        assert 0.3 < store.manifest["label"].mean() < 0.6
    sizes = full.manifest["group_id"].value_counts()
    for group, size in target.manifest["group_id"].value_counts().items():
        assert size == sizes[group]


def folders(root: Path, cases: int = 40) -> Path:
    """Class folders of two parts; cases alternate between the classes."""
    for k in range(cases):
        draw(root / "cf" / "hand" / ("normal", "abnormal")[k % 2] / f"{1000 + 50 * k}.png", k, bool(k % 2))
        draw(root / "cf" / "knee" / ("normal", "abnormal")[k % 2] / f"{1000 + 50 * k}.png", k, bool(k % 2), part="knee")
    return root / "cf"


CF = {
    "target_layout": "class_folders",
    "target_path": "cf",
    "target_part": "hand",
    "source_layout": "class_folders",
    "source_path": "cf",
}


def test_duplicates_stay_together_and_out_of_the_source(tmp_path: Path) -> None:
    place = folders(tmp_path)
    original = place / "hand" / "normal" / "1000.png"
    shutil.copy(original, place / "hand" / "normal" / "9000.png")  # the same file
    pixels = np.array(Image.open(original))
    Image.fromarray(pixels).convert("RGB").save(place / "hand" / "normal" / "9500.png")  # the same pixels
    marked = pixels.copy()
    marked[8:16, 8:24] = 255
    Image.fromarray(marked).save(place / "knee" / "normal" / "9900.png")  # marked, under another part
    seen: set[str] = set()
    for seed in range(4):
        target, source = run(tmp_path, tmp_path / f"out{seed}", **CF, seed=seed)
        table = target.manifest.set_index("image_id")
        three = [f"cf/hand/normal/{number}.png" for number in (1000, 9000, 9500)]
        assert table.loc[three, "group_id"].nunique() == 1 and table.loc[three, "split"].nunique() == 1
        seen.add(table.loc[three[0], "split"])
        assert source.content["rejected"] == [
            {
                "file": "cf/knee/normal/9900.png",
                "problem": "leak",
                "reason": "duplicate or near duplicate of the target image cf/hand/normal/1000.png",
            }
        ]
        assert source.content["files_found"] == 41 and len(source.manifest) == 40
        assert source.content["grouping"] == "near_duplicate"


def test_what_cannot_be_decoded_is_listed_and_counted(tmp_path: Path) -> None:
    place = folders(tmp_path, 24)
    (place / "hand" / "abnormal" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(place / "hand" / "normal" / "black.png")
    (place / "stray.jpg").write_bytes(b"x")
    (place / "notes.txt").write_text("not an image")
    target, source = run(tmp_path, tmp_path / "out", **CF)
    reasons = {entry["file"]: entry["reason"] for entry in target.content["rejected"]}
    assert set(reasons) == {"cf/hand/abnormal/bad.png", "cf/hand/normal/black.png", "cf/stray.jpg"}
    assert "header is damaged" in reasons["cf/hand/abnormal/bad.png"]
    assert "every pixel is 0" in reasons["cf/hand/normal/black.png"]
    assert str(tmp_path) not in str(reasons)
    assert target.content["files_found"] == 27 and len(target.manifest) == 24
    assert source.content["rejected"] == [] and source.content["files_found"] == 24
    table = pd.read_csv(tmp_path / "out" / "target" / "rejected.csv")
    assert dict(zip(table["file"], table["reason"], strict=True)) == reasons
    assert table["problem"].tolist() == ["unreadable", "constant", "unplaced"]


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with a file for each problem that there can be in them (no label conflict)."""
    root = tmp_path_factory.mktemp("trouble")
    place = folders(root, 24)
    normal = place / "hand" / "normal"
    (normal / "text.png").write_text("no image")
    (normal / "nothing.png").touch()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(normal / "black.png")
    (place / "stray.jpg").write_bytes(b"x")
    shutil.copy(normal / "1000.png", place / "hand" / "abnormal" / "9000.png")  # the same with the other label
    shutil.copy(normal / "1100.png", place / "knee" / "normal" / "9100.png")  # a target image in the source
    colourful = np.array(Image.open(draw(normal / "9200.png", 300)).convert("RGB"))
    colourful[:40, :, 0] = 255
    Image.fromarray(colourful).save(normal / "9200.png")
    whole = Image.open(draw(root / "drawn.png", 301))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole.save(normal / "9300.jpg", exif=exif)
    whole = Image.open(draw(root / "drawn.png", 302))
    whole.save(normal / "9400.jpg")
    (normal / "9400.jpg").write_bytes((normal / "9400.jpg").read_bytes()[:-16])
    return root


PROBLEM_OF = {
    "cf/hand/normal/text.png": "unreadable",
    "cf/hand/normal/nothing.png": "empty",
    "cf/hand/normal/black.png": "constant",
    "cf/stray.jpg": "unplaced",
    "cf/knee/normal/9100.png": "leak",
}
FLAGS_OF = {
    "cf/hand/normal/1000.png": ["unlike_duplicate"],
    "cf/hand/abnormal/9000.png": ["unlike_duplicate"],
    "cf/hand/normal/9200.png": ["colour"],
    "cf/hand/normal/9300.jpg": ["exif_rotated"],
    "cf/hand/normal/9400.jpg": ["truncated"],
}


def balanced(*stores: Store) -> None:
    for store in stores:
        assert store.content["files_found"] == len(store.manifest) + len(store.content["rejected"])


def test_every_problem_is_repaired_or_listed_by_its_name(trouble: Path, tmp_path: Path) -> None:
    stores = run(trouble, tmp_path / "out", **CF)
    balanced(*stores)
    rejected = {one["file"]: one["problem"] for store in stores for one in store.content["rejected"]}
    assert rejected == PROBLEM_OF
    table = stores[0].manifest.set_index("image_id")
    assert {name: list(flags) for name, flags in table["flags"].items() if len(flags)} == FLAGS_OF
    assert table.loc[["cf/hand/normal/1000.png", "cf/hand/abnormal/9000.png"], "split"].nunique() == 1
    levels = stores[0].content["grey_levels"]
    assert set(levels) == {"normal", "abnormal"}
    for figures in levels.values():
        assert all(0 <= low <= middle <= high <= 255 for low, middle, high in figures.values())


def test_what_is_to_be_skipped_is_left_out_and_listed(trouble: Path, tmp_path: Path) -> None:
    skipped = dict.fromkeys(("truncated", "exif_rotated", "colour", "unlike_duplicate"), "skip")
    stores = run(trouble, tmp_path / "out", **CF, on_problem=skipped)
    balanced(*stores)
    rejected = {one["file"]: one["problem"] for store in stores for one in store.content["rejected"]}
    assert rejected == PROBLEM_OF | {file: flags[0] for file, flags in FLAGS_OF.items()}
    assert not any(len(flags) for flags in stores[0].manifest["flags"])


@pytest.mark.parametrize(
    ("problem", "files"),
    [
        *((problem, [file]) for file, problem in PROBLEM_OF.items()),
        ("unlike_duplicate", ["cf/hand/abnormal/9000.png", "cf/hand/normal/1000.png"]),
        *((flags[0], [file]) for file, flags in list(FLAGS_OF.items())[2:]),
    ],
)
def test_a_policy_of_fail_stops_before_anything_is_written(
    trouble: Path, tmp_path: Path, problem: str, files: list[str]
) -> None:
    with pytest.raises(RadtransferError, match=rf"{len(files)} files? with the problem '{problem}'") as stopped:
        run(trouble, tmp_path / "out", **CF, on_problem={problem: "fail"})
    assert ", ".join(files) in str(stopped.value) and str(trouble) not in str(stopped.value)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_an_error_names_the_first_files_only(tmp_path: Path) -> None:
    place = folders(tmp_path, 24)
    for number in range(7):
        (place / "hand" / "normal" / f"n{number}.png").touch()
    with pytest.raises(RadtransferError, match=r"7 files .*n4\.png and 2 more; put them right or remove them"):
        run(tmp_path, tmp_path / "out", **CF, on_problem={"empty": "fail"})


def mura(root: Path) -> None:
    """MURA's layout: 30 humerus and 30 wrist patients to train on, 8 of each to test on."""
    for part in ("humerus", "wrist"):
        for patient in range(38):
            label = ("negative", "positive")[patient % 2]
            where = "valid" if patient >= 30 else "train"
            number = patient + (100 if part == "wrist" else 0)
            for image in range(1 + patient % 2):
                study = root / "MURA-v1.1" / where / f"XR_{part.upper()}" / f"patient{number:05d}" / f"study1_{label}"
                draw(study / f"image{image + 1}.png", number, bool(patient % 2), image, "humerus")


MURA = {
    "target_layout": "mura",
    "target_path": "MURA-v1.1",
    "target_part": "humerus",
    "source_layout": "mura",
    "source_path": "MURA-v1.1",
}


def test_mura_official_test_set_is_kept_and_its_patients_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    mura(tmp_path)
    base = tmp_path / "MURA-v1.1"
    # A test patient's wrist in the source, and a test image that also lies in the training folder.
    draw(base / "train/XR_WRIST/patient00031/study1_positive/image1.png", 500, True, part="knee")
    twin = base / "train/XR_HUMERUS/patient00002/study1_negative/image7.png"
    shutil.copy(base / "valid/XR_HUMERUS/patient00030/study1_negative/image1.png", twin)
    with pytest.raises(RadtransferError, match=r"MURA.* has a test set of its publisher's; leave test_fold out"):
        run(tmp_path, tmp_path / "folds", test_fold=[1, 5], **MURA)
    target, source = run(tmp_path, tmp_path / "out", **MURA)
    table = target.manifest
    official = table["image_id"].str.contains("/valid/")
    assert (table.loc[official, "split"] == "test").all() and official.sum() == 12
    assert set(table.loc[~official, "split"]) == {"train", "validation"}
    share = (table.loc[~official, "split"] == "validation").mean()
    assert 0.12 < share < 0.28
    of = Pseudonyms.from_environment("MURA").of
    rejected = {entry["file"]: entry["reason"] for entry in target.content["rejected"]}
    assert rejected[f"MURA-v1.1/train/XR_HUMERUS/{of('patient00002')}/study1_negative/image7.png"] == (
        "same leakage group as an image of the official test set"
    )
    assert target.content["grouping"] == "patient"
    gone = {entry["file"]: entry["reason"] for entry in source.content["rejected"]}
    test_patient = of("patient00031")
    assert list(gone) == [f"MURA-v1.1/train/XR_WRIST/{test_patient}/study1_positive/image1.png"]
    assert f"same patient as the target image MURA-v1.1/valid/XR_HUMERUS/{test_patient}/" in next(iter(gone.values()))
    assert source.manifest["image_id"].str.contains("/valid/").sum() == 12
    assert table["study_id"].nunique() == 37  # patient 2 went with its twin
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 10
    assert "patient0" not in table.to_csv() + source.manifest.to_csv()  # Parquet packs its columns
    assert not any(re.search(rb"patient\d", path.read_bytes()) for path in written)
    again, _ = run(tmp_path, tmp_path / "again", **MURA)
    assert again.artifact.digest == target.artifact.digest


def test_a_patient_is_known_again_in_another_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hospital's exports, target and source in folders of their own, have one patient under one id."""
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    mura(tmp_path)
    for parts in (tmp_path / "MURA-v1.1").glob("*/XR_WRIST"):
        shutil.move(parts, tmp_path / "exported" / parts.parent.name / "XR_WRIST")
    draw(tmp_path / "exported/train/XR_WRIST/patient00031/study1_positive/image1.png", 500, True, part="knee")
    target, source = run(tmp_path, tmp_path / "out", **(MURA | {"source_path": "exported"}))
    of = Pseudonyms.from_environment("MURA").of
    (gone,) = source.content["rejected"]
    assert gone["file"] == f"exported/train/XR_WRIST/{of('patient00031')}/study1_positive/image1.png"
    assert gone["reason"].startswith("same patient as the target image")
    assert not set(target.manifest["group_id"]) & set(source.manifest["group_id"])


def test_ct_is_stored_in_the_window_asked_for(tmp_path: Path) -> None:
    """Two scanners that store and window unlike give like images; the store says which window it was."""
    rows = ["file,label"]
    for k in range(40):
        anatomy = np.asarray(Image.open(draw(tmp_path / "drawn.png", k, bool(k % 2)))).astype(np.int32) * 8 - 1024
        slope, intercept = ((1, -1024), (2, -2048))[k // 2 % 2]
        tags = {"Modality": "CT", "RescaleSlope": slope, "RescaleIntercept": intercept}
        tags |= {"WindowCenter": 40 + 300 * (k // 2 % 2), "WindowWidth": 400}
        (tmp_path / "ct").mkdir(exist_ok=True)
        dicom(tmp_path / "ct" / f"{1000 + 50 * k}.dcm", ((anatomy - intercept) // slope).astype(np.int16), **tags)
        rows.append(f"{1000 + 50 * k}.dcm,{('normal', 'nodule')[k % 2]}")
    (tmp_path / "ct" / "labels.csv").write_text("\n".join(rows) + "\n")
    folders(tmp_path)
    table = {"table": "labels.csv", "file": "file", "label": "label", "positive": ["nodule"], "negative": ["normal"]}
    asked = {"target_layout": "table", "target_path": "ct", "target_part": "ct", "target_table": table}
    asked |= {"target_table": table | {"modality": "CT"}, "source_layout": "class_folders", "source_path": "cf"}
    target, _ = run(tmp_path, tmp_path / "out", ct_window=[-300, 1400], **asked)
    assert target.content["ct_window"] == [-300, 1400]
    assert (target.content["modality"], target.content["dicom_modalities"]) == ("CT", ["CT"])
    assert target.content["flags"]["dicom"] == target.content["flags"]["hounsfield"] == 40
    for row, image in zip(target.manifest.itertuples(), target.images, strict=True):
        number = (int(Path(row.image_id).stem) - 1000) // 50
        drawn = np.asarray(Image.open(draw(tmp_path / "drawn.png", number, bool(number % 2)))).astype(float) * 8 - 1024
        wanted = np.clip((drawn + 1000) / 1400, 0, 1) * 255
        assert np.abs(letterbox(np.rint(wanted).astype(np.uint8), 48)[0].astype(int) - image).max() <= 3
    with pytest.raises(RadtransferError, match="CT window: 1 numbers"):
        run(tmp_path, tmp_path / "odd", ct_window=[40], **asked)


def test_borders_are_cut_from_the_stored_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes go along, and what an unfinished run without it had decoded is not taken up."""
    rows, drawn = ["file,label,boxes"], {}
    for k in range(40):
        pixels, found = phantoms.draw("hand", bool(k % 2), 0.3, 96, anatomy_seed=(9, k), view_seed=(9, k, 0))
        height, width = pixels.shape
        path = tmp_path / "own" / f"{1000 + 50 * k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.pad(pixels, ((30, 0), (0, 40)), constant_values=255)).save(path)
        boxes = [(x0 * width, y0 * height + 30, x1 * width, y1 * height + 30) for x0, y0, x1, y1 in found]
        if k % 2:
            drawn[f"own/{path.name}"] = boxes[0]
            boxes.append((width + 5, 40, width + 20, 60))
        text = ";".join(",".join(str(edge) for edge in np.divide(box, (width + 40, height + 30) * 2)) for box in boxes)
        rows.append(f'{path.name},{("normal", "broken")[k % 2]},"{text}"')
    (tmp_path / "own" / "labels.csv").write_text("\n".join(rows) + "\n")
    folders(tmp_path)
    asked = {"target_layout": "table", "target_path": "own", "target_part": "own"}
    asked |= {"source_layout": "class_folders", "source_path": "cf"}
    asked["target_table"] = {"table": "labels.csv", "file": "file", "label": "label", "boxes": "boxes"}
    asked["target_table"] |= {"positive": ["broken"], "negative": ["normal"]}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("radtransfer.preprocess.store.write", mock.Mock(side_effect=KeyboardInterrupt))
        run(tmp_path, tmp_path / "out", **asked)
    cropped, _ = run(tmp_path, tmp_path / "out", crop_border=True, **asked)
    whole, _ = run(tmp_path, tmp_path / "whole", **asked)
    assert (cropped.content["crop_border"], whole.content["crop_border"]) == (True, False)
    assert cropped.content["flags"]["cropped"] == 40 and "cropped" not in whole.content["flags"]
    assert cropped.content["grey_levels"] == whole.content["grey_levels"]
    for column in ("image_id", "group_id", "split", "width", "height"):
        assert cropped.manifest[column].tolist() == whole.manifest[column].tolist()
    for row, full, image in zip(
        cropped.manifest.itertuples(), whole.manifest.itertuples(), cropped.images, strict=True
    ):
        square, place = letterbox(decode(tmp_path / row.image_id).pixels, 48, crop_border=True)
        np.testing.assert_array_equal(image, square)
        assert row.shown.tolist() == [place.x0, place.y0, place.x1, place.y1]
        assert place.y0 >= 30 and place.x1 <= row.width - 40
        assert full.shown.tolist() == [0, 0, row.width, row.height]
        assert len(row.boxes) == row.label and len(full.boxes) == 2 * row.label
        if row.label:
            assert row.boxes[0].tolist() == pytest.approx(place.box(*drawn[row.image_id]), abs=1e-6)
    assert "20 boxes hold nothing of what is shown of their images and are left out" in cropped.content["notes"]


def test_patients_are_not_joined_by_likeness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where patients are known they decide; views of one patient go together however little alike they are."""
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    mura(tmp_path)
    target, _ = run(tmp_path, tmp_path / "out", **MURA)
    assert target.manifest["group_id"].nunique() == 38
    assert (target.manifest.groupby("patient_id")["group_id"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_layout": "phantom"}, "unknown layout 'phantom'; did you mean phantoms"),
        ({"target_path": "phs"}, r"no folder 'phs', where the phantoms data set is expected; did you mean 'ph'\?"),
        ({"data_root": Path("nowhere")}, "data root .*nowhere: no such folder"),
        ({"target_path": ".."}, "outside the data root"),
        ({"target_part": "humerous"}, "target part 'humerous' is not in ph .*did you mean humerus"),
        ({"target_part": "elephant"}, "known: forearm, humerus, knee"),
        ({"source_parts": ["knees"]}, "source part 'knees' .*did you mean knee"),
        ({"source_parts": ["humerus"]}, "it is the target's own"),
        ({"max_images": 2}, "class '.*' has .* images"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(
    root: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(RadtransferError, match=words):
        run(root, tmp_path / "out", **settings)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "out"])


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    place = folders(tmp_path, 12)
    shutil.rmtree(place / "hand" / "abnormal")
    (place / "hand" / "abnormal").mkdir()
    with pytest.raises(RadtransferError, match="target cf, hand: class 'abnormal' has no images"):
        run(tmp_path, tmp_path / "out", **CF)
    assert not (tmp_path / "out" / "target").exists() and not (tmp_path / "out" / "source").exists()


def test_two_data_sets_may_differ_in_layout_and_class_names(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "ph", tmp_path / "ph")
    folders(tmp_path, 24)
    target, source = run(tmp_path, tmp_path / "out", **(CF | {"source_layout": "phantoms", "source_path": "ph"}))
    assert target.content["positive_class"] == "abnormal" and source.content["positive_class"] == "fractured"
    assert len(source.manifest) == 135 and source.content["part"] == "forearm+humerus+knee"
    _, some = run(
        tmp_path, tmp_path / "some", **(CF | {"source_layout": "phantoms", "source_path": "ph"}), source_parts=["knee"]
    )
    assert set(some.manifest["body_part"]) == {"knee"}
    assert "90 images of other body parts were not asked for" in some.content["notes"]


def test_both_stores_in_one_folder_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="named for both stores"):
        run(root, tmp_path, source_out=tmp_path / "target")
    assert not any(tmp_path.iterdir())


def tabled(root: Path) -> tuple[Path, list[dict[str, str]]]:
    """A folder as a hospital exports it: PNG (8 and 16 bit), JPEG and DICOM of two parts, two views a patient."""
    place, rows = root / "own", []
    for part in ("hand", "knee"):
        for case in range(30):
            for view in range(2):
                number, label = case + (100 if part == "knee" else 0), case % 2
                suffix = (".png", "-deep.png", ".jpg", "")[case % 4]
                path = place / part / f"{number}-{view}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels, _ = phantoms.draw(
                    part, bool(label), 0.3, 96, anatomy_seed=(5, number), view_seed=(5, number, view)
                )
                if suffix == "":
                    dicom(path, pixels, PatientID="secret-id")
                else:
                    Image.fromarray(pixels.astype(np.uint16) * 16 if "deep" in suffix else pixels).save(path)
                rows.append(
                    {
                        "path": path.relative_to(place).as_posix(),
                        "finding": ("normal", "fracture")[label],
                        "region": part,
                        "pid": f"{number:05d}",
                        "accession": str(view),
                        "fold": "test" if case >= 22 else "train",
                        "where": "0.25,0.25,0.5,0.75" if label else "",
                    }
                )
    return place, rows


TABLE: dict[str, Any] = {
    "table": "labels.csv",
    "file": "path",
    "label": "finding",
    "positive": ["fracture"],
    "negative": ["normal"],
    "body_part": "region",
}
OWN = {
    "target_layout": "table",
    "target_path": "own",
    "target_part": "hand",
    "source_layout": "table",
    "source_path": "own",
}


def test_a_table_with_patients_and_an_official_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    place, rows = tabled(tmp_path)
    draw(place / "hand" / "forgotten.png", 900)
    rows.append(rows[0] | {"path": "hand/nowhere.png"})
    pd.DataFrame(rows).to_csv(place / "labels.csv", index=False)
    columns = TABLE | {"patient": "pid", "study": "accession", "split": "fold", "boxes": "where"}
    target, source = run(tmp_path, tmp_path / "out", **OWN, target_table=columns, source_table=columns)
    named = Pseudonyms.from_environment("own").of_file
    table = target.manifest
    assert len(table) == 60 and len(source.manifest) == 60
    assert target.content["files_found"] == 62 and {
        entry["file"]: entry["reason"] for entry in target.content["rejected"]
    } == {
        named("own/hand/forgotten.png"): "no row of labels.csv names it",
        "own/labels.csv, row 122": "the file is not there, or a link that leads out of the data root",
    }
    assert source.content["files_found"] == 60 and source.content["rejected"] == []
    names = table["image_id"].map({named(f"own/{row['path']}"): int(row["pid"]) for row in rows})
    assert (table.loc[names >= 22, "split"] == "test").all()
    assert set(table.loc[names < 22, "split"]) == {"train", "validation"}
    assert table["patient_id"].nunique() == 30 and table["study_id"].nunique() == 60
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    assert {flag for own in table["flags"] for flag in own} == {"16bit", "dicom"}
    for boxes, label, width, height in zip(
        table["boxes"], table["label"], table["width"], table["height"], strict=True
    ):
        assert len(boxes) == label
        if label:
            scale = 48 / max(width, height)
            assert boxes[0][2] - boxes[0][0] == pytest.approx(0.25 * width * scale, abs=1)
            assert boxes[0][3] - boxes[0][1] == pytest.approx(0.5 * height * scale, abs=1)
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert made and not any(b"secret" in path.read_bytes().lower() for path in made)
    listed = (tmp_path / "out" / "target" / "rejected.csv").read_text() + table.to_csv()
    assert "hand/" not in listed and not re.search(r"\b000\d\d\b", listed)
    with pytest.raises(RadtransferError, match="2 files with the problem 'unplaced'") as stopped:
        run(
            tmp_path,
            tmp_path / "no",
            **OWN,
            target_table=columns,
            source_table=columns,
            on_problem={"unplaced": "fail"},
        )
    assert named("own/hand/forgotten.png") in str(stopped.value) and "forgotten" not in str(stopped.value)
    settings = target.artifact.made["settings"]
    assert settings["target"]["table"] == columns and settings["source"]["table"] == columns
    again, _ = run(tmp_path, tmp_path / "again", **OWN, target_table=columns, source_table=columns)
    assert again.artifact.digest == target.artifact.digest


def test_without_patients_a_study_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of one study are not alike enough to be found as near duplicates, and yet they are of one patient."""
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    place, rows = tabled(tmp_path)
    for row in rows:
        row["accession"] = row["pid"]
    pd.DataFrame([row | {"region": "hand"} for row in rows]).to_csv(place / "all.csv", index=False)
    pd.DataFrame([row for row in rows if row["region"] == "hand"]).to_csv(place / "labels.csv", index=False)
    columns = TABLE | {"study": "accession"}
    target, source = run(
        tmp_path,
        tmp_path / "out",
        **OWN,
        target_table=columns,
        source_table=columns | {"table": "all.csv"},
    )
    assert (target.manifest.groupby("study_id")["split"].nunique() == 1).all()
    assert target.manifest["group_id"].str.startswith("study-").all() and target.content["grouping"] == "near_duplicate"
    # The source's table is another, which has the target's images too: they stay the target's.
    named = Pseudonyms.from_environment("own").of_file
    assert set(source.manifest["image_id"]) == {named(f"own/{row['path']}") for row in rows if row["region"] == "knee"}
    reasons = {entry["reason"].partition(" the target image")[0] for entry in source.content["rejected"]}
    assert reasons == {"same study as"} and len(source.content["rejected"]) == 60


def test_a_group_without_an_id_is_named_under_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a file may hold an id; a plain hash of it could be found by trying all ids."""
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    place, rows = tabled(tmp_path)
    pd.DataFrame([row | {"accession": ""} for row in rows]).to_csv(place / "labels.csv", index=False)
    columns = {key: value for key, value in TABLE.items() if key != "patient"} | {"study": "accession"}
    target, source = run(tmp_path, tmp_path / "out", **OWN, target_table=columns, source_table=columns)
    groups = {*target.manifest["group_id"], *source.manifest["group_id"]}
    assert len(groups) > 20 and all(group.startswith("image-") for group in groups)
    paths = [f"{folder}{row['path']}" for row in rows for folder in ("", "own/")]
    assert not groups & {f"image-{hashlib.sha256(path.encode()).hexdigest()[:16]}" for path in paths}
