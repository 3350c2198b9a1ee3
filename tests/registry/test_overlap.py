"""Which test images a bundle has learnt from, by leakage group, when the data have moved on since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.inherit import FILE, GROUP, LEFT_OUT
from radtransfer.preprocess.store import Store
from radtransfer.registry.overlap import Overlap, Revision
from tests.preprocess.test_inherit import first, join, patient, rejected
from tests.preprocess.test_preprocess import run

__all__ = ["first"]
First = tuple[Path, Store, Store]


def overlap(bundle: Path, store: Store, tl_source: str = "in_domain") -> Overlap:
    found = Revision(store.artifact.path).overlap(bundle, {"tl_source": tl_source}, of_test(store))
    assert found is not None
    return found


def of_test(store: Store) -> pd.DataFrame:
    return store.manifest.iloc[store.rows("test")]


@pytest.fixture
def bundle(first: First, tmp_path: Path) -> Path:
    """As much of one as tells what it has learnt from: the first revision."""
    (tmp_path / "bundle").mkdir()
    shutil.copy(first[0] / FILE, tmp_path / "bundle" / FILE)
    return tmp_path / "bundle"


def test_of_its_own_test_images_and_those_of_a_later_revision_it_has_learnt_none(
    first: First, bundle: Path, tmp_path: Path
) -> None:
    root, target, source = first
    learnt = len(target.rows("train", "validation"))
    assert overlap(bundle, target, "imagenet") == Overlap(learnt=learnt, images=0, groups=0, example="", unplaced=0)
    assert overlap(bundle, target).learnt == learnt + len(source.manifest)
    later, _ = run(root, tmp_path / "later", previous_splits=FILE, seed=5)
    assert overlap(bundle, later).images == 0


def test_images_that_were_dealt_anew_are_counted_with_all_of_their_groups(
    first: First, bundle: Path, tmp_path: Path
) -> None:
    root, target, _ = first
    anew, _ = run(root, tmp_path / "anew", seed=5)
    before = set(target.manifest.iloc[target.rows("train", "validation")]["group_id"])
    test = of_test(anew)
    seen = test[test["group_id"].isin(before)]
    found = overlap(bundle, anew)
    assert (found.images, found.groups) == (len(seen), seen["group_id"].nunique()) and 0 < len(seen) < len(test)
    assert found.example == seen["image_id"].iloc[0]


def test_a_group_that_joined_a_test_group_later_was_learnt_from_though_its_images_are_left_out(
    first: First, bundle: Path, tmp_path: Path
) -> None:
    root, target, source = first
    tested = patient(target, "test")
    mine = of_test(target).query(f"patient_id == '{tested}'")
    for number, (role, joined) in enumerate(
        (("target", patient(target, "train")), ("source", patient(source, "train")))
    ):
        data = tmp_path / f"data{number}"
        shutil.copytree(root, data)
        join(data, tested, joined)
        later, more = run(data, tmp_path / f"later{number}", previous_splits=FILE)
        gone = rejected(later) if role == "target" else rejected(more)
        listed = pd.read_csv(later.artifact.path / LEFT_OUT)
        assert gone and set(listed.query(f"role == '{role}'")["image_id"]) == set(gone)
        assert set(mine["image_id"]) <= set(of_test(later)["image_id"]), "it is still tested on"
        assert overlap(bundle, later).images == len(mine)
        assert overlap(bundle, later, "imagenet").images == (len(mine) if role == "target" else 0)


@pytest.mark.parametrize("kept", ["image_id", "sha256", "group_id"])
def test_an_image_is_known_by_its_name_its_bytes_or_its_patient(
    first: First, bundle: Path, tmp_path: Path, kept: str
) -> None:
    """All else of a test image that was learnt from is called otherwise in the bundle's table."""
    target = first[1]
    table = pd.read_csv(bundle / FILE, dtype=str)
    tested = of_test(target).iloc[0]
    other = {"image_id": "elsewhere.png", "sha256": "0" * 64, "group_id": "image-elsewhere"} | {kept: tested[kept]}
    learnt = table.query("split == 'train' and role == 'target'").index[0]
    table.loc[learnt, list(other)] = list(other.values())
    table.to_csv(bundle / FILE, index=False)
    found = overlap(bundle, target)
    assert found.images == (target.manifest["group_id"] == tested["group_id"]).sum() and found.groups == 1
    assert found.unplaced == 0


def test_what_this_revision_lacks_is_counted_unless_its_patient_is_known(first: First, bundle: Path) -> None:
    table = pd.read_csv(bundle / FILE, dtype=str)
    learnt = table.query("split == 'validation' and role == 'target'").index[:3]
    table.loc[learnt, "image_id"] = [f"gone{number}.png" for number in range(3)]
    table.loc[learnt, "sha256"] = [str(number) * 64 for number in range(3)]
    table.loc[learnt[0], GROUP] = "image-gone"
    table.to_csv(bundle / FILE, index=False)
    assert overlap(bundle, first[1]).unplaced == 1
    table.drop(columns=GROUP).to_csv(bundle / FILE, index=False)
    assert overlap(bundle, first[1]).unplaced == 3, "a table from before there were groups in it"


def test_where_nothing_is_told_of_it_nothing_is_known(first: First, bundle: Path, tmp_path: Path) -> None:
    target = first[1]
    (bundle / FILE).unlink()
    assert Revision(target.artifact.path).overlap(bundle, {}, of_test(target)) is None
    shutil.copytree(target.artifact.path, tmp_path / "older")
    (tmp_path / "older" / LEFT_OUT).unlink()
    with pytest.raises(RadtransferError, match=rf"older: has no {LEFT_OUT}, so whether a model has learnt from the"):
        Revision(tmp_path / "older")
