"""A later revision of the data keeps the splits of the one before."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from radtransfer.datasets import phantoms
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.inherit import FILE, Inherited
from radtransfer.preprocess.store import Store
from tests.preprocess.test_preprocess import run

Rows = list[dict[str, str]]


@pytest.fixture
def first(tmp_path: Path) -> tuple[Path, Store, Store]:
    """The first revision: data root with the splits of a run beside the data, and the run's stores."""
    root = tmp_path / "data"
    phantoms.make_phantoms(root / "ph", 60, ("humerus", "knee"), size=96, seed=3)
    target, source = run(root, tmp_path / "first")
    shutil.copy(target.artifact.path / FILE, root / FILE)
    return root, target, source


def splits(*stores: Store) -> dict[str, str]:
    return {
        image: split
        for store in stores
        for image, split in zip(store.manifest["image_id"], store.manifest["split"], strict=True)
    }


def edit(root: Path, change: Callable[[Rows], None]) -> None:
    """Change the table of the phantoms."""
    path = root / "ph" / phantoms.TABLE
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, phantoms.COLUMNS)
        table.writeheader()
        table.writerows(rows)


def patient(store: Store, split: str, label: int = 0) -> str:
    """A patient of a split, the one with most images."""
    table = store.manifest
    mine = table[(table["split"] == split) & (table["label"] == label)]
    return str(mine["patient_id"].value_counts().index[0])


def join(root: Path, one: str, other: str) -> None:
    """It turns out that two patients are one."""

    def change(rows: Rows) -> None:
        for row in rows:
            row["patient"] = one if row["patient"] == other else row["patient"]

    edit(root, change)


def rejected(store: Store) -> dict[str, str]:
    return {entry["file"]: entry["reason"] for entry in store.content["rejected"]}


def test_images_whose_labels_were_unused_keep_what_they_were_dealt_to(
    first: tuple[Path, Store, Store], tmp_path: Path
) -> None:
    root, *stores = first
    fewer = run(root, tmp_path / "fewer", previous_splits=FILE, label_fraction=0.4)
    assert set(splits(fewer[0]).values()) == {"train", "validation", "test", "unused"}
    (root / "again.csv").write_bytes((fewer[0].artifact.path / FILE).read_bytes())
    assert splits(*run(root, tmp_path / "all", previous_splits="again.csv")) == splits(*stores)
    more = run(root, tmp_path / "more", previous_splits="again.csv", label_fraction=0.7)
    for image, split in splits(fewer[0]).items():
        assert split in ("unused", splits(more[0])[image])


def test_old_images_keep_their_splits_and_new_ones_are_dealt(first: tuple[Path, Store, Store], tmp_path: Path) -> None:
    """Three revisions; one file is exported anew, one renamed, and a new image comes of a patient of the test set."""
    root, *stores = first
    before = splits(*stores)
    target = stores[0]
    phantoms.make_phantoms(tmp_path / "more", 40, ("humerus", "knee"), size=96, seed=4)
    with (tmp_path / "more" / phantoms.TABLE).open(newline="", encoding="utf-8") as stream:
        new = list(csv.DictReader(stream))
    for row in new:
        (root / "ph" / row["file"]).with_name("new").mkdir(exist_ok=True)
        moved = Path(row["file"]).parent / "new" / Path(row["file"]).name
        shutil.copy(tmp_path / "more" / row["file"], root / "ph" / moved)
        row["file"], row["patient"] = moved.as_posix(), f"new{row['patient']}"
    tested = patient(target, "test")
    came = next(row for row in new if row["part"] == "humerus" and row["label"] == "normal")
    came["patient"] = tested
    again = target.manifest[target.manifest["split"] == "test"]["image_id"].iloc[0]
    Image.open(root / again).save(root / again, compress_level=9)
    renamed = target.manifest[target.manifest["split"] == "validation"]["image_id"].iloc[0]
    name = Path(renamed).with_name("renamed.png").as_posix()
    (root / renamed).rename(root / name)

    def change(rows: Rows) -> None:
        for row in rows:
            row["file"] = name.removeprefix("ph/") if f"ph/{row['file']}" == renamed else row["file"]
        rows += new

    edit(root, change)
    later = run(root, tmp_path / "second", previous_splits=FILE)
    after = splits(*later)
    assert set(later[0].manifest["sha256"]) & set(target.manifest["sha256"]) != set(target.manifest["sha256"])
    assert after.pop(name) == before.pop(renamed) == "validation"
    assert {image: after[image] for image in before} == before
    assert after[f"ph/{came['file']}"] == "test"
    dealt = [split for image, split in after.items() if image not in before]
    assert len(dealt) == 80 and set(dealt) == {"train", "validation", "test"}
    share = later[0].manifest["split"].value_counts(normalize=True)
    assert abs(share["test"] - 0.2) < 0.05 and abs(share["validation"] - 0.2) < 0.05
    assert any("keep the split that they had in splits.csv; 40 are new" in note for note in later[0].content["notes"])
    shutil.copy(later[0].artifact.path / FILE, root / FILE)
    third = run(root, tmp_path / "third", previous_splits=FILE, seed=5)
    assert splits(*third) == splits(*later)


def test_without_it_everything_is_dealt_anew(first: tuple[Path, Store, Store], tmp_path: Path) -> None:
    root, target, _ = first
    other, _ = run(root, tmp_path / "anew", seed=5)
    assert splits(other) != splits(target)
    kept, _ = run(root, tmp_path / "kept", seed=5, previous_splits=FILE)
    assert splits(kept) == splits(target)


def test_a_group_joined_to_a_test_image_loses_its_training_images(
    first: tuple[Path, Store, Store], tmp_path: Path
) -> None:
    root, target, _ = first
    trained, tested = patient(target, "train"), patient(target, "test")
    lost = set(target.manifest[target.manifest["patient_id"] == trained]["image_id"])
    join(root, tested, trained)
    later, _ = run(root, tmp_path / "second", previous_splits=FILE)
    before, after = splits(target), splits(later)
    assert after == {image: split for image, split in before.items() if image not in lost}
    gone = rejected(later)
    assert set(gone) == lost and all("was in another split in splits.csv than a test image" in gone[x] for x in gone)
    assert later.content["files_found"] == len(later.manifest) + len(gone)
    assert any("1 leakage groups join images of several splits" in note for note in later.content["notes"])


def test_a_group_of_train_and_validation_images_is_train(first: tuple[Path, Store, Store], tmp_path: Path) -> None:
    root, target, _ = first
    trained, validated = patient(target, "train"), patient(target, "validation")
    join(root, trained, validated)
    later, _ = run(root, tmp_path / "second", previous_splits=FILE)
    before, after = splits(target), splits(later)
    moved = {image for image in before if before[image] != after[image]}
    assert moved == set(target.manifest[target.manifest["patient_id"] == validated]["image_id"])
    assert {after[image] for image in moved} == {"train"}


def test_a_former_test_image_does_not_come_back_as_a_source_image(
    first: tuple[Path, Store, Store], tmp_path: Path
) -> None:
    root, target, source = first
    tested = patient(target, "test")

    def change(rows: Rows) -> None:
        for row in rows:
            row["part"] = "knee" if row["patient"] == tested else row["part"]

    edit(root, change)
    _, later = run(root, tmp_path / "second", previous_splits=FILE)
    assert set(later.manifest["image_id"]) == set(source.manifest["image_id"])
    gone = set(target.manifest[target.manifest["patient_id"] == tested]["image_id"])
    assert rejected(later) == dict.fromkeys(gone, "is, or belongs to, a test image of the target in splits.csv")


def test_a_former_source_image_is_never_tested(first: tuple[Path, Store, Store], tmp_path: Path) -> None:
    """In-domain networks have learnt from it, whatever it is called now."""
    root, _, source = first
    patients = sorted(set(source.manifest["patient_id"]))[::2]

    def change(rows: Rows) -> None:
        for row in rows:
            row["part"] = "humerus" if row["patient"] in patients else row["part"]

    edit(root, change)
    moved = set(source.manifest[source.manifest["patient_id"].isin(patients)]["image_id"])
    for seed in (0, 1):
        later, _ = run(root, tmp_path / f"later{seed}", previous_splits=FILE, seed=seed)
        after = splits(later)
        assert len(moved) > 20 and {after[image] for image in moved} == {"train"}
    anew, _ = run(root, tmp_path / "anew")
    assert {splits(anew)[image] for image in moved} > {"train"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role,image_id,sha256\ntarget,a,b\n", "column 'split' is missing"),
        ("role,image_id,sha256,split\ntarget,a,b,tests\n", "row 2: 'tests' is not expected here; did you mean test"),
        ("role,image_id,sha256,split\nTarget,a,b,test\n", "row 2: 'Target' is not expected here; did you mean target"),
        ("role,image_id,sha256,split\nsource,a,b,test\n", "row 2: a source image in the test split"),
        ("role,image_id,sha256,split\ntarget,a,b,test\ntarget,a,c,train\n", "row 3: image 'a' is in train and in test"),
        ("role,image_id,sha256,split\ntarget,,b,test\n", "row 2: image '' has no name or no sha256"),
    ],
)
def test_a_table_that_is_not_as_it_was_written_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RadtransferError, match=words):
        Inherited.read(tmp_path, FILE)


def test_the_table_lies_in_the_data_root(first: tuple[Path, Store, Store], tmp_path: Path) -> None:
    root, *_ = first
    shutil.copy(root / FILE, tmp_path / "outside.csv")
    (root / "link.csv").symlink_to(tmp_path / "outside.csv")
    for name, words in (("../outside.csv", "outside"), ("link.csv", "outside"), ("none.csv", "no such file")):
        with pytest.raises(RadtransferError, match=f"previous_splits: .*{words}"):
            run(root, tmp_path / "out", previous_splits=name)
    assert not (tmp_path / "out" / "target").exists()


def test_what_is_written_is_read(first: tuple[Path, Store, Store]) -> None:
    root, target, source = first
    inherited = Inherited.read(root, FILE)
    for role, store in (("target", target), ("source", source)):
        for row in store.manifest.itertuples():
            assert inherited.splits(role, row.image_id, "another") == {row.split}
            assert inherited.splits(role, "another", row.sha256) == {row.split}
    assert len(pd.read_csv(root / FILE)) == len(target.manifest) + len(source.manifest)
