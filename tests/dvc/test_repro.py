"""DVC for real: the stages run in a fresh clone, the result is shown, and S3 storage gives back what it was given."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.weed import KEYS, Weed

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TINY = {
    "image_size": 48,
    "input_size": 32,
    "backbones": "[tf_efficientnet_lite0]",
    "pretrain_epochs": 1,
    "finetune_epochs": 1,
    "cv_folds": 3,
    "bootstrap": 100,
    "explain_images": 1,
    "lime_samples": 10,
    "quality_images": 0,
}


def call(folder: Path, *command: str) -> str:
    """Run a program of this environment in ``folder``; its standard output."""
    environment = os.environ | KEYS | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == 0, f"{command}: {run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout


def contents(folder: Path) -> dict[str, str]:
    """Relative name to sha256 of every file under data/ and runs/."""
    files = (path for name in ("data", "runs") for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would take of this repository, as a repository of its own, with parameters that take a minute."""
    folder = tmp_path_factory.mktemp("dvc") / "clone"
    names = call(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in names:
        if name and (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["overrides"] = " ".join(f"--set '{key}={value}'" for key, value in TINY.items())
    params["phantoms"]["images-per-part"] = 100
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "clone")
    return folder


@pytest.fixture(scope="module")
def reproduced(clone: Path) -> Path:
    call(clone, "dvc", "repro")
    return clone


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real S3 server of our own, with an empty bucket ``radtransfer``."""
    server = Weed(tmp_path_factory.mktemp("weed"))
    try:
        yield server.url
    finally:
        server.kill()


def test_the_stages_fit_every_configuration(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True).close()
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"config": name}))
        with Repo(str(tmp_path)) as repository:
            (run,) = (stage for stage in repository.index.stages if stage.name == "run")
        assert f"configs/{name}.yaml" in [dependency.def_path for dependency in run.deps]
        assert [output.def_path for output in run.outs] == [f"runs/{name}", f"results/{name}.json"]


@pytest.mark.slow
def test_repro_makes_the_result_and_shows_it(reproduced: Path) -> None:
    shown = json.loads(call(reproduced, "dvc", "metrics", "show", "--json"))
    headline = shown[""]["data"]["results/demo.json"]["data"]
    metrics = json.loads((reproduced / "runs/demo/metrics.json").read_text())
    (selected,) = (row for row in metrics["results"] if row["selected"])
    assert headline["selected"] == selected["id"]
    assert headline["auroc"] == selected["auroc"]["value"]
    assert (reproduced / "runs/demo/report.html").stat().st_size > 10_000
    assert not (reproduced / "runs/demo.unfinished").exists()
    assert set(call(reproduced, "git", "status", "--porcelain").split()) == {"??", "dvc.lock", "results/"}


@pytest.mark.slow
def test_a_second_repro_has_nothing_to_do(reproduced: Path) -> None:
    before = contents(reproduced)
    assert "Data and pipelines are up to date." in call(reproduced, "dvc", "repro")
    assert contents(reproduced) == before


@pytest.mark.slow
def test_s3_gives_back_what_was_pushed(reproduced: Path, storage: str) -> None:
    before = contents(reproduced)
    assert len(before) > 10
    call(reproduced, "dvc", "remote", "add", "--local", "--default", "storage", "s3://radtransfer/dvc")
    call(reproduced, "dvc", "remote", "modify", "--local", "storage", "endpointurl", storage)
    call(reproduced, "dvc", "push")
    for name in ("data", "runs", ".dvc/cache"):
        shutil.rmtree(reproduced / name)
    call(reproduced, "dvc", "pull")
    assert contents(reproduced) == before
