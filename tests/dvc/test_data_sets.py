"""A data set under version control: dvc takes the images, git takes the file that names them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from radtransfer.datasets.published import SETS

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


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A repository whose parameters name every published data set, as the comment there says it is to be done."""
    Repo.init(str(tmp_path), no_scm=True).close()
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    text = (ROOT / "params.yaml").read_text()
    (offered,) = (line.removeprefix("# ") for line in text.splitlines() if line.startswith("# {"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load(text) | {"published": yaml.safe_load(offered)}))
    return tmp_path


def test_every_published_data_set_has_a_stage_that_fetches_it(published: Path) -> None:
    with Repo(str(published)) as repository:
        stages = {stage.name: stage for stage in repository.index.stages}
    for name, known in SETS.items():
        stage = stages.pop(f"published@{name}")
        assert stage.cmd == f"radtransfer datasets fetch {name} --data-root data"
        assert [output.def_path for output in stage.outs] == [f"data/{known.folder}"]
    assert set(stages) == {"phantoms", "run"}


def test_a_stage_says_how_to_get_what_cannot_be_fetched_and_removes_no_copy(published: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = ("dvc", "repro", "published@mura")
    run = subprocess.run(command, cwd=published, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode != 0
    assert "register on the page" in run.stderr

    copy = published / "data/MURA-v1.1/train.csv"
    copy.parent.mkdir(parents=True)
    copy.write_text("a copy of one's own")
    run = subprocess.run(command, cwd=published, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode != 0
    assert "data/MURA-v1.1" in run.stderr
    assert copy.read_text() == "a copy of one's own"
