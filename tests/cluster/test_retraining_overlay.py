"""The overlay `retraining` keeps a schedule: what its pod says is said here to the stub of KFP's API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import Command
from tests.cluster.kfp_stub import Stub
from tests.manifests.test_manifests import documents, render

ASKS = {  # what KFP's API server has Kubernetes check for each operation, where it is installed for several users
    "experiment_service_list_experiments": ("experiments", "list"),
    "experiment_service_create_experiment": ("experiments", "create"),
    "pipeline_service_list_pipelines": ("pipelines", "list"),
    "pipeline_service_list_pipeline_versions": ("pipelines/versions", "list"),
    "upload_pipeline": ("pipelines", "create"),
    "upload_pipeline_version": ("pipelines/versions", "create"),
    "recurring_run_service_list_recurring_runs": ("jobs", "list"),
    "recurring_run_service_create_recurring_run": ("jobs", "create"),
    "recurring_run_service_delete_recurring_run": ("jobs", "delete"),
    "healthz_service_get_healthz": None,
}


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in documents(render("overlays/retraining"))}


@pytest.fixture
def pod(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["CronJob", "radtransfer-schedule"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def test_the_pod_keeps_one_recurring_run_with_just_its_rights(
    stub: Stub,
    radtransfer: Command,
    objects: dict[tuple[str, str], dict[str, Any]],
    pod: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (container,) = pod["containers"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    config = objects["ConfigMap", volumes["config"]["configMap"]["name"]]["data"]
    for name, content in (config | {"token": "s3cret"}).items():
        (tmp_path / name).write_text(content)
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounts == {"/etc/radtransfer", "/var/run/secrets/kubeflow/pipelines", "/tmp"}

    def here(text: str) -> str:
        for place in mounts - {"/tmp"}:
            text = text.replace(place, str(tmp_path))
        return text

    for variable in container["env"]:
        if variable["name"] != "RADTRANSFER_KFP_HOST":
            monkeypatch.setenv(variable["name"], here(variable.get("value", "team")))
    stub.token, stub.namespaces = "s3cret", {"team"}
    program, *said = [*container["command"], *map(here, container["args"])]
    assert program == "radtransfer"
    done = radtransfer(*said)
    assert done.code == 0, done.err
    assert "image registry.example.org/radtransfer:0.1.0" in done.err
    (run,) = stub.recurring.values()
    assert run["display_name"] == "retraining" and run["service_account"] == "radtransfer"
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1" and "summer time" not in done.err
    assert [each["name"] for each in stub.pipelines.values()] == ["retrain"]
    assert "recurring run unchanged" in radtransfer(*said).err
    assert f"replaced {run['recurring_run_id']}" in radtransfer(*said, "--set", "seed=9").err

    needed = {ASKS[operation] for operation in stub.asked} - {None}
    rules = objects["Role", "radtransfer-schedule"]["rules"]
    allowed = {(kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}
    assert {rule["apiGroups"][0] for rule in rules} == {"pipelines.kubeflow.org"}
    spare = {("pipelines/versions", "create")}  # for another image; not asked for here
    assert needed <= allowed and allowed - needed - spare == {
        (kind, "get") for kind in ("experiments", "pipelines", "pipelines/versions")
    }


def test_the_pod_has_a_token_for_one_api_and_reaches_it_alone(
    objects: dict[tuple[str, str], dict[str, Any]], pod: dict[str, Any]
) -> None:
    (token,) = (each["projected"]["sources"] for each in pod["volumes"] if "projected" in each)
    assert [each["serviceAccountToken"]["audience"] for each in token] == ["pipelines.kubeflow.org"]
    labels = objects["CronJob", "radtransfer-schedule"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    policy = objects["NetworkPolicy", "radtransfer-schedule"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items() and not policy["ingress"]
    assert all("namespaceSelector" in peer for rule in policy["egress"] for peer in rule["to"])


def test_a_changed_configuration_reaches_the_pod(
    objects: dict[tuple[str, str], dict[str, Any]], pod: dict[str, Any]
) -> None:
    """The name of the ConfigMap has the digest of its content, which the CronJob follows."""
    (name,) = (each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each)
    assert name.removeprefix("radtransfer-schedule-") and ("ConfigMap", name) in objects
    assert yaml.safe_load(objects["ConfigMap", name]["data"]["config.yaml"])["name"] == "retraining"
    assert json.dumps(objects["CronJob", "radtransfer-schedule"]).count(name) == 1
