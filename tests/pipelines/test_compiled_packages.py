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

from radtransfer.config import RunConfig
from radtransfer.configfile import validate
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.errors import RadtransferError
from radtransfer.registry.notify import VARIABLE as WEBHOOK
from radtransfer.registry.weigh import Rules
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import NOT_PARAMETERS, PIPELINES
from radtransfer_pipelines import OF_RETRAIN as OF
from radtransfer_pipelines.compile import compile_all
from radtransfer_pipelines.resources import DISK, PARAMETERS, RESOURCES, WEBHOOK_KEY
from radtransfer_pipelines.retrain import RULES

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
NAMES = sorted(PIPELINES)
READERS = {"preprocess", "external"}
"""Steps that read data sets, and must look at them anew each time."""
OF_RETRAIN = {"resolve", "drift", "gate", "notify"}
"""Steps that the pipeline ``retrain`` has beside those of a run."""


def retrains(package: dict[str, Any]) -> bool:
    return bool(package["pipelineInfo"]["name"] == "retrain")


@pytest.fixture(scope="module", params=NAMES)
def documents(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """A package: the pipeline, and what Kubernetes is to know of it."""
    package, platform = yaml.safe_load_all((COMPILED / f"{request.param}.yaml").read_text(encoding="utf-8"))
    return package, platform


@pytest.fixture(scope="module")
def package(documents: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return documents[0]


@pytest.fixture(scope="module")
def settings(documents: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kubernetes' settings of each task."""
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {key.removeprefix("exec-"): value for key, value in executors.items()}


def executors(package: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key.removeprefix("exec-"): value["container"] for key, value in package["deploymentSpec"]["executors"].items()
    }


def standing(package: dict[str, Any], parameter: str, value: str) -> str:
    """What stands for a value in a training's resources: the parameter whose default it is."""
    assert package["root"]["inputDefinitions"]["parameters"][parameter]["defaultValue"] == value
    return f"{{{{$.inputs.parameters['pipelinechannel--{parameter}']}}}}"


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
    submission = {"data_root", "data_version", "code_version", "registry"}
    gate = set(RULES) if retrains(package) else set()
    assert set(parameters) == settings | submission | set(PARAMETERS) | gate
    assert {name: parameters[name]["defaultValue"] for name in gate} == {name: getattr(Rules(), name) for name in gate}
    assert all(len(parameter["description"]) > 10 and "defaultValue" in parameter for parameter in parameters.values())
    defaults = {name: parameters[name]["defaultValue"] for name in settings}
    name = OF if retrains(package) else package["pipelineInfo"]["name"].replace("-", "_")
    config = validate(defaults | {"pipeline": name}, "package")
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


def test_table_of_resources_covers_all_tasks_and_reaches_them(
    package: dict[str, Any], settings: dict[str, dict[str, Any]]
) -> None:
    found = executors(package)
    steps = set(RESOURCES) - (set() if retrains(package) else OF_RETRAIN)
    assert {step_of(name) for name in found} == steps and set(found) == set(settings)
    for name, container in found.items():
        need, its = RESOURCES[step_of(name)], container["resources"]
        assert container["image"] == IMAGE
        told = {each["name"]: each["value"] for each in container.get("env", [])}
        assert told == ({"RADTRANSFER_IMAGE": IMAGE} if step_of(name) in {"preflight", "register", "gate"} else {})
        cpu = standing(package, "training_cpu", str(need.cpu)) if need.gpu else str(need.cpu)
        assert its["resourceCpuLimit"] == its["resourceCpuRequest"] == cpu
        memory = standing(package, "training_memory", f"{need.memory}Gi") if need.gpu else f"{need.memory}Gi"
        assert its["resourceMemoryLimit"] == its["resourceMemoryRequest"] == memory
        assert settings[name]["podMetadata"] == {"annotations": {DISK: f"{need.disk}Gi"}}
        assert settings[name]["securityContext"] == {"runAsNonRoot": True}
        task = tasks(package)[name]
        # A recurring run must look at the data anew; KFP writes {} for a task that is not cached.
        anew = READERS | OF_RETRAIN | {"preflight"}
        assert task["cachingOptions"] == ({} if step_of(name) in anew else {"enableCache": True})
        looped = step_of(name) in {"pretrain", "finetune", "extract"}
        assert ("retryPolicy" in task) == (need.retries > 0 and not looped)


def test_the_gpu_pool_of_a_run_reaches_every_training_and_no_other_task(
    package: dict[str, Any], settings: dict[str, dict[str, Any]]
) -> None:
    """By parameters; KFP's driver reads counts and sizes as text, and a number as nothing."""
    parameters = package["root"]["inputDefinitions"]["parameters"]
    pool = {"gpu_resource": "STRING", "gpu_count": "STRING", "training_cpu": "STRING", "training_memory": "STRING"}
    pool |= {"gpu_node_selector": "STRUCT", "gpu_tolerations": "LIST", "secret": "STRING"}
    assert {name: parameters[name]["parameterType"] for name in PARAMETERS} == pool
    for name, container in executors(package).items():
        resources, extra = container["resources"], settings[name]
        if step_of(name) not in {"pretrain", "finetune"}:
            assert not {"tolerations", "nodeSelector", "emptyDirMounts"} & set(extra) and "accelerator" not in resources
            assert "training" not in str(container["resources"]) and "gpu" not in str(tasks(package)[name])
            continue
        assert resources["accelerator"] == {
            "resourceType": "{{$.inputs.parameters['pipelinechannel--gpu_resource']}}",
            "resourceCount": "{{$.inputs.parameters['pipelinechannel--gpu_count']}}",
        }
        assert resources["resourceMemoryLimit"] == "{{$.inputs.parameters['pipelinechannel--training_memory']}}"
        tolerated, selected = extra["tolerations"], extra["nodeSelector"]
        assert tolerated == [{"tolerationJson": {"componentInputParameter": "pipelinechannel--gpu_tolerations"}}]
        assert selected == {"nodeSelectorJson": {"componentInputParameter": "pipelinechannel--gpu_node_selector"}}
        assert extra["emptyDirMounts"] == [{"medium": "Memory", "mountPath": "/dev/shm", "volumeName": "shm"}]


def test_every_parameter_that_a_task_names_is_handed_to_it(
    package: dict[str, Any], settings: dict[str, dict[str, Any]]
) -> None:
    """KFP 2.17 lets a loop's tasks name parameters that nobody hands into the loop, in silence."""
    graphs = {"root": package["root"]} | {k: v for k, v in package["components"].items() if "dag" in v}
    handed = {
        task["componentRef"]["name"]: set(task["inputs"]["parameters"])
        for graph in graphs.values()
        for task in graph["dag"]["tasks"].values()
    }
    for graph_name, graph in graphs.items():
        defined = set(graph["inputDefinitions"]["parameters"])
        if graph_name != "root":
            looped = graph_name.startswith("comp-for-loop")
            assert {name for name in defined if not (looped and name.endswith("-loop-item"))} <= handed[graph_name]
        for name, task in graph["dag"]["tasks"].items():
            inputs = task.get("inputs", {}).get("parameters", {})
            named = {each["componentInputParameter"] for each in inputs.values() if "componentInputParameter" in each}
            named |= set(re.findall(r"'componentInputParameter': '([^']+)'", str(settings.get(name, {}))))
            assert named <= defined, f"{name} in {graph_name}"
            container = executors(package).get(name, {})
            placed = set(re.findall(r"inputs\.parameters\['([^']+)'\]", str(container.get("resources"))))
            assert placed <= set(inputs), f"resources of {name} in {graph_name}"


def test_no_task_installs_anything_and_each_takes_the_code_version(package: dict[str, Any]) -> None:
    for name, container in executors(package).items():
        assert "pip install" not in " ".join(container["command"] + container["args"])
        assert tasks(package)[name]["inputs"]["parameters"]["code_version"]["componentInputParameter"].endswith(
            "code_version"
        )


def test_every_task_waits_for_preflight(package: dict[str, Any]) -> None:
    graph = package["root"]["dag"]["tasks"]
    if retrains(package):
        assert set(graph) == {"resolve", "condition-1", "condition-5"}
        assert all(graph[name]["dependentTasks"] == ["resolve"] for name in set(graph) - {"resolve"})
        asked = [graph[name]["triggerPolicy"]["condition"] for name in ("condition-1", "condition-5")]
        assert [one.rpartition("resolve-Output'] ")[2] for one in asked] == ["== true", "== false"]
        assert set(package["components"]["comp-condition-5"]["dag"]["tasks"]) == {"notify-2"}
        graph = package["components"]["comp-condition-1"]["dag"]["tasks"]
        assert graph["notify"]["dependentTasks"] == ["gate"]
        assert set(graph["gate"]["dependentTasks"]) >= {"external", "drift", "register"}, "the last"
    assert not graph["preflight"].get("dependentTasks") and package["root"]["dag"].get("outputs") is None

    def waits(name: str) -> bool:
        return name == "preflight" or any(waits(other) for other in graph[name].get("dependentTasks", []))

    assert all(waits(name) for name in graph), "and what is in a loop begins with the loop"
    given = graph["preflight"]["inputs"]["parameters"]
    configuration = set(given["config"]["runtimeValue"]["constant"]) | {*given, "classifiers"}
    assert set(RunConfig.model_fields) - {"budget_minutes"} <= configuration


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


def test_tasks_see_the_volume_and_the_key_by_the_names_of_the_manifests(
    package: dict[str, Any], settings: dict[str, dict[str, Any]]
) -> None:
    base = COMPILED.parents[1] / "manifests" / "base"
    claim = yaml.safe_load((base / "data-volume.yaml").read_text(encoding="utf-8"))["metadata"]["name"]
    secret = yaml.safe_load((base / "secret.example.yaml").read_text(encoding="utf-8"))
    parameters = package["root"]["inputDefinitions"]["parameters"]
    root = parameters["data_root"]["defaultValue"]
    mounted = READERS | (OF_RETRAIN - {"notify"}) | {"preflight", "pretrain", "finetune", "register"}
    for task in executors(package):
        extra = settings[task]
        mounts = [(mount["constant"], mount["mountPath"]) for mount in extra.get("pvcMount", [])]
        assert mounts == ([(claim, root)] if step_of(task) in mounted else [])
        names = {key["envVar"] for each in extra.get("secretAsEnv", []) for key in each["keyToEnv"]}
        assert (VARIABLE in names) == (step_of(task) in READERS | {"preflight"})
        assert (WEBHOOK in names) == (step_of(task) == "notify")
        assert ("AWS_SECRET_ACCESS_KEY" in names) == (step_of(task) in mounted)  # data, checkpoints and models
    given = settings["preprocess"]["secretAsEnv"]
    assert parameters["secret"]["defaultValue"] == secret["metadata"]["name"]
    name = "pipelinechannel--secret" if retrains(package) else "secret"
    assert all(each["secretNameParameter"] == {"componentInputParameter": name} for each in given)
    assert all(each["optional"] is True for each in given)
    keys = {key["envVar"]: key["secretKey"] for each in given for key in each["keyToEnv"]}
    assert (
        {*keys.values(), WEBHOOK_KEY} == set(secret["stringData"])
        and VARIABLE in keys
        and "AWS_SECRET_ACCESS_KEY" in keys
    )


def test_local_packages_are_all_cached_and_have_nothing_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kfp.kubernetes", None)  # as if kfp-kubernetes were not installed
    monkeypatch.delattr("kfp.kubernetes", raising=False)
    for path in compile_all(tmp_path, target="local"):
        (package,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        anew = [name for name in executors(package) if tasks(package)[name]["cachingOptions"] != {"enableCache": True}]
        assert set(anew) == {"preflight"} | (OF_RETRAIN - {"notify"} if retrains(package) else set())
    with pytest.raises(RadtransferError, match=r"pip install 'radtransfer\[cluster\]'"):
        compile_all(tmp_path, target="cluster")
