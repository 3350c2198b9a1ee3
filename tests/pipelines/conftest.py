"""A run of the real graph on stand-ins for the library's steps (see fakes/sitecustomize.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

FAKES = Path(__file__).parent / "fakes"
CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]


class FakeRun:
    """One `radtransfer run` (or another command) in a folder of its own, on two made-up data sets."""

    command = "run"

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.calls_file = folder, folder / "out", folder / "calls"
        self.data_root, self.config = folder / "data", folder / "config.yaml"
        for data_set in ("T", "S"):
            for name in ("normal/a.png", "abnormal/b.png"):
                path = self.data_root / data_set / name
                path.parent.mkdir(parents=True)
                path.write_bytes(b"not looked at")
        settings = {
            "name": "fake",
            "target_layout": "class_folders",
            "target_path": "T",
            "target_part": "T",
            "source_layout": "class_folders",
            "source_path": "S",
            "backbones": ["b2", "b1", "b3"],
            "seed": 7,
            "learning_rate": 0.0005,
        }
        self.config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            *CLI,
            self.command,
            "--config",
            str(self.config),
            "--data-root",
            str(self.data_root),
            "--out",
            str(self.out),
        ]
        # A shell starts background jobs, as this test run may be one, with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [*command, *options],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(FAKES), os.environ.get("PYTHONPATH", "")]),
                "FAKE_CALLS": str(self.calls_file),
            }
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *options: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*options, **environment)
        stdout, stderr = process.communicate(timeout=240)
        return process.returncode, stdout, stderr

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text(encoding="utf-8").splitlines() if self.calls_file.exists() else []


@pytest.fixture
def fake_run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path)


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], list[str]]:
    """Command lines of the living processes that name a folder."""
    import psutil

    def find(folder: Path) -> list[str]:
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(line)
        return found

    return find
