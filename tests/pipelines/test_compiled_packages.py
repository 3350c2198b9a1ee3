"""The compiled packages: the committed ones are what the code gives, and every task has what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from radtransfer.config import RunConfig, validate
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.errors import RadtransferError
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import NOT_PARAMETERS, PIPELINES
from radtransfer_pipelines.compile import compile_all
from radtransfer_pipelines.resources import RESOURCES

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
NAMES = sorted(PIPELINES)
READERS = {"preprocess", "external"}
"""Steps that read data sets, and must look at them anew each time."""


@pytest.fixture(scope="module", params=NAMES)
def package(request: pytest.FixtureRequest) -> dict[str, Any]:
    return next(iter(yaml.safe_load_all((COMPILED / f"{request.param}.yaml").read_text(encoding="utf-8"))))


def executors(package: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key.removeprefix("exec-"): value["container"] for key, value in package["deploymentSpec"]["executors"].items()
    }


def step_of(task: str) -> str:
    return re.sub(r"-\d+$", "", task)


def tasks(package: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task of the graph and of its loops, by name."""
    found = dict(package["root"]["dag"]["tasks"])
    for component in package["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def test_committed_packages_are_what_the_code_gives(tmp_path: Path) -> None:
    """Compiled in a fresh process with another hash seed: `make compile` mends a difference."""
    command = [sys.executable, "-c", "from radtransfer.cli import main; main()", "compile", "--out", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, timeout=120)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in COMPILED.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (COMPILED / path.name).read_bytes(), f"{path.name}: run `make compile`"


def test_parameters_are_those_of_a_configuration_with_defaults_and_descriptions(package: dict[str, Any]) -> None:
    parameters = package["root"]["inputDefinitions"]["parameters"]
    settings = set(RunConfig.model_fields) - set(NOT_PARAMETERS)
    assert set(parameters) == settings | {"data_root", "data_version", "code_version", "registry"}
    assert all(len(parameter["description"]) > 10 and "defaultValue" in parameter for parameter in parameters.values())
    defaults = {name: parameters[name]["defaultValue"] for name in settings}
    config = validate(defaults | {"pipeline": package["pipelineInfo"]["name"].replace("-", "_")}, "package")
    assert parameters["image_size"] == {
        "defaultValue": float(config.image_size),
        "description": RunConfig.model_fields["image_size"].description,
        "isOptional": True,
        "parameterType": "NUMBER_INTEGER",
    }
    assert parameters["backbones"]["parameterType"] == "LIST"
    for name in settings:
        kind = RunConfig.model_fields[name].annotation
        assert (parameters[name]["parameterType"] == "NUMBER_DOUBLE") == (kind is float), name


def test_table_of_resources_covers_all_tasks_and_reaches_them(package: dict[str, Any]) -> None:
    found = executors(package)
    assert {step_of(name) for name in found} == set(RESOURCES)
    for name, container in found.items():
        need = RESOURCES[step_of(name)]
        assert container["image"] == IMAGE
        told = {each["name"]: each["value"] for each in container.get("env", [])}
        assert told == ({"RADTRANSFER_IMAGE": IMAGE} if step_of(name) == "register" else {})
        assert container["resources"]["resourceCpuLimit"] == str(need.cpu)
        assert container["resources"]["resourceMemoryLimit"] == f"{need.memory}Gi"
        assert "accelerator" not in container["resources"]
        task = tasks(package)[name]
        # A recurring run must look at the data anew; KFP writes {} for a task that is not cached.
        assert task["cachingOptions"] == ({} if step_of(name) in READERS else {"enableCache": True})
        looped = step_of(name) in {"pretrain", "finetune", "extract"}
        assert ("retryPolicy" in task) == (need.retries > 0 and not looped)


def test_no_task_installs_anything_and_each_takes_the_code_version(package: dict[str, Any]) -> None:
    for name, container in executors(package).items():
        assert "pip install" not in " ".join(container["command"] + container["args"])
        assert tasks(package)[name]["inputs"]["parameters"]["code_version"]["componentInputParameter"].endswith(
            "code_version"
        )


def test_sources_are_compared_on_equal_terms(package: dict[str, Any]) -> None:
    """The three fine-tuning tasks differ in where they start and in nothing else."""
    tuned = [task for name, task in tasks(package).items() if step_of(name) == "finetune"]
    assert len(tuned) == 3
    seen = []
    for task in tuned:
        inputs = dict(task["inputs"]["parameters"])
        seen.append((inputs.pop("tl_source")["runtimeValue"]["constant"], "pretrained" in task["inputs"]["artifacts"]))
        del inputs["backbone"]  # the item of each one's own loop
        assert inputs == {k: v for k, v in tuned[0]["inputs"]["parameters"].items() if k in inputs}
    assert seen == [("scratch", False), ("imagenet", False), ("in_domain", True)]


@pytest.mark.parametrize("name", NAMES)
def test_tasks_see_the_volume_and_the_key_by_the_names_of_the_manifests(name: str) -> None:
    base = COMPILED.parents[1] / "manifests" / "base"
    claim = yaml.safe_load((base / "data-volume.yaml").read_text(encoding="utf-8"))["metadata"]["name"]
    secret = yaml.safe_load((base / "secret.example.yaml").read_text(encoding="utf-8"))
    package, platform = yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text(encoding="utf-8"))
    root = package["root"]["inputDefinitions"]["parameters"]["data_root"]["defaultValue"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = READERS | {"pretrain", "finetune", "register"}
    for task in executors(package):
        extra = settings.get(f"exec-{task}", {})
        mounts = [(mount["constant"], mount["mountPath"]) for mount in extra.get("pvcMount", [])]
        assert mounts == ([(claim, root)] if step_of(task) in mounted else [])
        names = {key["envVar"] for each in extra.get("secretAsEnv", []) for key in each["keyToEnv"]}
        assert (VARIABLE in names) == (step_of(task) in READERS)
        stores = step_of(task) in READERS | {"pretrain", "finetune", "register"}  # data, checkpoints and models
        assert ("AWS_SECRET_ACCESS_KEY" in names) == stores
    given = settings["exec-preprocess"]["secretAsEnv"]
    assert all(each["secretName"] == secret["metadata"]["name"] and each["optional"] is True for each in given)
    keys = {key["envVar"]: key["secretKey"] for each in given for key in each["keyToEnv"]}
    assert set(keys.values()) == set(secret["stringData"]) and VARIABLE in keys and "AWS_SECRET_ACCESS_KEY" in keys


def test_local_packages_are_all_cached_and_have_nothing_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kfp.kubernetes", None)  # as if kfp-kubernetes were not installed
    monkeypatch.delattr("kfp.kubernetes", raising=False)
    for path in compile_all(tmp_path, target="local"):
        (package,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        assert all(tasks(package)[name]["cachingOptions"] == {"enableCache": True} for name in executors(package))
    with pytest.raises(RadtransferError, match=r"pip install 'radtransfer\[cluster\]'"):
        compile_all(tmp_path, target="cluster")


@pytest.mark.parametrize("gpus", [1, 4])
def test_gpu_packages_ask_for_gpus_where_training_is(tmp_path: Path, gpus: int) -> None:
    path = compile_all(tmp_path, image="registry.example/radtransfer@sha256:0", target="cluster-gpu", gpus=gpus)[0]
    package, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for name, container in executors(package).items():
        assert container["image"] == "registry.example/radtransfer@sha256:0"
        wanted = step_of(name) in {"pretrain", "finetune"}
        assert ("accelerator" in container["resources"]) == wanted
        if wanted:
            need, asked = RESOURCES[step_of(name)], container["resources"]
            assert asked["accelerator"]["resourceCount"] == str(gpus)
            assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == (
                str(need.cpu * gpus),
                f"{need.memory * gpus}Gi",
            )
        extra = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(f"exec-{name}", {})
        assert ("tolerations" in extra) == wanted
        assert ("emptyDirMounts" in extra) == wanted
