"""A data set under version control: dvc takes the images, git takes the file that names them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def call(folder: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == 0, f"{command}: {run.stdout}\n{run.stderr}"
    return run.stdout


def test_dvc_adds_a_data_set_and_git_sees_its_name_alone(tmp_path: Path) -> None:
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "data/FracAtlas").mkdir(parents=True)
    (tmp_path / "data/FracAtlas/image.png").write_bytes(b"image")
    call(tmp_path, "git", "init", "--quiet")
    call(tmp_path, "dvc", "add", "data/FracAtlas")
    call(tmp_path, "git", "add", "--all")
    seen = call(tmp_path, "git", "ls-files", "data").split()
    assert seen == ["data/FracAtlas.dvc"]
