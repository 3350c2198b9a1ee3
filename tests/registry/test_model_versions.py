"""Versions: numbered in order, whole, never changed, the same in a folder and in S3; and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.provenance import IMAGE
from radtransfer.registry.entry import enter
from radtransfer.registry.places import Folder, Place, Prefix
from radtransfer.registry.versions import Registry
from tests.registry.tiny import entered, tiny_bundle, tiny_pretrained


def change(place: Place, key: str, old: bytes, new: bytes) -> None:
    """Behind the registry's back."""
    found = place.read(key)
    assert found is not None and old in found[0]
    assert place.replace(key, found[0].replace(old, new), found[1])


def test_a_version_says_what_it_is_and_what_it_was_made_of(
    registry: Registry, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE, "registry.example/radtransfer@sha256:0")
    before = [tiny_pretrained(tmp_path / name, name, name) for name in ("b1", "b2")]
    bundle = tiny_bundle(tmp_path / "bundle", parents=before)
    version, new = enter(registry, bundle, before)
    assert new and version.label == "tiny@1"
    read = Registry.open(where).version("tiny", "newest")
    assert read == version
    assert read.digest == artifacts.read(bundle, "bundle").digest
    assert {name: (file.sha256, file.size) for name, file in read.files.items()} == {
        path.relative_to(bundle).as_posix(): (artifacts.file_sha256(path), path.stat().st_size)
        for path in bundle.rglob("*")
        if path.is_file()
    }
    assert read.configuration == {"seed": 3} and read.code == ["0.1.0+made"]
    assert read.data["origin"] == {"revision": "r1"} and read.data["counts"]["test"] == {"normal": 7, "fractured": 2}
    assert read.metrics["auroc"]["value"] == 0.8125 and read.model["threshold"] == 0.25
    assert read.image == "registry.example/radtransfer@sha256:0"
    digests = {path.name: artifacts.read(path, "model").digest for path in before}
    assert [(parent.name, parent.number, parent.models) for parent in read.parents] == [("tiny-pretrained", 1, digests)]
    parent = registry.version("tiny-pretrained", 1)
    assert parent.models == digests and parent.kind == "pretrained"
    assert parent.configuration == {"b1": {"epochs": 2}, "b2": {"epochs": 2}}
    for each in (read, parent):
        registry.verify(each)
    assert registry.names() == ["tiny", "tiny-pretrained"]


def test_a_folder_and_a_bucket_have_one_layout(tmp_path: Path, bucket: str) -> None:
    layouts = []
    for where in (str(tmp_path / "registry"), bucket):
        registry = Registry.open(where, write=True)
        entered(registry, tmp_path / str(len(layouts)), "a")
        keys = sorted(each.key for each in registry.place.list(""))
        layouts.append([re.sub(r"[0-9a-f]{32}", "ID", key) for key in keys])
    files = [f"files/tiny/ID/{name}" for name in ("MODEL_CARD.md", "bundle.json", "models/weights")]
    assert layouts == [[*files, "registry.json", "versions/tiny/000001.json"]] * 2


def test_versions_are_numbered_in_order_and_equal_content_is_one_version(registry: Registry, tmp_path: Path) -> None:
    versions = entered(registry, tmp_path, "a", "b", "c")
    assert [version.number for version in versions] == [1, 2, 3]
    again = tiny_bundle(tmp_path / "again", "b")  # as a task that is tried again makes it: equal but for its cost
    assert enter(registry, again, []) == (versions[1], False)
    assert [version.label for version in registry.versions("tiny")] == ["tiny@1", "tiny@2", "tiny@3"]
    assert len({each.key.split("/")[2] for each in registry.place.list("files/")}) == 3


def test_writers_at_once_each_get_a_number(tmp_path: Path) -> None:
    """Twelve threads start together; of each pair that enters the same bundle one gets the other's version.

    For S3 see `test_registry_under_fire`: moto's requests are not made one after another.
    """
    bundles = [tiny_bundle(tmp_path / str(number), str(number)) for number in range(6)]
    where, start = tmp_path / "registry", threading.Barrier(12)

    def write(bundle: Path) -> int:
        start.wait()
        return enter(Registry.open(where, write=True), bundle, [])[0].number

    with ThreadPoolExecutor(12) as pool:
        numbers = list(pool.map(write, bundles * 2))
    assert sorted(numbers[:6]) == [1, 2, 3, 4, 5, 6] and numbers[:6] == numbers[6:]
    registry = Registry.open(where)
    for bundle, number in zip(bundles, numbers, strict=False):
        assert registry.version("tiny", number).digest == artifacts.read(bundle, "bundle").digest
        registry.verify(registry.version("tiny", number))
    left = {f"{each.key.rsplit('/', 1)[0]}/" for each in registry.place.list("files/") if "models" not in each.key}
    assert left == {version.folder for version in registry.versions("tiny")}, "what was not entered was taken back"


def test_a_creation_that_is_sent_again_is_not_taken_for_anothers(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every conditional write succeeds, its answer is lost, and the request that is sent again gets 412."""
    registry = Registry.open(bucket, write=True)
    assert isinstance(registry.place, Prefix)
    client = registry.place._bucket._client
    put, lost = client.put_object, []

    def losing(**asked: Any) -> Any:
        answer = put(**asked)
        if ("IfNoneMatch" in asked or "IfMatch" in asked) and asked["Key"] not in lost:
            lost.append(asked["Key"])
            raise ConnectionClosedError(endpoint_url="http://s3")
        return answer

    monkeypatch.setattr(client, "put_object", losing)
    assert [version.number for version in entered(registry, tmp_path, "a", "b")] == [1, 2]
    assert len(lost) == 2 and len(registry.versions("tiny")) == 2


def test_a_writer_that_dies_leaves_no_version_and_takes_no_number(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, done = type(registry.place).upload, []

    def dying(self: Place, key: str, path: Path) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(key)
        upload(self, key, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(registry.place), "upload", dying)
        with pytest.raises(KeyboardInterrupt):
            entered(registry, tmp_path, "a")
    assert registry.versions("tiny") == [] and registry.names() == []
    assert entered(registry, tmp_path, "b")[0].number == 1


def test_a_writer_that_took_too_long_gives_up(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may be removed as a dead writer's at any moment."""
    clock = iter([0.0, 12 * 3600 + 1.0])
    monkeypatch.setattr("radtransfer.registry.versions.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(RadtransferError, match="took over 12 hours"):
        entered(registry, tmp_path, "a")
    assert registry.versions("tiny") == []


def test_the_order_is_that_of_numbers_whatever_the_clocks_say(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        @staticmethod
        def now(_: object) -> Any:
            return next(times)

    from datetime import UTC, datetime

    times = iter([datetime(2031, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)])
    monkeypatch.setattr("radtransfer.registry.entry.datetime", Late)
    entered(registry, tmp_path, "a", "b")
    assert [version.entered[:4] for version in registry.versions("tiny")] == ["2031", "1970"]
    assert registry.version("tiny", "newest").number == 2


@pytest.mark.parametrize("key", ["MODEL_CARD.md", "bundle.json", "models/weights"])
def test_a_file_with_one_byte_changed_is_named(registry: Registry, tmp_path: Path, key: str) -> None:
    (version,) = entered(registry, tmp_path, "a")
    place = registry.place
    found = place.read(version.folder + key)
    assert found is not None
    content = bytearray(found[0])
    content[len(content) // 2] ^= 1
    assert place.replace(version.folder + key, bytes(content), found[1])
    with pytest.raises(RadtransferError, match=rf"tiny@1: .*{re.escape(key)}: its sha256 is not the recorded one"):
        registry.verify(version)


def test_files_that_are_missing_or_were_added_are_named(registry: Registry, tmp_path: Path) -> None:
    first, second = entered(registry, tmp_path, "a", "b")
    registry.place.delete(f"{first.folder}models/weights")
    with pytest.raises(RadtransferError, match=r"tiny@1: .*models/weights is missing"):
        registry.verify(first)
    assert registry.place.create(f"{second.folder}extra.txt", b"x")
    with pytest.raises(RadtransferError, match=r"tiny@2: .*extra\.txt was added"):
        registry.verify(second)


def test_a_version_whose_object_was_changed_is_refused(where: str, registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a")
    change(registry.place, "versions/tiny/000001.json", b'"value": 0.8125', b'"value": 0.9999')
    with pytest.raises(RadtransferError, match=r"versions/tiny/000001\.json: does not match its seal"):
        Registry.open(where).version("tiny", 1)


def test_a_version_under_the_number_of_another_is_refused(where: str, registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a")
    found = registry.place.read("versions/tiny/000001.json")
    assert found is not None and registry.place.create("versions/tiny/000002.json", found[0])
    with pytest.raises(RadtransferError, match=r"000002\.json: is that of tiny@1"):
        Registry.open(where).version("tiny", 2)


def test_a_newer_schema_is_refused_with_what_to_do(where: str, registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a")
    for key in ("versions/tiny/000001.json", "registry.json"):
        change(registry.place, key, b'"schema": 1', b'"schema": 2')
        with pytest.raises(RadtransferError, match=rf"{key}: of schema 2, this radtransfer knows 1; install a newer"):
            Registry.open(where).version("tiny", 1)


def test_a_registry_of_another_layout_is_refused_and_left_as_it_is(where: str, tmp_path: Path) -> None:
    place = Registry.open(where, write=True).place
    found = place.read("registry.json")
    assert found is not None
    place.delete("registry.json")
    place.create("tiny/v0001/bundle.json", b"{}")  # the layout of before
    with pytest.raises(RadtransferError, match=r"holds tiny/v0001/bundle\.json and no registry\.json: .*layout"):
        Registry.open(where, write=True)
    assert [each.key for each in place.list("")] == ["tiny/v0001/bundle.json"]
    place.create("registry.json", b'{"layout": "of something else", "schema": 1}')
    with pytest.raises(RadtransferError, match=r"registry\.json: is no layout of a model registry of this layout"):
        Registry.open(where)


def test_what_is_not_there_is_named(where: str, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match=r"registry: there is no model registry"):
        Registry.open(where)
    registry = Registry.open(where, write=True)
    with pytest.raises(RadtransferError, match=r"there is no model 'tiny'; there is none yet"):
        registry.version("tiny", 1)
    entered(registry, tmp_path, "a", "b", "c")
    registry.remove(registry.version("tiny", 2))
    for name, number, message in (
        ("tiny", 7, r"there is no tiny@7; there is version 1, 3"),
        ("tiyn", 1, r"there is no model 'tiyn'; did you mean tiny\?"),
        ("tiny", "champion", r"tiny has no champion; name a version"),
        ("../tiny", 1, r"'\.\./tiny' is no name of a model"),
        ("../tiny", "newest", r"'\.\./tiny'"),
    ):
        with pytest.raises(RadtransferError, match=message):
            Registry.open(where).version(name, number)  # type: ignore[arg-type]


BAD_NAMES = ["..", "../aside", "/tmp/aside", "a/b", "", "A", "-a", "a\n", "a" * 42, ".partial-x", 7, None]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bundle_whose_name_is_no_folder_name_is_not_entered(tmp_path: Path, name: object) -> None:
    registry = Registry.open(tmp_path / "in" / "registry", write=True)
    bundle = tiny_bundle(tmp_path / "in" / "bundle", name=name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RadtransferError, match=r"in/bundle: the name .* expected .* lower-case letters"):
        enter(registry, bundle, [])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_that_was_changed_is_not_entered(registry: Registry, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle / "models" / "weights").write_bytes(bytes(200))
    with pytest.raises(RadtransferError, match=r"models/weights: its sha256 is not the recorded one"):
        enter(registry, bundle, [])
    assert registry.names() == []


def test_parents_are_versions_that_other_models_share(registry: Registry, tmp_path: Path) -> None:
    before = [tiny_pretrained(tmp_path / name, name, name) for name in ("b1", "b2")]
    enter(registry, tiny_bundle(tmp_path / "hand", parents=before, name="hand"), before)
    ct = tiny_bundle(tmp_path / "ct", parents=before[1:], name="ct")
    version = enter(registry, ct, before[1:])[0]  # fewer backbones, of another target
    assert [(parent.name, parent.number, set(parent.models)) for parent in version.parents] == [
        ("hand-pretrained", 1, {"b2"})
    ]
    assert enter(registry, tiny_bundle(tmp_path / "ct2", "2", before, name="ct"), [])[0].parents[0].name == (
        "hand-pretrained"
    )
    assert registry.names() == ["ct", "hand", "hand-pretrained"]
    other = tiny_pretrained(tmp_path / "other", "b1", "trained anew")
    enter(registry, tiny_bundle(tmp_path / "hand2", parents=[other], name="hand"), [other])
    assert [version.number for version in registry.versions("hand-pretrained")] == [1, 2]
    assert registry.version("hand", 2).parents[0].number == 2


def test_what_a_bundle_builds_on_must_be_somewhere(registry: Registry, tmp_path: Path) -> None:
    before = tiny_pretrained(tmp_path / "b1", "b1")
    with pytest.raises(RadtransferError, match=r"builds on pre-trained models of b1, which .* does not have; hand"):
        enter(registry, tiny_bundle(tmp_path / "bundle", parents=[before]), [])
    tuned = tiny_pretrained(tmp_path / "tuned", "b1", stage="finetune")
    twice = tiny_pretrained(tmp_path / "twice", "b1", "2")
    for odd in ([tuned], [before, twice]):
        with pytest.raises(RadtransferError, match=r"expected pre-trained models, one a backbone"):
            enter(registry, tiny_bundle(tmp_path / "plain"), odd)
        shutil.rmtree(tmp_path / "plain")
    outside = tiny_pretrained(tmp_path / "outside", "../../aside")
    with pytest.raises(RadtransferError, match=r"'\.\./\.\./aside' leads out"):
        enter(registry, tiny_bundle(tmp_path / "plain"), [outside])
    assert registry.names() == []


def test_a_name_is_of_one_kind(registry: Registry, tmp_path: Path) -> None:
    enter(registry, tiny_bundle(tmp_path / "a"), [tiny_pretrained(tmp_path / "b1", "b1")])
    with pytest.raises(RadtransferError, match=r"tiny-pretrained is the name of models of kind 'pretrained'"):
        enter(registry, tiny_bundle(tmp_path / "b", name="tiny-pretrained"), [])


def test_a_folder_that_cannot_be_written_is_named(small_disk: Path, tmp_path: Path) -> None:
    entered(Registry.open(small_disk / "registry", write=True), tmp_path, "a")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert Registry.open(small_disk / "registry").version("tiny", "newest").number == 1
    with pytest.raises(RadtransferError, match=r"registry\.json: Read-only file system; .* needs the right to write"):
        Registry.open(small_disk / "registry", write=True)
    with pytest.raises(RadtransferError, match="Read-only file system"):
        Registry.open(small_disk / "new", write=True)


def test_a_full_disk_leaves_no_version(small_disk: Path, tmp_path: Path) -> None:
    registry = Registry.open(small_disk / "registry", write=True)
    (small_disk / "fill").write_bytes(bytes(2 * 2**20 - 9 * 4096))
    with pytest.raises(RadtransferError, match="No space left on device"):
        entered(registry, tmp_path, *(str(number) for number in range(9)))
    (small_disk / "fill").unlink()
    for version in registry.versions("tiny"):
        registry.verify(version)


def test_a_storage_that_ignores_conditions_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would lose the versions of concurrent writers in silence."""
    for ignored in ("IfNoneMatch", "IfMatch"):
        place = Registry.open(bucket, write=True).place
        before = place.read("registry.json")
        make = boto3.Session.client

        def careless(self: Any, *names: str, _make: Any = make, _ignored: str = ignored, **options: Any) -> Any:
            client = _make(self, *names, **options)
            put = client.put_object
            client.put_object = lambda **asked: put(**{key: asked[key] for key in asked if key != _ignored})
            return client

        with monkeypatch.context() as patched:
            patched.setattr(boto3.Session, "client", careless)
            with pytest.raises(RadtransferError, match="the storage writes over what it was asked not to"):
                Registry.open(bucket, write=True)
        assert place.read("registry.json") == before


def test_no_bucket_and_no_address_are_named(bucket: str) -> None:
    with pytest.raises(RadtransferError, match=r"s3://nowhere/x/registry\.json: no such bucket or object"):
        Registry.open("s3://nowhere/x")
    with pytest.raises(RadtransferError, match="expected a folder, or s3://BUCKET/PREFIX"):
        Registry.open("https://host/registry")


def test_writers_of_a_new_registry_at_once_make_one(tmp_path: Path) -> None:
    where, start = tmp_path / "registry", threading.Barrier(8)

    def make(_: int) -> Registry:
        start.wait()
        return Registry.open(where, write=True)

    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(make, range(8)))
    assert [each.key for each in registries[0].place.list("")] == ["registry.json"]
    assert json.loads((registries[0].place.read("registry.json") or (b"",))[0])["kind"] == "layout"


def test_a_folder_takes_what_another_user_can_read(tmp_path: Path) -> None:
    """Several people share a registry on a volume: no file is for its writer alone."""
    registry = Registry.open(tmp_path / "registry", write=True)
    assert isinstance(registry.place, Folder)
    entered(registry, tmp_path, "a")
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "registry").rglob("*") if path.is_file())
