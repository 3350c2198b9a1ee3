"""The Kubernetes manifests render, validate strictly, and keep the promises that no schema checks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
KUSTOMIZATIONS = ("base", "overlays/gpu-pool", "overlays/retraining")


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
    """Lines that kubernetes-validate says beside "passed"; warnings (kinds it does not know) among them."""
    rendered = folder / "rendered.yaml"
    rendered.write_text(text)
    command = [tool("kubernetes-validate"), "--strict", str(rendered)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line and not line.startswith("INFO ")]
    return lines or ([] if run.returncode == 0 else [f"exit {run.returncode}"])


@pytest.fixture(params=KUSTOMIZATIONS)
def rendered(request: pytest.FixtureRequest) -> str:
    return render(request.param)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def test_every_kustomization_is_tested() -> None:
    found = {path.parent.relative_to(MANIFESTS).as_posix() for path in MANIFESTS.rglob("kustomization.yaml")}
    assert found == set(KUSTOMIZATIONS)


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


def test_pods_are_confined(rendered: str) -> None:
    for job in (document for document in documents(rendered) if document["kind"] == "Job"):
        spec = job["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"]["drop"] == ["ALL"]
            assert not container["image"].endswith(":latest")


def test_tasks_cannot_reach_the_metadata_service(rendered: str) -> None:
    policies = {each["metadata"]["name"]: each for each in documents(rendered) if each["kind"] == "NetworkPolicy"}
    policy = policies["radtransfer-tasks"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not policy["spec"].get("ingress")
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert blocks and all("169.254.0.0/16" in block["except"] for block in blocks)


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
