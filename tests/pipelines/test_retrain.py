"""`radtransfer retrain`: the real graph on stand-ins for the library's steps, but for `resolve`."""

from __future__ import annotations

import pytest

from radtransfer import artifacts
from radtransfer.artifacts import read_json
from radtransfer.configfile import load
from radtransfer.preprocess.inherit import FILE
from radtransfer.registry.champion import promote
from radtransfer.registry.entry import enter
from radtransfer.registry.versions import Registry
from radtransfer_pipelines import OF_RETRAIN
from tests.pipelines.conftest import FakeRun

SPLITS = "role,image_id,sha256,split\ntarget,T/normal/a.png,aa,test\n"


@pytest.fixture
def registry(fake_run: FakeRun) -> Registry:
    """A registry with a champion, which keeps its splits."""
    with artifacts.writing(fake_run.folder / "before", "bundle", step="register", settings={}) as (folder, said):
        (folder / FILE).write_text(SPLITS)
        said.update(name="fake", tl_source="imagenet", threshold=0.5)
    registry = Registry.open(fake_run.folder / "registry", write=True)
    enter(registry, fake_run.folder / "before", [])
    promote(registry, "fake", 1, why="by hand")
    fake_run.command = "retrain"
    return registry


def test_a_retraining_runs_by_the_splits_of_the_champion_and_ends_with_the_gate(
    fake_run: FakeRun, registry: Registry
) -> None:
    options = ["--registry", registry.place.name, "--margin", "0.01", "--floor", "0.7", "--set", "pipeline=ct_reuse"]
    hook = {"FAKE_OUTCOME": "promoted", "RADTRANSFER_WEBHOOK": "http://127.0.0.1:1/token"}  # where nobody listens
    code, stdout, stderr = fake_run(*options, FAKE_FAIL="evaluate", **hook)
    assert "WARNING: nobody was told that fake was failed" in stderr and "token" not in stderr
    assert code == 2 and "evaluate: image x.png" in stderr and not stdout
    code, stdout, stderr = fake_run(*options, **hook)
    assert code == 0 and "WARNING: nobody was told that fake was promoted" in stderr, stderr
    assert "changed since fake@1: data in the folder" in stderr
    assert stdout.splitlines()[-1] == "fake@2 promoted: so it seems"
    calls = fake_run.calls
    assert calls[0] == f"preprocess by {registry.place.name}#fake@1" and calls[-1] == "gate 0.01 0.7"
    twice = sorted({call for call in calls if calls.count(call) > 1})
    assert twice == ["drift", "evaluate"], "what failed, and what looks at the champion of the day"
    assert artifacts.read(fake_run.out / "decision", "decision").content["outcome"] == "promoted"
    config = load(fake_run.out / "config.yaml")
    assert (config.pipeline, config.previous_splits) == (OF_RETRAIN, f"{registry.place.name}#fake@1")
    tasks = [task["task"] for task in read_json(fake_run.out / "run.json")["tasks"]]
    assert "resolve" in tasks and tasks[-1] == "gate" and (fake_run.out / "report.html").is_file()


def test_declined_is_exit_code_1_and_what_cannot_be_retrained_is_said_before_anything_runs(
    fake_run: FakeRun, registry: Registry
) -> None:
    code, _, stderr = fake_run("--registry", registry.place.name, "--set", "test_fold=[1, 5]")
    assert code == 2 and "test_fold: cuts the data anew" in stderr and not fake_run.calls
    code, stdout, _ = fake_run("--registry", registry.place.name, FAKE_OUTCOME="declined")
    assert code == 1 and stdout.splitlines()[-1] == "fake@2 declined: so it seems"
