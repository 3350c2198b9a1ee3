"""Artifacts from elsewhere: what is not one is refused with a word, whatever its description holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from radtransfer import artifacts
from radtransfer.errors import RadtransferError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with artifacts.writing(tmp_path / "model", "model", step="finetune", settings={}) as (folder, content):
        (folder / "weights").write_bytes(b"weights")
        content["threshold"] = 0.5
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("content", {"threshold": float("nan")}),
        ("content", {"threshold": float("inf")}),
        ("content", ["threshold"]),
        ("files", ["weights"]),
        ("files", None),
        ("made", "by hand"),
        ("cost", 7),
        ("digest", ""),
        ("digest", None),
    ],
)
def test_odd_descriptions_are_refused(model: Path, key: str, value: Any) -> None:
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | {key: value}))
    with pytest.raises(
        RadtransferError, match=r"model\.json: (it does not match its digest and seal|entry '\w+' is missing or odd)"
    ):
        artifacts.read(model, "model")


@pytest.mark.parametrize("key", ["made", "cost", "seal"])
def test_what_the_digest_leaves_out_is_sealed(model: Path, key: str) -> None:
    description = json.loads((model / "model.json").read_text())
    changed = "0" * 64 if key == "seal" else description[key] | {"version": "1.0.0"}
    (model / "model.json").write_text(json.dumps(description | {key: changed}))
    with pytest.raises(RadtransferError, match=r"model\.json: it does not match its digest and seal"):
        artifacts.read(model, "model")


def test_json_too_deep_to_read_is_refused(model: Path) -> None:
    (model / "model.json").write_text("[" * 100_000)
    with pytest.raises(RadtransferError, match=r"model\.json: not valid JSON"):
        artifacts.read(model, "model")


def test_an_artifact_holds_files_only(model: Path, tmp_path: Path) -> None:
    """Copying a pipe would wait for a writer for ever."""
    os.mkfifo(model / "pipe")
    with pytest.raises(RadtransferError, match="pipe: neither file nor folder"):
        artifacts.read(model, "model")
    (model / "pipe").unlink()
    (tmp_path / "aside").write_bytes(b"weights")
    (model / "weights").unlink()
    (model / "weights").symlink_to(tmp_path / "aside")
    with pytest.raises(RadtransferError, match="links are not allowed"):
        artifacts.read(model, "model", verify=True)


def started(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A process that runs the code; it says "ready" when it has come to where it waits for a line."""
    lines = "import sys\nfrom pathlib import Path\nfrom radtransfer import artifacts\n" + textwrap.dedent(code)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", lines, *map(str, arguments)], **(pipes | options))


HOLDS = """
    with artifacts.writing(Path(sys.argv[1]), "model", step="finetune", settings={}) as (folder, content):
        (folder / "weights").write_text(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
"""


def test_of_two_processes_the_first_wins_whole(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with started(HOLDS, final, "first") as first:
        assert first.stdout and first.stdout.readline() == "ready\n"
        with started(HOLDS, final, "second") as second:
            _, said = second.communicate(timeout=60)
        assert second.returncode != 0 and f"RadtransferError: {final}: another process is writing it; wait" in said
        assert not final.exists()
        first.communicate("\n", timeout=60)
    assert first.returncode == 0 and (final / "weights").read_text() == "first"
    artifacts.read(final, "model", verify=True)
    assert list(tmp_path.iterdir()) == [final]


def test_what_a_killed_process_left_is_no_artifact_and_is_cleared_away(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with started(HOLDS, final, "killed") as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert not final.exists() and list(tmp_path.glob(".model.partial-*/weights"))
    with artifacts.staged(final) as folder:
        (folder / "weights").write_text("whole")
    assert list(tmp_path.iterdir()) == [final] and (final / "weights").read_text() == "whole"


def test_what_another_put_there_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not empty"), artifacts.staged(tmp_path / "model"):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").write_text("theirs")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "theirs"]


def test_a_full_disk_is_named_and_nothing_is_kept(small_disk: Path) -> None:
    with (
        pytest.raises(RadtransferError, match=rf"{small_disk}/model: the disk is full .*nothing was kept; make room"),
        artifacts.staged(small_disk / "model") as folder,
    ):
        (folder / "weights").write_bytes(bytes(3 << 20))
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_is_read_only_is_named_before_anything_is_computed(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with (
        pytest.raises(RadtransferError, match=r"model: cannot be written \(Read-only file system\); .*name another"),
        artifacts.staged(small_disk / "model"),
    ):
        pytest.fail("the block was entered")


def test_the_working_folder_itself_is_no_output() -> None:
    with pytest.raises(RadtransferError, match="has no name of its own; name a new folder"), artifacts.staged(Path()):
        pass
