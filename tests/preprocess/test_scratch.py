"""What a run decoded before it was stopped: taken up if it is sound, and nothing of it left behind in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from radtransfer import cli
from radtransfer.cache import DECODED, VARIABLE, cache
from radtransfer.datasets.fetch import UNFINISHED, collect
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.fingerprint import THUMBNAIL
from radtransfer.preprocess.scratch import Place, Scratch, entry_name, resumable
from radtransfer.preprocess.store import Store


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def put(scratch: Scratch, file: str, level: int = 7) -> Place:
    thumbnail = np.full((THUMBNAIL, THUMBNAIL), level, dtype=np.uint8)
    square = np.full((scratch.size, scratch.size), level + 1, dtype=np.uint8)
    return scratch.write(entry_name(Path(file)), {"level": level, "scale": 1 / 3}, square, thumbnail)


def test_images_come_back_and_the_last_of_a_file_counts(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 5)
    assert scratch.places() == {}
    put(scratch, "a", 1)
    b, a = put(scratch, "b", 2), put(scratch, "a", 3)
    assert scratch.places() == {entry_name(Path("a")): a, entry_name(Path("b")): b}
    assert scratch.said(a) == {"level": 3, "scale": 1 / 3} and scratch.said(b) == {"level": 2, "scale": 1 / 3}
    assert scratch.square(b).shape == (5, 5) and (scratch.square(b) == 3).all()
    assert scratch.thumbnail(a).shape == (THUMBNAIL, THUMBNAIL) and (scratch.thumbnail(a) == 3).all()
    assert b"secret" not in put(scratch, "secret").log.encode() + next(tmp_path.iterdir()).read_bytes()
    with pytest.raises(ValueError, match="expected an entry of"):
        scratch.write(entry_name(Path("a")), {}, np.zeros((4, 5), np.uint8), np.zeros((THUMBNAIL, THUMBNAIL), np.uint8))


LENGTH = 16 + 32 + 1024 + 5**2 + THUMBNAIL**2


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, LENGTH - 1), spoilt=st.integers(0, LENGTH - 1), bit=st.integers(0, 7))
def test_what_is_cut_off_or_spoilt_is_not_taken_up(cut: int, spoilt: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder), 5)
        first, last = put(scratch, "a", 1), put(scratch, "b", 2)
        log = scratch.folder / first.log
        whole = log.read_bytes()
        assert (first.start, last.start, len(whole)) == (0, LENGTH, 2 * LENGTH)
        log.write_bytes(whole[: LENGTH + cut])
        assert scratch.places() == {entry_name(Path("a")): first} and scratch.said(last) is None
        after = put(scratch, "c", 3)  # out of step with the entries before it
        assert scratch.said(after) == {"level": 3, "scale": 1 / 3}
        assert [scratch.said(place) for place in scratch.places().values() if place != first] == [None]
        damaged = bytearray(whole)
        damaged[spoilt] ^= 1 << bit
        log.write_bytes(damaged)
        assert scratch.said(first) is None and scratch.said(last) == {"level": 2, "scale": 1 / 3}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 5)
    log = tmp_path / put(scratch, "a").log
    log.unlink()
    log.symlink_to("/dev/full")
    with pytest.raises(RadtransferError, match=rf"{tmp_path}: .*No space left on device.*set {VARIABLE}"):
        put(scratch, "b")


def test_it_is_kept_until_a_run_ends_well(tmp_path: Path) -> None:
    asked = {"root": "r"}
    with pytest.raises(RuntimeError), resumable(asked, 5, tmp_path) as scratch:
        put(scratch, "a")
        raise RuntimeError
    assert scratch.folder.stat().st_mode & 0o777 == 0o700
    with resumable({"root": "other"}, 5, tmp_path) as other, resumable(asked, 6, tmp_path) as larger:
        assert not other.places() and not larger.places()
    with resumable(asked, 5, tmp_path) as again:
        assert list(again.places()) == [entry_name(Path("a"))]
        with resumable(asked, 5, tmp_path) as twin:
            assert twin.folder == again.folder
        assert again.places(), "the first to end must not remove what the other still uses"
    assert not list((cache() / "decoded").iterdir())


def test_without_a_cache_it_works_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").touch()
    with resumable({}, 5, tmp_path / "out") as scratch:
        assert scratch.said(put(scratch, "a")) and scratch.folder.parent == tmp_path / "out"
    assert VARIABLE in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_gc_lists_it_and_removes_what_no_run_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in ({"root": "stopped"}, {"root": "at work"}):
        with pytest.raises(RuntimeError), resumable(asked, 5, tmp_path) as scratch:
            put(scratch, "a")
            raise RuntimeError
    size = (scratch.folder / next(iter(scratch.places().values())).log).stat().st_size
    with resumable({"root": "at work"}, 5, tmp_path) as used:
        for option in (["--dry-run"], ["--keep-days", "1"], []):
            monkeypatch.setattr(sys, "argv", ["radtransfer", "datasets", "gc", *option])
            with pytest.raises(SystemExit, match="0"):
                cli.main()
            out, err = capsys.readouterr()
            rows = [line.split(",")[:4] for line in out.splitlines()[1:]]
            state = {"--dry-run": "would be removed", "--keep-days": "kept"}.get(*option[:1] or [""], "removed")
            assert sorted(rows) == sorted([state, UNFINISHED[DECODED], "1", str(size)] for state in (state, "in use"))
            assert err.startswith(f"{0 if state == 'kept' else size} bytes")
        assert used.places() and [path.name for path in used.folder.parent.iterdir() if path.is_dir()] == [
            used.folder.name
        ]
    assert collect() == ([], 0)


PATCH = """
import os, time
from radtransfer.preprocess import ingest
decode = ingest.decode_bytes
def noted(data, path, window):
    with open(os.environ["NOTED"], "a") as stream:
        stream.write(f"{path.name}\\n")
    time.sleep(0.003)
    return decode(data, path, window)
ingest.decode_bytes = noted
"""


def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for a minute")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "processes"), [(600, 1), (1200, 2)])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, count: int, processes: int) -> None:
    """Every process of a real run is killed; what it had decoded is not decoded again, and the bytes are the same."""
    rng = np.random.default_rng(0)
    paths = [
        tmp_path / "cf" / f"{'hand' if k % 3 else 'knee'}/{('normal', 'abnormal')[k % 2]}/{k}.png" for k in range(count)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40)).astype(np.uint8)).save(path, compress_level=0)
    (tmp_path / "cf" / "hand" / "normal" / "bad.png").write_bytes(b"not an image")
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(PATCH)

    def start(run: str, own: str) -> subprocess.Popen[bytes]:
        command = "from radtransfer.cli import main; main()"
        place = ["layout", "class_folders", "path", "cf"]
        sets = [
            f"--{role}-{word}" if k % 2 == 0 else word for role in ("target", "source") for k, word in enumerate(place)
        ]
        outs = ["--target-out", str(tmp_path / own / "target"), "--source-out", str(tmp_path / own / "source")]
        path = os.pathsep.join([str(tmp_path / "patch"), *sys.path])
        return subprocess.Popen(
            [sys.executable, "-c", command, "preprocess", "--data-root", str(tmp_path), *sets, "--target-part", "hand",
             "--image-size", "32", *outs],
            env=os.environ
            | {"PYTHONPATH": path, "NOTED": str(tmp_path / run), VARIABLE: str(tmp_path / own / "cache")},
            start_new_session=True,
        )  # fmt: skip

    def decoded(run: str) -> list[str]:
        return (tmp_path / run).read_text().split() if (tmp_path / run).exists() else []

    killed = start("first", "own")
    until(lambda: len(decoded("first")) > count // 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, str(tmp_path / "own" / "cache"))
        assert [each.state for each in collect()[0]] == ["in use"]
        os.killpg(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "own" / "target").exists() and not (tmp_path / "own" / "source").exists()
        assert [(each.state, each.uri) for each in collect(dry_run=True)[0]] == [("removed", UNFINISHED[DECODED])]
    before = set(decoded("first"))
    assert count // 2 < len(before) < count

    # Another image of the same size and time: the content decides.
    changed = next(path for path in paths if path.name in before)
    status = changed.stat()
    Image.fromarray(rng.integers(0, 255, (40, 40)).astype(np.uint8)).save(changed, compress_level=0)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed.stat().st_size == status.st_size

    assert start("second", "own").wait() == 0
    again = decoded("second")
    assert len(again) == len(set(again)) and changed.name in again
    twice = (before & set(again)) - {changed.name, "bad.png"}
    assert len(twice) <= processes, "each process had one file in hand when it was killed"
    assert before | set(again) == {path.name for path in paths} | {"bad.png"}
    assert not list((tmp_path / "own" / "cache" / "decoded").iterdir())

    assert start("third", "whole").wait() == 0
    assert len(decoded("third")) == count + 1
    for role in ("target", "source"):
        resumed, whole = (Store.open(tmp_path / own / role).artifact for own in ("own", "whole"))
        assert resumed.digest == whole.digest
        for file in ("images.npy", "manifest.parquet", "rejected.csv"):
            assert (resumed.path / file).read_bytes() == (whole.path / file).read_bytes()
