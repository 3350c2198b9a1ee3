"""How many CPUs and how much memory this process may use: the container's share, not the host's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_ROOT = Path("/")


def cpus(root: Path = _ROOT) -> int:
    """CPUs that this process may use, at least 1: by its affinity, and by the quotas of its control groups, rounded up.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(affinity)]
    for folder in _groups(root, "cpu"):
        quota, period = [*_words(folder / "cpu.max"), "max", "max"][:2]
        if quota == "max":
            quota, period = (_word(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            shares.append(int(quota) / int(period))
    return max(1, math.ceil(min(shares)))


def memory(root: Path = _ROOT) -> int:
    """Bytes of memory that this process may use: of the machine, or of its control groups if that is less.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    bounds = [int(psutil.virtual_memory().total)]
    for folder in _groups(root, "memory"):
        said = [_word(folder / name) for name in ("memory.max", "memory.limit_in_bytes")]
        bounds += [int(word) for word in said if word.isdigit()]
    return min(bounds)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, the innermost first, of version 2 and of version 1.

    A container often sees its own group as the top of the tree, whatever path it is told: what is not there is left
    out.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder.is_dir():
                yield folder
            if folder == top:
                break


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _word(path: Path) -> str:
    return next(iter(_words(path)), "")
