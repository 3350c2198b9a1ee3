"""What a container may use, by control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from radtransfer import limits

GIB = 2**30


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 16 * GIB}))


def tree(root: Path, cgroup: str, **files: str) -> Path:
    """A root with this /proc/self/cgroup and these files of control groups."""
    placed = {"proc/self/cgroup": cgroup} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in placed.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus", "gib"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, 8, 16),
        ("0::/\n", {"cpu.max": "200000 100000\n", "memory.max": f"{4 * GIB}\n"}, 2, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2, 16),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1, 16),
        ("0::/\n", {"cpu.max": "9900000 100000\n", "memory.max": f"{64 * GIB}\n"}, 8, 16),
        # a quota further up holds for what is inside
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3, 16),
        # the path is the host's, the tree begins with the container
        ("0::/kubepods/pod1/c1\n", {"cpu.max": "400000 100000\n", "memory.max": f"{GIB}\n"}, 4, 1),
        (
            "4:memory:/docker/c1\n3:cpu,cpuacct:/docker/c1\n0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "250000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            },
            3,
            2,
        ),
        (
            "4:memory:/\n3:cpu,cpuacct:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8,
            16,
        ),
        ("", {}, 8, 16),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, cgroup: str, files: dict[str, str], cpus: int, gib: int) -> None:
    root = tree(tmp_path, cgroup, **files)
    assert limits.cpus(root) == cpus and limits.memory(root) == gib * GIB


def test_another_system_has_no_control_groups(tmp_path: Path) -> None:
    assert limits.cpus(tmp_path) == 8 and limits.memory(tmp_path) == 16 * GIB
    assert 1 <= limits.cpus() <= 8
