"""`radtransfer submit` against the stub of the API server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from radtransfer.config import RunConfig
from radtransfer.configfile import load
from radtransfer.errors import RadtransferError
from radtransfer_components.support import IMAGE as PLACEHOLDER
from radtransfer_pipelines import NOT_PARAMETERS
from radtransfer_pipelines.cluster.package import Package
from tests.cluster.conftest import CONFIG, Command
from tests.cluster.kfp_stub import Stub, patiently

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


def only(things: dict[str, Any]) -> Any:
    (thing,) = things.values()
    return thing


def test_a_run_is_submitted_to_an_empty_installation(
    stub: Stub, submitting: Command, packages: dict[str, Path]
) -> None:
    done = submitting("--dry-run")
    assert done.code == 0 and stub.asked == [], done.err
    done = submitting("--param", "registry=/data/registry", "--set", "seed=5", "--service-account", "radtransfer")
    assert done.code == 0, done.err
    run, version = only(stub.runs), only(stub.versions)
    assert done.out == f"{run['run_id']}\n"
    assert f"{stub.url}/#/runs/details/{run['run_id']}" in done.err
    assert (
        "data root /data: a folder on the data volume (radtransfer-data) as the tasks see it; it is no URI" in done.err
    )
    assert only(stub.files) == packages["1"].read_bytes()
    assert (
        only(stub.pipelines)["name"] == "transfer-fusion"
        and Package.read(packages["1"]).digest in version["description"]
    )
    assert only(stub.experiments)["display_name"] == "radtransfer"
    assert run["experiment_id"] == only(stub.experiments)["experiment_id"]
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["service_account"] == "radtransfer" and run["display_name"].startswith("fracatlas-hand-quick 20")
    wanted = {k: v for k, v in load(CONFIG, ["seed=5"]).model_dump(mode="json").items() if k not in NOT_PARAMETERS}
    assert run["runtime_config"] == {"parameters": wanted | {"data_root": "/data", "registry": "/data/registry"}}


def test_what_is_unchanged_is_not_uploaded_again(stub: Stub, submitting: Command) -> None:
    first, second = submitting(), submitting("--experiment", "radtransfer")
    assert "uploaded\n" in first.err and "unchanged, nothing was uploaded" in second.err
    assert len(stub.runs) == 2 and len(stub.experiments) == 1
    assert (stub.count("upload_pipeline"), stub.count("upload_pipeline_version")) == (1, 0)


def test_what_changed_becomes_a_new_version(stub: Stub, submitting: Command) -> None:
    submitting()
    changed = submitting(package="2")
    assert re.search(r"pipeline version transfer-fusion-[0-9a-f]{12}: uploaded", changed.err), changed.err
    assert len(stub.pipelines) == 1 and len(stub.versions) == 2
    latest = list(stub.runs.values())[-1]["pipeline_version_reference"]["pipeline_version_id"]
    assert b"sha256:2" in stub.files[latest]
    back = submitting()
    assert "pipeline version transfer-fusion: unchanged" in back.err and len(stub.versions) == 2


def test_a_version_is_found_among_many(stub: Stub, submitting: Command) -> None:
    submitting()
    first = next(iter(stub.versions.values()))
    for number in range(230):
        more = {"pipeline_version_id": f"other-{number}", "description": ""}
        more["created_at"] = f"2027-01-01T00:{number // 60:02}:{number % 60:02}Z"
        stub.versions[f"other-{number}"] = first | more
    assert "unchanged" in submitting().err and stub.count("upload_pipeline_version") == 0


@pytest.mark.parametrize("fault", ["late", 500, 409])
def test_an_upload_of_which_nothing_is_known_is_looked_for(stub: Stub, submitting: Command, fault: int | str) -> None:
    """The server may have taken it before it failed, or another may have been faster."""
    stub.faults["upload_pipeline"] = [fault]
    done = submitting()
    assert done.code == 0, done.err
    assert len(stub.pipelines) == len(stub.versions) == len(stub.runs) == 1
    stub.faults["upload_pipeline_version"] = [fault]
    assert submitting(package="2").code == 0 and len(stub.versions) == 2


def test_a_run_is_never_started_twice(stub: Stub, submitting: Command) -> None:
    stub.faults["run_service_create_run"] = ["late"]
    done = submitting("--run-name", "mine")
    assert done.code == 2 and len(stub.runs) == 1 and stub.count("run_service_create_run") == 1
    assert "The run may have been started all the same: look for 'mine' in `radtransfer runs`" in done.err
    stub.faults["run_service_create_run"] = [400]
    done = submitting()
    assert done.code == 2 and "starting the run: refused (status 400" in done.err and "all the same" not in done.err


def test_a_token_that_expires_between_two_requests(stub: Stub, submitting: Command) -> None:
    stub.faults["run_service_create_run"] = [401]
    done = submitting()
    assert done.code == 2 and "starting the run: a token is needed" in done.err and not stub.runs


def test_no_right_to_upload_is_told_as_such(stub: Stub, submitting: Command) -> None:
    stub.faults["upload_pipeline"] = [403]
    done = submitting()
    assert done.code == 2 and "uploading the pipeline: not allowed here" in done.err and not stub.runs


def test_several_users(stub: Stub, submitting: Command) -> None:
    stub.namespaces = {"mine"}
    done = submitting("--namespace", "mine")
    assert done.code == 0, done.err
    assert only(stub.experiments)["namespace"] == "mine"
    done = submitting("--namespace", "theirs")
    assert done.code == 2 and "namespace 'theirs'" in done.err and len(stub.runs) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "sed=5"], "--set sed=5: unknown key 'sed'; did you mean seed"),
        (["--set", "seed=many"], "--set seed=many: seed: Input should be a valid integer"),
        (["--param", "registri=/r"], "the pipeline transfer-fusion has no such parameter; did you mean registry?"),
        (["--param", "zzz=1"], "known: code_version, data_root, data_version, gpu_count"),
        (["--param", "registry=5"], "--param registry=5: expected text, got int; put it in quotes"),
        (["--param", "registry=[a]"], '--param registry=["a"]: expected text, got list'),
        (["--param", "seed=3"], "--param seed: is an entry of the configuration; say --set seed=..."),
        (["--param", "registry"], "--param registry: expected key=value"),
        (["--data-root", "/mine/data"], "data_root /mine/data: a folder of this machine"),
        (["--data-root", "data"], "name a folder below /data"),
        (["--data-root", "/data/../home"], "a folder of this machine"),
        (["--data-root", "dvc+/tmp@main:data"], "name the repository by its https or ssh URL"),
        (["--data-root", "gs://bucket/x"], "expected a folder, s3://BUCKET/PREFIX"),
        (["--set", "checkpoints=checkpoints"], "checkpoints checkpoints: a folder of this machine"),
        (["--set", "pretrained_models=runs/hand/pretrained"], "runs/hand/pretrained: a folder of this machine"),
        (["--image", "it"], "--package: its image was settled when it was compiled"),
        (["--param", "gpu_count=2"], "--param gpu_count=2: expected text, got int; put it in quotes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_sent(
    stub: Stub, submitting: Command, options: list[str], said: str
) -> None:
    done = submitting(*options)
    assert done.code == 2 and done.out == "" and said in done.err
    assert stub.asked == []


def test_a_token_among_the_parameters_is_not_sent(
    stub: Stub, submitting: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADTRANSFER_KFP_TOKEN", "s3cret")
    done = submitting("--param", "data_version=v1-s3cret")
    assert done.code == 2 and "holds the token" in done.err and "s3cret" not in done.err and stub.asked == []


def package_of(path: Path, inputs: dict[str, Any]) -> Package:
    executors = {"exec-a": {"container": {"image": "i"}}}
    spec = {"pipelineInfo": {"name": "p"}, "deploymentSpec": {"executors": executors}}
    path.write_text(yaml.safe_dump(spec | {"root": {"inputDefinitions": {"parameters": inputs}}}))
    return Package.read(path)


def test_types_are_those_of_the_pipeline(tmp_path: Path) -> None:
    kinds = {
        "STRING": ("a", [1, True, None]),
        "NUMBER_INTEGER": (3, [3.5, "3", True, 3.0]),
        "NUMBER_DOUBLE": (3, ["3", False]),
        "BOOLEAN": (False, [0, "no"]),
        "LIST": ([], [{}, "a"]),
        "STRUCT": ({}, [[], "a"]),
    }
    config = load(CONFIG)
    entries = {name: {"parameterType": "ANYTHING"} for name in RunConfig.model_fields.keys() - NOT_PARAMETERS}
    for kind, (right, wrong) in kinds.items():
        package = package_of(tmp_path / "p.yaml", entries | {"x": {"parameterType": kind}})
        assert package.parameters(config, {"x": right})["x"] == right
        for value in wrong:
            with pytest.raises(RadtransferError, match=r"^--param x=.*: expected"):
                package.parameters(config, {"x": value})
        with pytest.raises(RadtransferError, match=r"^the pipeline p needs a value for x: --param x="):
            package.parameters(config, {})


def test_an_older_pipeline_need_not_know_what_is_left_at_its_default(tmp_path: Path) -> None:
    known = RunConfig.model_fields.keys() - NOT_PARAMETERS - {"refit"}
    entries = {name: {"parameterType": "ANYTHING"} for name in known}
    package = package_of(tmp_path / "p.yaml", entries)
    assert "refit" not in package.parameters(load(CONFIG), {})
    with pytest.raises(RadtransferError, match=r"^refit: the pipeline in .*p\.yaml does not know it; compile it again"):
        package.parameters(load(CONFIG, ["refit=true"]), {})


@pytest.mark.parametrize("content", ["", "a: 1", "[", "pipelineInfo: {name: p}\nroot: {}\ndeploymentSpec: []"])
def test_what_is_no_package_is_told(stub: Stub, radtransfer: Command, tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    done = radtransfer("submit", "--config", str(CONFIG), "--package", str(path))
    assert done.code == 2 and f"{path}: is no compiled pipeline" in done.err
    path.unlink()
    assert "no such file" in radtransfer("submit", "--config", str(CONFIG), "--package", str(path)).err


def test_the_placeholder_is_no_image(stub: Stub, radtransfer: Command) -> None:
    done = radtransfer("submit", "--config", str(CONFIG), "--package", str(COMPILED / "transfer_fusion.yaml"))
    assert done.code == 2 and f"its tasks have {PLACEHOLDER} for an image" in done.err and stub.asked == []


def test_the_package_is_compiled_where_none_is_given(stub: Stub, radtransfer: Command) -> None:
    options = ["--image", "registry.example/it:v1", "--gpus", "2", "--pipeline", "ct_reuse"]
    done = radtransfer("submit", "--config", str(CONFIG), *options)
    assert done.code == 0, done.err
    assert "warning: image registry.example/it:v1 has no digest" in done.err
    spec, _ = yaml.safe_load_all(only(stub.files))
    assert spec["pipelineInfo"]["name"] == "ct-reuse"
    containers = [each["container"] for each in spec["deploymentSpec"]["executors"].values()]
    assert {each["image"] for each in containers} == {"registry.example/it:v1"}
    sent = only(stub.runs)["runtime_config"]["parameters"]
    assert (sent["gpu_resource"], sent["gpu_count"], sent["training_cpu"]) == ("nvidia.com/gpu", "2", "8")
    assert sent["gpu_tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_waiting_for_success(stub: Stub, submitting: Command) -> None:
    stub.script = [
        ("PENDING", {}),
        ("RUNNING", {"root-driver": "SUCCEEDED", "preprocess": "RUNNING"}),
        ("RUNNING", {"preprocess": "RUNNING"}),
        ("RUNNING", {"preprocess": "SUCCEEDED", "fuse": "RUNNING"}),
        ("SUCCEEDED", {"fuse": "SUCCEEDED"}),
    ]
    stub.faults["run_service_get_run"] = [503, "drop"]
    done = submitting("--wait")
    lines = [line.split(" ", 2)[2] for line in done.err.splitlines() if re.match(r"radtransfer: \d\d:\d\d:\d\d ", line)]
    assert done.code == 0 and done.out == f"{only(stub.runs)['run_id']}\n"
    assert lines == [
        "run: pending",
        "preprocess: running",
        "run: running",
        "preprocess: succeeded",
        "fuse: running",
        "fuse: succeeded",
        "run: succeeded",
    ]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_waiting_for_another_end(stub: Stub, submitting: Command, state: str) -> None:
    stub.script = [(state, {"preprocess": "FAILED: the data set is not there"})]
    done = submitting("--wait")
    assert done.code == 1 and f"run: {state.lower()}" in done.err
    assert "preprocess: failed (the data set is not there)" in done.err


def test_an_error_while_waiting_says_that_the_run_goes_on(stub: Stub, submitting: Command) -> None:
    stub.script = [("RUNNING", {})]
    stub.faults["run_service_get_run"] = [401]
    done = submitting("--wait")
    assert done.code == 2 and f"The run {only(stub.runs)['run_id']} goes on" in done.err


def test_ctrl_c_leaves_the_run_running_and_says_so(stub: Stub, packages: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from radtransfer.cli import main; main()", "submit", "--wait"]
    command += ["--config", str(CONFIG), "--package", str(packages["1"]), "--host", stub.url]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)}
    ) as process:
        ended = threading.Timer(60, process.kill)
        ended.start()
        patiently(lambda: stub.count("run_service_get_run") > 0, 50)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        ended.cancel()
    run = only(stub.runs)
    assert process.returncode == 130 and out == f"{run['run_id']}\n", err
    assert f"no longer waiting; the run {run['run_id']} goes on" in err and "interrupted" not in err
    assert run["state"] == "PENDING"
