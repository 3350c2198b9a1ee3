"""The environment is made once, and made again only when what it is made of has changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Stands in for Python: venv makes a pip that writes down what it is asked; everything else is Python's own.
PYTHON = """#!/usr/bin/env bash
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    printf '#!/usr/bin/env bash\\necho "$1 $PWD" >> "%s/log"\\ncase "$*" in *-r*) echo lock >> "%s/log";; esac\\n' \
        "$3" "$3" > "$3/bin/pip"
    chmod +x "$3/bin/pip"
else
    exec "{python}" "$@"
fi
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python"
    python.write_text(PYTHON.replace("{python}", sys.executable))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def installs(clone: Path) -> tuple[int, int]:
    """Make the environment; how often the lock, and how often the package, was installed so far."""
    venv = clone.parent / "venv"
    environment = {key: value for key, value in os.environ.items() if key not in {"VENV", "MAKEFLAGS", "MAKELEVEL"}}
    command = ["make", "-C", str(clone), "venv", f"VENV={venv}", f"PYTHON={clone.parent / 'python'}"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    lines = (venv / "log").read_text().splitlines()
    locks = lines.count("lock")
    return locks, sum(line.startswith("install ") for line in lines) - locks


def test_nothing_is_installed_twice(clone: Path) -> None:
    assert installs(clone) == (1, 1)
    (clone / "requirements.lock").touch()
    (clone / "pyproject.toml").touch()
    assert installs(clone) == (1, 1)


def test_a_changed_lock_installs_all(clone: Path) -> None:
    installs(clone)
    with (clone / "requirements.lock").open("a") as stream:
        stream.write("added==1\n")
    assert installs(clone) == (2, 2)


def test_a_changed_project_file_installs_the_package_alone(clone: Path) -> None:
    installs(clone)
    with (clone / "pyproject.toml").open("a") as stream:
        stream.write("# changed\n")
    assert installs(clone) == (1, 2)


def test_clones_that_share_an_environment_take_turns(clone: Path) -> None:
    installs(clone)
    other = clone.parent / "other"
    shutil.copytree(clone, other)
    assert installs(other) == (1, 2)
    assert installs(other) == (1, 2)
    assert installs(clone) == (1, 3)


def test_help_names_every_target() -> None:
    text = subprocess.run(["make", "-C", str(ROOT)], check=True, capture_output=True, text=True).stdout
    for target in ("demo", "test", "test-all", "lint", "types", "lock", "image", "manifests", "bench", "clean"):
        assert f"{target} " in text
