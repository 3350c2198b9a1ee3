"""What a retraining reads, and when it says that there is nothing to do: data in S3, bundles of what mattered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from radtransfer.configfile import validate
from radtransfer.datasets import fetch
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.inherit import FILE, Inherited
from radtransfer.provenance import code_version
from radtransfer.registry.champion import decline, promote, rollback
from radtransfer.registry.entry import enter
from radtransfer.registry.resolve import Resolved, resolve
from radtransfer.registry.versions import Registry
from tests.registry.tiny import tiny_bundle

SET = {"target_layout": "phantoms", "target_path": "T", "target_part": "hand", "source_layout": "phantoms"}
CONFIG = validate({"name": "tiny", "source_path": "S", **SET}, "test").model_dump(mode="json")


class Site:
    """A registry, and data in a bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.where = folder, "s3://models/data", str(folder / "registry")
        self.put("T/a.png", b"a")
        self.put("S/b.png", b"b")

    def put(self, name: str, content: bytes) -> None:
        boto3.client("s3").put_object(Bucket="models", Key=f"data/{name}", Body=content)

    def resolved(self, data_root: str = "", **config: Any) -> Resolved:
        given = CONFIG | config
        return resolve(config=given, data_root=data_root or self.root, registry=self.where, margin=0.02, floor=0.6)

    def registry(self) -> Registry:
        return Registry.open(self.where, write=True)

    def trained(self, mark: str, splits: str = "", **more: Any) -> int:
        """Enter a model made of the data as they are now; returns its number."""
        origin = {"digest": fetch.resolve(self.root, ("T", "S")).digest}
        said = {"configuration": CONFIG, "data": {"origin": origin}, "code_versions": [code_version()]} | more
        bundle = tiny_bundle(self.folder / mark, mark, splits=splits, **said)
        return enter(self.registry(), bundle, [])[0].number


@pytest.fixture
def site(bucket: str, tmp_path: Path) -> Site:
    del bucket
    return Site(tmp_path)


def test_nothing_changed_only_where_data_code_and_configuration_are_those_of_a_version_that_was_decided_on(
    site: Site,
) -> None:
    found = site.resolved()
    assert found.changed and found.why == "first: no version of tiny was decided on yet"
    assert found.data_root == fetch.resolve(site.root, ("T", "S")).pinned and found.data_root.startswith(
        f"{site.root}#"
    )
    assert site.trained("one") == 1
    assert site.resolved().changed, "a run that ended before the gate"
    promote(site.registry(), "tiny", 1, why="first")
    found = site.resolved()
    assert not found.changed and found.why.startswith("unchanged: data, code and configuration are those of tiny@1")
    same = {"budget_minutes": 9.0, "pipeline": "ct_reuse", "checkpoints": "s3://models/c", "previous_splits": "s.csv"}
    assert not site.resolved(**same).changed
    found = site.resolved(seed=1, refit=True)
    assert found.changed and found.why == "changed since tiny@1: refit True, then False; seed 1, then 0"
    site.put("T/c.png", b"c")
    assert site.resolved().why.startswith("changed since tiny@1: data ")
    site.trained("two")
    decline(site.registry(), "tiny", 2, why="worse")
    assert site.resolved().why.startswith("unchanged: data, code and configuration are those of tiny@2")
    boto3.client("s3").delete_object(Bucket="models", Key="data/T/c.png")
    assert site.resolved().why.startswith("unchanged: data, code and configuration are those of tiny@1"), "a way back"


def test_other_code_is_a_change_and_so_are_data_in_a_folder(site: Site, tmp_path: Path) -> None:
    site.trained("old", code_versions=["0.0.1+old"])
    promote(site.registry(), "tiny", 1, why="first")
    assert site.resolved().why == f"changed since tiny@1: code {code_version()}, then 0.0.1+old"
    for name in ("T", "S"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").write_bytes(b"x")
    site.trained("new")
    promote(site.registry(), "tiny", 2, why="new")
    found = site.resolved(str(tmp_path / "data"))
    assert found.changed and "which has no revision to compare" in found.why


def test_splits_are_those_of_the_champion_before_those_of_the_last_version_before_those_of_the_configuration(
    site: Site,
) -> None:
    assert site.resolved(previous_splits="splits.csv").previous_splits == "splits.csv"
    site.trained("none")  # an old bundle, which keeps none
    site.trained("two", "role,image_id,sha256,split\ntarget,T/a.png,aa,train\n")
    site.trained("three", "role,image_id,sha256,split\ntarget,T/a.png,aa,test\n")
    assert site.resolved().previous_splits == "", "not decided on"
    for number in (1, 2, 3):
        decline(site.registry(), "tiny", number, why="below the floor")
    assert site.resolved().previous_splits == f"{site.where}#tiny@3"
    promote(site.registry(), "tiny", 2, why="by hand")
    found = site.resolved().previous_splits
    assert found == f"{site.where}#tiny@2"
    assert validate({"name": "tiny", "source_path": "S", **SET, "previous_splits": found}, "test").previous_splits
    assert Inherited.read(site.folder, found).splits("target", "T/a.png", "aa") == {"train"}
    promote(site.registry(), "tiny", 3, why="by hand")
    rollback(site.registry(), "tiny", why="alarm")
    assert site.resolved().previous_splits == f"{site.where}#tiny@2"
    (version,) = (each for each in site.registry().versions("tiny") if each.number == 2)
    (Path(site.where) / version.folder / FILE).write_text("role,image_id,sha256,split\n")
    with pytest.raises(RadtransferError, match=r"splits\.csv: its sha256 is not the recorded one"):
        Inherited.read(site.folder, found)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"registry": ""}, "registry: a retraining needs one"),
        ({"margin": 0.5}, "margin: Input should be less than or equal to 0.2"),
        ({"floor": 0.2}, "floor: Input should be greater than or equal to 0.5"),
        ({"config": CONFIG | {"test_fold": [1, 5]}}, "test_fold: cuts the data anew"),
        ({"data_root": "s3://models/nothing"}, "nothing in 'nothing/"),
    ],
)
def test_what_cannot_be_retrained_is_said(site: Site, given: dict[str, Any], told: str) -> None:
    good: dict[str, Any] = {"config": CONFIG, "data_root": site.root, "registry": site.where}
    with pytest.raises(RadtransferError, match=told):
        resolve(**(good | {"margin": 0.02, "floor": 0.6} | given))


def test_a_reference_that_may_mean_others_tomorrow_is_refused() -> None:
    with pytest.raises(RadtransferError, match="expected the number of a version"):
        validate({"name": "tiny", "source_path": "S", **SET, "previous_splits": "models#tiny@champion"}, "test")
