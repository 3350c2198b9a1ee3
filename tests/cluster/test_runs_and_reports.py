"""`radtransfer runs` and `radtransfer report` against the stub of the API server and a real object store."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from radtransfer.errors import RadtransferError
from radtransfer_pipelines.cluster import results
from tests.cluster.conftest import Command
from tests.cluster.kfp_stub import Stub
from tests.weed import KEYS, Weed

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
PAGE = b"<!doctype html><title>Report</title>" + bytes(range(256)) * 400
ROOT = "s3://radtransfer/kfp?region=somewhere"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    weed = Weed(tmp_path_factory.mktemp("weed"))
    yield weed
    weed.kill()


@pytest.fixture
def storage(server: Weed, monkeypatch: pytest.MonkeyPatch) -> Weed:
    for name, value in (KEYS | {"AWS_ENDPOINT_URL_S3": server.url}).items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def submitted(stub: Stub, submitting: Command) -> dict[str, Any]:
    """A run of ours that has succeeded, whose artifacts go below ROOT."""
    assert submitting("--pipeline-root", ROOT, "--run-name", "mine").code == 0
    (run,) = stub.runs.values()
    run["state"] = "SUCCEEDED"
    return run


def left(storage: Weed, run: dict[str, Any], content: bytes, task: str = "report", place: str = "5f/html") -> None:
    """What a task left, where KFP puts it."""
    key = f"kfp/transfer-fusion/{run['run_id']}/{task}/{place}"
    storage.client.put_object(Bucket="radtransfer", Key=key, Body=content)


def test_runs_are_listed_newest_first(stub: Stub, radtransfer: Command, submitted: dict[str, Any]) -> None:
    stub.add_run("older", "FAILED", 3725, experiment_id="x")
    stub.add_run("gone", storage_state="ARCHIVED")
    stub.add_run("at work", "RUNNING")
    done = radtransfer("runs")
    heading, *rows = done.out.splitlines()
    assert done.code == 0 and heading.split()[:3] == ["run", "name", "state"] and len(rows) == 3
    assert [name in row for name, row in zip(("at work", "older", "mine"), rows, strict=True)] == [True] * 3
    assert "RUNNING" in rows[0] and "FAILED" in rows[1] and "1:02:05" in rows[1]
    assert rows[2].startswith(submitted["run_id"]) and rows[2].rstrip().endswith("transfer-fusion")
    latest = radtransfer("runs", "--limit", "2").out.splitlines()[1:]
    assert [row.split()[0] for row in latest] == [row.split()[0] for row in rows[:2]]
    of = radtransfer("runs", "--experiment", "radtransfer").out.splitlines()
    assert len(of) == 2 and "mine" in of[1]
    done = radtransfer("runs", "--experiment", "radtransfr")
    assert done.code == 2 and "there is no experiment with the name 'radtransfr'" in done.err


def test_many_runs_are_asked_for_in_pages(stub: Stub, radtransfer: Command) -> None:
    for number in range(105):
        stub.add_run(f"run {number}")
    names = [line.split()[2] for line in radtransfer("runs", "--limit", "103").out.splitlines()[1:]]
    assert names == [str(number) for number in range(104, 1, -1)]
    assert stub.count("run_service_list_runs") == 2


def test_no_runs(stub: Stub, radtransfer: Command) -> None:
    done = radtransfer("runs")
    assert (done.code, done.out, done.err) == (0, "", "radtransfer: no runs\n")


def test_figures_of_runs_come_from_storage(
    stub: Stub, radtransfer: Command, submitted: dict[str, Any], storage: Weed
) -> None:
    stub.add_run("at work", "RUNNING")
    done = radtransfer("runs", "--metrics")
    assert done.code == 0 and "0.8" not in done.out, done.err
    left(storage, submitted, json.dumps({"auroc": 0.8125, "kappa": 0.5}).encode(), "evaluate", "1/scalars")
    lines = radtransfer("runs", "--metrics").out.splitlines()
    assert lines[0].split()[-2:] == ["auroc", "kappa"] and lines[2].split()[-2:] == ["0.812", "0.500"]


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_report_is_fetched_whole(
    radtransfer: Command, submitted: dict[str, Any], storage: Weed, tmp_path: Path, by: str
) -> None:
    left(storage, submitted, PAGE)
    left(storage, submitted, b"something else", place="5f/summary")
    out = tmp_path / "r.html"
    wanted = submitted["run_id"] if by == "id" else "mine"
    done = radtransfer("report", wanted, "--out", str(out))
    assert (done.code, done.out) == (0, f"{out}\n"), done.err
    assert out.read_bytes() == PAGE and [path.name for path in tmp_path.iterdir()] == ["r.html"]
    done = radtransfer("report", wanted, "--out", str(out))
    assert done.code == 2 and "already exists" in done.err and out.read_bytes() == PAGE


def test_of_a_repeated_task_the_last_report_is_fetched(
    radtransfer: Command, submitted: dict[str, Any], storage: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(storage, submitted, PAGE, place="zz/html")
    time.sleep(1.1)  # the store tells times in whole seconds
    left(storage, submitted, PAGE + b"again", place="aa/html")
    monkeypatch.chdir(tmp_path)
    done = radtransfer("report", submitted["run_id"])
    assert done.code == 0, done.err
    assert Path(f"report-{submitted['run_id']}.html").read_bytes() == PAGE + b"again"


def test_a_run_that_does_not_say_where_its_artifacts_are(
    stub: Stub, radtransfer: Command, submitting: Command, storage: Weed, tmp_path: Path
) -> None:
    assert submitting().code == 0
    (run,) = stub.runs.values()
    run["state"] = "SUCCEEDED"
    left(storage, run, PAGE, place="html")  # as KFP before 2.5 did
    out = str(tmp_path / "r.html")
    done = radtransfer("report", run["run_id"], "--out", out)
    assert done.code == 2 and "s3://mlpipeline/" in done.err
    done = radtransfer("report", run["run_id"], "--out", out, "--pipeline-root", "minio://radtransfer/other")
    assert done.code == 2 and "if this installation has another pipeline root" in done.err
    assert radtransfer("report", run["run_id"], "--out", out, "--pipeline-root", "minio://radtransfer/kfp/").code == 0


def test_there_is_no_such_report(
    stub: Stub, radtransfer: Command, submitted: dict[str, Any], storage: Weed, tmp_path: Path
) -> None:
    def said(*arguments: str) -> str:
        done = radtransfer("report", *arguments, "--out", str(tmp_path / "r.html"))
        assert done.code == 2 and done.out == "" and not any(tmp_path.glob("*.html"))
        return done.err

    run_id = submitted["run_id"]
    left(storage, submitted, b"Access denied")
    assert "is no HTML page" in said(run_id)
    unknown = str(uuid.uuid4())
    assert f"there is no run with the id {unknown}" in said(unknown)
    assert "there is no run with the id or name 'yours'" in said("yours")
    submitted["state"] = "RUNNING"
    assert f"run {run_id}: has not finished (RUNNING)" in said(run_id)
    stub.add_run("mine", "FAILED")
    ambiguous = said("mine")
    assert "2 runs have the name 'mine'; name one by its id: " in ambiguous and run_id in ambiguous
    failed = stub.add_run("f", "FAILED", pipeline_spec=yaml.safe_load("pipelineInfo: {name: p}"))
    assert f"run {failed}: ended as FAILED. " in said(failed)
    assert "does not say which pipeline" in said(stub.add_run("of what"))
    submitted["state"] = "SUCCEEDED"
    storage.client.delete_object(Bucket="radtransfer", Key=f"kfp/transfer-fusion/{run_id}/report/5f/html")
    missing = said(run_id)
    assert f"s3://radtransfer/kfp/transfer-fusion/{run_id}/report/" in missing and "--pipeline-root" not in missing


def test_a_report_is_not_written_into_nowhere(
    radtransfer: Command, submitted: dict[str, Any], storage: Weed, tmp_path: Path
) -> None:
    left(storage, submitted, PAGE)
    done = radtransfer("report", "mine", "--out", str(tmp_path / "no" / "r.html"))
    assert done.code == 2 and f"{tmp_path / 'no'}: no such folder" in done.err


def test_storage_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.bucket_of("s3://bucket/a/b/?endpoint=x") == ("bucket", "a/b")
    for root in ("gs://bucket/x", "bucket/x", "s3://"):
        with pytest.raises(RadtransferError, match="expected s3://BUCKET/PREFIX or minio://"):
            results.bucket_of(root)
    with pytest.raises(RadtransferError, match="AWS_ENDPOINT_URL_S3"):
        results.bucket_of(results.DEFAULT_ROOT)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:9000")
    assert results.bucket_of(results.DEFAULT_ROOT) == ("mlpipeline", "v2/artifacts")


@pytest.mark.parametrize(("artifact", "kind"), [(results.REPORT, "system.HTML"), (results.SCALARS, "system.Metrics")])
@pytest.mark.parametrize("name", ["transfer_fusion", "ct_reuse"])
def test_pipelines_have_what_is_fetched(name: str, artifact: tuple[str, str], kind: str) -> None:
    spec = next(iter(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text(encoding="utf-8"))))
    task, output = artifact
    component = spec["root"]["dag"]["tasks"][task]["componentRef"]["name"]
    outputs = spec["components"][component]["outputDefinitions"]["artifacts"]
    assert outputs[output]["artifactType"]["schemaTitle"] == kind


def test_a_run_without_details_has_no_place() -> None:
    run = SimpleNamespace(run_id="1", state=None, pipeline_spec=None, pipeline_version_reference=None)
    with pytest.raises(RadtransferError, match=r"has not finished \(UNKNOWN\)"):
        results.report(SimpleNamespace(), run, Path("does-not-exist.html"))
