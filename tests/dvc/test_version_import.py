"""DVC tracks a version of the model registry by the address of its files, and pulls it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from radtransfer import artifacts
from radtransfer.registry.versions import Registry
from tests.registry.tiny import entered
from tests.weed import Weed


@pytest.mark.slow
def test_dvc_tracks_and_pulls_a_version(server: Weed, tmp_path: Path) -> None:
    (version,) = entered(Registry.open("s3://radtransfer/models", write=True), tmp_path, "a")

    def dvc(folder: Path, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / "dvc"), *arguments]
        done = subprocess.run(command, cwd=folder, env=os.environ, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    work, clone = tmp_path / "work", tmp_path / "clone"
    for folder in (work, clone):
        folder.mkdir()
        dvc(folder, "init", "--no-scm")
        dvc(folder, "remote", "add", "models", "s3://radtransfer/models")
        dvc(folder, "remote", "add", "--default", "storage", "s3://radtransfer/dvc")
        for name in ("models", "storage"):
            dvc(folder, "remote", "modify", name, "endpointurl", server.url)
    dvc(work, "import-url", f"remote://models/{version.folder.rstrip('/')}", "model")
    shutil.copy(work / "model.dvc", clone)
    dvc(work, "push")
    dvc(clone, "pull")
    for folder in (work, clone):
        assert artifacts.read(folder / "model", "bundle", verify=True).digest == version.digest
