"""The Kubernetes manifests render, validate strictly, and keep the promises that no schema checks."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from radtransfer_pipelines.cluster.package import LOADER
from radtransfer_pipelines.compile import as_resources, compile_one
from radtransfer_pipelines.resources import DISK, RESOURCES, SECRET, STORAGE

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
KUSTOMIZATIONS = ("base", "overlays/air-gapped", "overlays/gpu-pool", "overlays/retraining")
SCHEMAS = Path(__file__).parent / "schemas"


def tool(name: str) -> str:
    """Path of a console script, the environment's own first."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def render(name: str) -> str:
    command = [tool("kubectl"), "kustomize", str(MANIFESTS / name)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def problems(text: str, folder: Path) -> list[str]:
    """Lines that kubernetes-validate says beside "passed"; warnings (kinds it does not know) among them.

    KFP's kinds it does not know: their schemas are in ``schemas/``.
    """
    whole = documents(text)
    own = [each for each in whole if each["apiVersion"].startswith("pipelines.kubeflow.org/")]
    found = [line for each in own for line in unlike_schema(each)]
    if len(own) == len(whole):
        return found
    if own:
        text = yaml.safe_dump_all(each for each in whole if each not in own)
    rendered = folder / "rendered.yaml"
    rendered.write_text(text)
    command = [tool("kubernetes-validate"), "--strict", str(rendered)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line and not line.startswith("INFO ")]
    return found + (lines or ([] if run.returncode == 0 else [f"exit {run.returncode}"]))


def unlike_schema(document: dict[str, Any]) -> list[str]:
    path = SCHEMAS / f"{document['kind'].lower()}.json"
    if not path.is_file():
        return [f"{document['kind']}: no schema"]
    return [
        error.message for error in jsonschema.Draft202012Validator(json.loads(path.read_text())).iter_errors(document)
    ]


@pytest.fixture(params=KUSTOMIZATIONS)
def rendered(request: pytest.FixtureRequest) -> str:
    return render(request.param)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def test_every_kustomization_is_tested() -> None:
    found = {path.parent: yaml.safe_load(path.read_text()) for path in MANIFESTS.rglob("kustomization.yaml")}
    whole = {
        path.relative_to(MANIFESTS).as_posix() for path, content in found.items() if content["kind"] != "Component"
    }
    assert whole == set(KUSTOMIZATIONS)
    used = {(path / each).resolve() for path, content in found.items() for each in content.get("components", [])}
    assert {path for path, content in found.items() if content["kind"] == "Component"} == used


def test_renders_and_validates(rendered: str, tmp_path: Path) -> None:
    assert problems(rendered, tmp_path) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("podSelector", "podSelektor"), ("kind: ResourceQuota", "kind: ResourceQuote"), ("value: 1000", "value: high")],
)
def test_the_validation_finds_mistakes(before: str, after: str, tmp_path: Path) -> None:
    text = render("base")
    assert before in text
    assert problems(text.replace(before, after), tmp_path)


def test_the_example_secret_validates_and_is_empty(tmp_path: Path) -> None:
    text = (MANIFESTS / "base/secret.example.yaml").read_text()
    assert problems(text, tmp_path) == []
    (secret,) = documents(text)
    assert set(secret["stringData"].values()) == {""}


def test_no_secret_is_rendered(rendered: str) -> None:
    assert "Secret" not in {document["kind"] for document in documents(rendered)}


def test_base_names_no_namespace() -> None:
    assert all("namespace" not in document["metadata"] for document in documents(render("base")))


def test_rights_are_minimal(rendered: str) -> None:
    rules = [rule for document in documents(rendered) if document["kind"] == "Role" for rule in document["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"] and rule["verbs"] == ["get"]


def test_pods_are_confined() -> None:
    pods = {
        (name, document["metadata"]["name"]): spec["template"]["spec"]
        for name in KUSTOMIZATIONS
        for document in documents(render(name))
        if (spec := document.get("spec", {}).get("jobTemplate", document).get("spec", {})).get("template")
    }
    assert {name for name, _ in pods} == {name for name in KUSTOMIZATIONS if name.startswith("overlays/")}
    for spec in pods.values():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec["volumes"]:
            assert set(volume) <= {"name", "emptyDir", "configMap", "projected"}
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"]["drop"] == ["ALL"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
            assert re.search(r"(:(?!latest$)[^:/]+|@sha256:[0-9a-f]{64})$", container["image"])


@pytest.mark.parametrize("name", [name for name in KUSTOMIZATIONS if name.startswith("overlays/")])
def test_namespaces_admit_restricted_pods_alone(name: str) -> None:
    labels = [document["metadata"]["labels"] for document in documents(render(name)) if document["kind"] == "Namespace"]
    assert labels and all(each["pod-security.kubernetes.io/enforce"] == "restricted" for each in labels)


def test_the_table_of_resources_fits_the_disk_that_pods_get(rendered: str) -> None:
    (limits,) = (document["spec"]["limits"] for document in documents(rendered) if document["kind"] == "LimitRange")
    assert limits[0]["default"] == {"ephemeral-storage": f"{max(need.disk for need in RESOURCES.values())}Gi"}
    for policy in (each for each in documents(rendered) if each["kind"] == "MutatingAdmissionPolicy"):
        assert policy["spec"]["variables"][1]["expression"] == f"object.metadata.annotations['{DISK}']"


def test_the_bucket_is_made_with_the_keys_of_the_secret() -> None:
    (job,) = (each for each in documents(render("overlays/air-gapped")) if each["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
    assert given == {variable: {"name": SECRET, "key": key} for key, variable in STORAGE.items()}
    compile(container["command"][-1], "job.yaml", "exec")


def test_an_air_gapped_cluster_reaches_nothing_outside() -> None:
    (policy,) = (each for each in documents(render("overlays/air-gapped")) if each["kind"] == "NetworkPolicy")
    blocks = [peer["ipBlock"]["cidr"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert all(block.endswith("/32") for block in blocks) and "Ingress" in policy["spec"]["policyTypes"]


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """What the Argo controller is to give to workflows."""
    text = (MANIFESTS / "argo-controller/workflow-defaults.yaml").read_text()
    spec: dict[str, Any] = yaml.safe_load(documents(text)[0]["data"]["workflowDefaults"])["spec"]
    return spec


@pytest.mark.parametrize(
    ("code", "message", "again"),
    [
        ("-1", "pod deleted", True),
        ("-1", "Pod was terminated in response to imminent node shutdown.", True),
        ("137", "The node was low on resource: ephemeral-storage. Container main was using 9Gi", True),
        ("-1", "Preempted in order to admit critical pod", True),
        ("143", "Error (exit code 143)", True),
        ("137", "Error (exit code 137)", True),
        ("137", "OOMKilled (exit code 137)", False),
        ("137", "Pod ephemeral local storage usage exceeds the total limit of containers 50Gi.", False),
        ("143", "Pod was active on the node longer than the specified deadline", False),
        ("1", "Error (exit code 1)", False),  # KFP's launcher, of whatever its task ended with
        ("2", "Error (exit code 2): radtransfer error: image x.png cannot be decoded", False),
        ("-1", "", False),  # a DAG, one of whose tasks failed
    ],
)
def test_lost_pods_are_told_from_errors_of_the_program(
    defaults: dict[str, Any], code: str, message: str, again: bool
) -> None:
    """The expression, of expr-lang, said in Python; its operators are those that appear here."""
    expression = defaults["templateDefaults"]["retryStrategy"]["expression"]
    said = re.sub(r'lastRetry\.message matches ("[^"]*")', r"bool(search(\1, message))", expression)
    said = said.replace("&&", "and").replace("||", "or").replace("!(", "not (").replace("lastRetry.exitCode", "code")
    assert "lastRetry" not in said
    names = {"__builtins__": {}, "asInt": int, "bool": bool, "search": re.search, "code": code, "message": message}
    assert eval(said, names) is again


def test_the_controller_bounds_retries_and_time_and_names_the_priority_class(defaults: dict[str, Any]) -> None:
    classes = [each["metadata"]["name"] for each in documents(render("base")) if each["kind"] == "PriorityClass"]
    assert classes == [defaults["podPriorityClassName"]]
    strategy = defaults["templateDefaults"]["retryStrategy"]
    assert strategy["retryPolicy"] == "Always" and 0 < int(strategy["limit"]) < 10
    assert defaults["templateDefaults"]["timeout"] == "24h" and "retryStrategy" not in defaults


def test_pipelines_as_resources_validate_and_mistakes_in_them_do_not(tmp_path: Path) -> None:
    image = "registry.example/radtransfer@sha256:" + "0" * 64
    for path in as_resources(tmp_path / "out", image=image):
        text = path.read_text()
        pipeline, version = documents(text)
        assert problems(text, tmp_path) == []
        name = pipeline["metadata"]["name"]
        package = compile_one(path.stem, tmp_path, image=image).read_bytes()
        assert (
            version["metadata"]["name"] == f"{name}-{hashlib.sha256(package).hexdigest()[:12]}"
        )  # as `submit` names it
        assert version["spec"]["pipelineName"] == name == version["spec"]["pipelineSpec"]["pipelineInfo"]["name"]
        executors = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(executors) == set(version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"])
    for before, after in (("pipelineName:", "pipeline:"), ("kind: Pipeline\n", "kind: Pipline\n"), ("v2beta1", "v2")):
        assert before in text and problems(text.replace(before, after), tmp_path)


def test_tasks_cannot_reach_the_metadata_service(rendered: str) -> None:
    policies = {each["metadata"]["name"]: each for each in documents(rendered) if each["kind"] == "NetworkPolicy"}
    policy = policies["radtransfer-tasks"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not policy["spec"].get("ingress")
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    narrow = [block for block in blocks if block["cidr"].endswith("/32")]
    assert blocks and all("169.254.0.0/16" in block["except"] for block in blocks if block not in narrow)


def test_overlay_changes_what_it_says() -> None:
    found = {document["kind"]: document for document in documents(render("overlays/gpu-pool"))}
    assert found["ResourceQuota"]["spec"]["hard"] == {
        "requests.nvidia.com/gpu": "4",
        "persistentvolumeclaims": "10",
        "requests.storage": "500Gi",
    }
    assert found["PersistentVolumeClaim"]["metadata"]["namespace"] == found["Namespace"]["metadata"]["name"]
    image = found["Job"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example.org/radtransfer:0.1.0"
