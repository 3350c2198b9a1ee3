"""Data roots elsewhere, against a real S3 server: what is fetched, what is not fetched again, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from PIL import Image

from radtransfer import artifacts, storage
from radtransfer.cache import VARIABLE, cache
from radtransfer.config import ExternalSet
from radtransfer.configfile import validate
from radtransfer.datasets.fetch import collect, located
from radtransfer.datasets.phantoms import make_phantoms
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.external import Learnt, external_store
from radtransfer.preprocess.run import preprocess
from radtransfer_pipelines.local import requested
from tests.weed import KEYS, Weed

pytestmark = pytest.mark.slow
REMOTE = "dvc/storage"
SETTINGS = {
    "target_layout": "phantoms", "target_path": "phantoms", "target_part": "hand", "source_layout": "phantoms",
    "source_path": "phantoms", "source_parts": [], "image_size": 48, "test_fraction": 0.3, "validation_fraction": 0.3,
    "max_images": 0, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    server = Weed(tmp_path_factory.mktemp("weed"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def environment(server: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "WAITS", (0.1, 0.1))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the objects whose content was asked for."""
    asked: list[str] = []
    append = storage.Bucket._append

    def noted(self: storage.Bucket, wanted: storage.Object, *rest: object) -> object:
        asked.append(wanted.key)
        return append(self, wanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(storage.Bucket, "_append", noted)
    return asked


def call(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, f"{command}: {run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout.strip()


def commit(folder: Path, message: str) -> str:
    call(folder, "git", "add", "--all")
    call(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", message)
    return call(folder, "git", "rev-parse", "HEAD")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def origin(server: Weed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms under DVC, pushed to the bucket, tagged v1."""
    folder = tmp_path_factory.mktemp("origin")
    make_phantoms(folder / "data/phantoms", images_per_part=40, parts=["hand", "knee"], difficulty=0.2, size=64, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL_S3": server.url}).items():
            patch.setenv(name, value)
        call(folder, "git", "init", "--quiet")
        call(folder, "dvc", "init", "--quiet")
        call(folder, "dvc", "remote", "add", "--default", "storage", f"s3://radtransfer/{REMOTE}")
        call(folder, "dvc", "add", "--quiet", "data/phantoms")
        commit(folder, "first")
        call(folder, "git", "tag", "v1")
        call(folder, "dvc", "push", "--quiet")
    return folder


@pytest.fixture
def repository(origin: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(origin, tmp_path / "repository", symlinks=True)
    return tmp_path / "repository"


def wipe(repository: Path) -> None:
    shutil.rmtree(repository / "data/phantoms")
    shutil.rmtree(repository / ".dvc/cache")


def revise(repository: Path) -> tuple[str, str]:
    """Invert one image of a wiped repository, commit, push, wipe; returns the new commit and the image's name."""
    call(repository, "dvc", "pull", "--quiet")
    changed = sorted((repository / "data/phantoms").rglob("*.png"))[0]
    Image.open(changed).point(lambda value: 255 - value).save(changed)
    call(repository, "dvc", "add", "--quiet", "data/phantoms")
    revision = commit(repository, "second")
    call(repository, "dvc", "push", "--quiet")
    wipe(repository)
    return revision, changed.relative_to(repository / "data/phantoms").as_posix()


def put(server: Weed, prefix: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        server.client.put_object(Bucket="radtransfer", Key=f"{prefix}/{name}", Body=content)


def test_revisions_of_a_dvc_repository_reach_stores_and_metadata(
    repository: Path, tmp_path: Path, fetched: list[str]
) -> None:
    """Through the KFP component itself: push, wipe, preprocess; then a changed image, a new revision, preprocess."""
    from radtransfer_components.preprocess import preprocess

    def preprocessed(name: str, revision: str) -> tuple[artifacts.Artifact, dict[str, object]]:
        made = [dsl.Dataset(name=role, uri=str(tmp_path / name / role)) for role in ("target", "source")]
        (tmp_path / name).mkdir()
        preprocess.python_func(
            data_root=f"dvc+{repository}@{revision}:data", target_table={}, source_table={}, data_version="",
            on_problem={}, ct_window=[], crop_border=False, previous_splits="", test_fold=[],
            code_version="", target_store=made[0], source_store=made[1],
            label_fraction=1.0, source_images=dsl.Artifact(uri=str(tmp_path / name / "images")),
            data_report=dsl.HTML(uri=str(tmp_path / name / "report.html")), **SETTINGS,
        )  # fmt: skip
        stores = [artifacts.read(Path(each.path), "image-store", verify=True) for each in made]
        assert stores[0].content["data"] == stores[1].content["data"]
        return stores[0], made[1].metadata

    original = contents(repository / "data/phantoms")
    first = call(repository, "git", "rev-parse", "HEAD")
    wipe(repository)
    store, metadata = preprocessed("one", "v1")
    said = store.content["data"]
    assert said["revision"] == metadata["data_revision"] == first
    assert said["uri"] == metadata["data_uri"] == f"dvc+{repository}@{first}:data"
    assert said["files"] == len(original) == len(fetched) - 1  # and the list of them
    with located(f"dvc+{repository}@v1:data", ["phantoms"]) as place:
        assert contents(place.root / "phantoms") == original

    second, name = revise(repository)
    fetched.clear()
    newer, metadata = preprocessed("two", "HEAD")
    assert newer.content["data"]["revision"] == metadata["data_revision"] == second != first
    assert newer.digest != store.digest and newer.content["data"]["digest"] != said["digest"]
    assert len(fetched) == 2  # the changed image and the new list
    with located(f"dvc+{repository}@{second}:data", ["phantoms"]) as place:
        after = contents(place.root / "phantoms")
        assert {key for key in after if after[key] != original[key]} == {name} and set(after) == set(original)


def test_a_run_names_the_revision_that_it_saw(repository: Path, tmp_path: Path) -> None:
    """Push, wipe, run by a tag; then a changed image, a new revision, and a run of that."""
    config = tmp_path / "tiny.yaml"
    tiny = {"name": "tiny", "backbones": ["tf_efficientnet_lite0"], "input_size": 32, "image_size": 32}
    tiny |= {"pretrain_epochs": 1, "finetune_epochs": 1, "cv_folds": 2, "bootstrap": 100}
    tiny |= {"explain_images": 0, "lime_samples": 10, "quality_images": 0}
    config.write_text(yaml.safe_dump(SETTINGS | tiny))

    def seen(revision: str, out: Path) -> dict[str, Any]:
        root = f"dvc+{repository}@{revision}:data"
        command = ["radtransfer", "run", "--config", str(config)]
        call(tmp_path, *command, "--data-root", root, "--out", str(out))
        run = json.loads((out / "run.json").read_text())
        assert run["data_root"] == run["data"]["uri"]
        assert run["data"]["revision"] in (out / "report.html").read_text()
        return dict(run["data"])

    first = call(repository, "git", "rev-parse", "HEAD")
    wipe(repository)
    one = seen("v1", tmp_path / "one")
    second, _ = revise(repository)
    other = seen("HEAD", tmp_path / "two")
    assert (one["revision"], other["revision"]) == (first, second) and one["digest"] != other["digest"]
    scores = [(tmp_path / run / "evaluation/test_scores.parquet").read_bytes() for run in ("one", "two")]
    assert scores[0] != scores[1]


def test_a_server_that_dies_is_waited_for_and_the_next_fetch_goes_on(
    server: Weed, repository: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    """Killed after some objects; then everything that has come is kept, with its inode."""
    expected = contents(repository / "data/phantoms")
    wipe(repository)
    root = f"dvc+{repository}@v1:data"
    fetch = storage.Bucket.fetch
    done: list[Path] = []
    lock = threading.Lock()

    def fetch_and_kill(self: storage.Bucket, *given: object) -> Path:
        path = fetch(self, *given)  # type: ignore[arg-type]
        with lock:
            done.append(path)
            if len(done) == 20:
                server.kill()
        return path

    monkeypatch.setattr(storage.Bucket, "fetch", fetch_and_kill)
    try:
        message = r"failed 3 times in a row .* start again when it is back"
        with pytest.raises(RadtransferError, match=message), located(root, ["phantoms"]):
            pass
    finally:
        server.start()
    monkeypatch.setattr(storage.Bucket, "fetch", fetch)
    assert not list(cache().glob("data/*.json")) and not [path for path in cache().glob("data/*") if path.is_dir()]
    assert any(fetched.count(key) == 3 for key in fetched)
    before = {path: path.stat().st_ino for path in done if path.exists()}
    assert 20 <= len(before) < len(expected)
    fetched.clear()
    with located(root, ["phantoms"]) as place:
        assert contents(place.root / "phantoms") == expected
        assert len(fetched) == len(expected) + 1 - len(before)
        assert {path: path.stat().st_ino for path in before} == before
    fetched.clear()
    with located(place.pinned, ["phantoms"]) as again:
        assert again == place and not fetched


def test_a_prefix_of_a_bucket_is_pinned_by_its_listing(server: Weed, tmp_path: Path, fetched: list[str]) -> None:
    prefix = f"{tmp_path.name}/sets"
    put(server, prefix, {"own/a/b.png": b"one", "own/c.png": b"two", "own/empty": b"", "other/d.png": b"three"})
    with located(f"s3://radtransfer/{prefix}", ["own"]) as first:
        assert {name: (first.root / name).read_bytes() for name in contents(first.root)} == {
            "own/a/b.png": b"one", "own/c.png": b"two", "own/empty": b"",
        }  # fmt: skip
        assert first.data["kind"] == "s3" and first.data["bytes"] == 6 and first.data["files"] == 3
        assert first.pinned == f"s3://radtransfer/{prefix}#{first.data['digest']}"
    with located(f"s3://radtransfer/{prefix}/own", ["own"]) as itself:
        assert contents(itself.root) == contents(first.root)
    put(server, prefix, {"own/c.png": b"TWO"})
    fetched.clear()
    with located(f"s3://radtransfer/{prefix}", ["own"]) as second:
        assert (second.root / "own/c.png").read_bytes() == b"TWO" and second.pinned != first.pinned
        assert fetched == [f"{prefix}/own/c.png"]
    with located(first.pinned, ["own"]) as old:  # still in the cache
        assert (old.root / "own/c.png").read_bytes() == b"two"
    shutil.rmtree(cache())
    with pytest.raises(RadtransferError, match="holds other data now"), located(first.pinned, ["own"]):
        pass


def test_a_data_set_that_a_run_is_tested_on_is_pinned_by_itself(server: Weed, tmp_path: Path) -> None:
    """The run's own pin is of its target and source, so that every step finds them whatever lies beside them."""
    for seed, (folder, parts) in enumerate({"phantoms": ["hand", "knee"], "drawn": ["forearm"]}.items()):
        make_phantoms(tmp_path / folder, images_per_part=20, parts=parts, difficulty=0.2, size=64, seed=seed)
        files = (path for path in (tmp_path / folder).rglob("*") if path.is_file())
        put(server, tmp_path.name, {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files})
    asked = {"layout": "phantoms", "path": "drawn", "part": "forearm"}
    config = validate(SETTINGS | {"name": "tiny", "external": asked}, "test")
    root = f"s3://radtransfer/{tmp_path.name}"

    def seen() -> dict[str, Any]:
        with located(root, (config.target_path, config.source_path)) as place:
            return dict(requested(config, place, None)[0]["arguments"])

    first = seen()
    stores = [tmp_path / "stores" / role for role in ("target", "source")]
    preprocess(data_root=first["data_root"], target_out=stores[0], source_out=stores[1], **SETTINGS)
    learnt, unseen = Learnt.of_store(stores[0]), ExternalSet.of(asked, "test")
    external_store(data_root=first["data_root"], learnt=learnt, asked=unseen, out=tmp_path / "stores" / "unseen")
    pins = [
        artifacts.read(path, "image-store").content["data"]["uri"] for path in (*stores, tmp_path / "stores/unseen")
    ]
    assert pins[0] == pins[1] == first["data_root"] != pins[2]
    assert first["data_version"] == "/".join(pin.partition("#")[2] for pin in pins[1:])

    image = sorted((tmp_path / "drawn").rglob("*.png"))[0].relative_to(tmp_path).as_posix()
    put(server, tmp_path.name, {image: b"another"})
    second = seen()
    assert second["data_root"] == first["data_root"] and second["data_version"] != first["data_version"]


def test_half_an_object_is_gone_on_with_and_a_damaged_one_is_fetched_anew(server: Weed, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    put(server, tmp_path.name, {"own/large": content})
    bucket, objects = storage.Bucket("radtransfer"), tmp_path / "objects"
    (wanted,) = bucket.list(f"{tmp_path.name}/own/")
    part = bucket.path(wanted, objects).with_suffix(".part")
    part.parent.mkdir(parents=True)
    for begun in (content[:1_000_000], b"x" * 1_000_000, content, content[:-1] + b"x"):
        part.write_bytes(begun)
        assert bucket.fetch(wanted, objects).read_bytes() == content
        bucket.path(wanted, objects).unlink()
    other = storage.Object(wanted.key, wanted.size, md5="0" * 32)
    with pytest.raises(RadtransferError, match="other content than its digest says"):
        bucket.fetch(other, objects)
    small = storage.Object(wanted.key, 1000, md5=hashlib.md5(content).hexdigest())
    with pytest.raises(RadtransferError, match="larger than the 1000 bytes"):
        bucket.fetch(small, objects)
    assert not [path for path in objects.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"own/a\n.png": b""}, "leads out of the data root"),
        ({"elsewhere/a.png": b""}, "nothing in '.*own'"),
    ],
)
def test_odd_listings_are_refused(server: Weed, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    put(server, tmp_path.name, files)
    with (
        pytest.raises(RadtransferError, match=message),
        located(f"s3://radtransfer/{tmp_path.name}", ["own"]),
    ):
        pass
    assert not list(cache().rglob("*.json"))


def test_what_cannot_be_had_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: str, message: str) -> None:
        with pytest.raises(RadtransferError, match=message), located(root, ["phantoms"]):
            pass

    refused("s3://no-such-bucket/data", "no such bucket or object")
    refused(f"dvc+{repository}@v9:data", "no branch, tag or commit 'v9'")
    refused(f"dvc+{repository}/data@v1:data", "not the top of a git repository")
    refused(f"dvc+{repository}@v1:elsewhere", "nothing in 'elsewhere/phantoms'")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused("s3://radtransfer/data", "access denied")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "data/phantoms.dvc",
            "outs: [{path: phantoms, md5: ../../../etc/passwd, size: 1, hash: md5}]",
            "as DVC 3 writes",
        ),
        ("data/phantoms.dvc", "outs: [{path: phantoms, size: 1, files: []}]", "as DVC 3 writes"),
        ("data/phantoms.dvc", "outs: !!python/object/apply:os.system [touch x]", "not as DVC writes it"),
        (".dvc/config", "[core]\nremote = storage\n['remote \"storage\"']\nurl = /etc\n", "must name a remote s3://"),
        (
            ".dvc/config",
            "[core]\nremote = storage\n['remote \"storage\"']\nurl = webdav://host/x\nbearer_token_command = touch x\n",
            "must name a remote s3://",
        ),
    ],
)
def test_a_hostile_repository_gets_nowhere(repository: Path, name: str, text: str, message: str) -> None:
    (repository / name).write_text(text)
    revision = commit(repository, "hostile")
    with pytest.raises(RadtransferError, match=message), located(f"dvc+{repository}@{revision}:data", ["phantoms"]):
        pass
    assert not (repository / "x").exists() and not Path("x").exists()


@pytest.mark.parametrize("entry", [{"relpath": "../../../../escaped"}, {"relpath": "/escaped"}, {"md5": "../../x"}])
def test_a_list_of_files_that_leads_out_is_refused(
    server: Weed, repository: Path, tmp_path: Path, entry: dict[str, str]
) -> None:
    text = json.dumps([{"relpath": "a.png", "md5": "0" * 32} | entry]).encode()
    md5 = hashlib.md5(text).hexdigest()
    put(server, REMOTE, {f"files/md5/{md5[:2]}/{md5[2:]}.dir": text})
    out = f"outs: [{{path: phantoms, md5: {md5}.dir, size: 100, nfiles: 1, hash: md5}}]"
    (repository / "data/phantoms.dvc").write_text(out)
    revision = commit(repository, "hostile")
    root = f"dvc+{repository}@{revision}:data"
    with pytest.raises(RadtransferError, match=r"leads out of the data root|is no MD5"), located(root, ["phantoms"]):
        pass
    assert not list(tmp_path.rglob("escaped"))


def test_collect_removes_what_nobody_uses(server: Weed, tmp_path: Path) -> None:
    prefix = f"{tmp_path.name}/sets"
    put(server, prefix, {"own/a.png": b"aaaa", "own/b.png": b"bb"})
    root = f"s3://radtransfer/{prefix}"
    with located(root, ["own"]) as first:
        pass
    put(server, prefix, {"own/b.png": b"BBB"})
    with located(root, ["own"]) as second:
        states, freed = collect(dry_run=True)
        assert {each.uri: each.state for each in states} == {first.pinned: "removed", second.pinned: "in use"}
        assert freed == 2 and first.root.exists()  # a.png is the second's too
        assert collect(keep_days=1)[0][0].state in ("kept", "in use") and first.root.exists()
        assert collect()[1] == 2
        assert not first.root.exists() and contents(second.root) and len(list(cache().glob("data/*.lock"))) == 1
    assert [each.state for each in collect()[0]] == ["removed"]
    assert not [path for path in cache().rglob("*") if path.is_file() and path.stat().st_size]
    with located(root, ["own"]) as third:
        assert (third.root / "own/b.png").read_bytes() == b"BBB"


def test_two_at_once_fetch_everything_once(server: Weed, tmp_path: Path, fetched: list[str]) -> None:
    put(server, tmp_path.name, {f"own/{number}.png": os.urandom(1000) for number in range(40)})
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with located(f"s3://radtransfer/{tmp_path.name}", ["own"]) as place:
                assert place.data["files"] == 40
                time.sleep(0.1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(fetched) == 40
