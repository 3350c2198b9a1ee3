"""What the orchestration costs: wall time of a local pipeline run less the time inside its steps.

    python benchmarks/overhead.py [--config FILE] [--data-root DIR] [--repeat N] [--set key=value ...]

Prints the figures that each run leaves in its ``run.json``, and what every task pays before its step begins
(interpreter, KFP's executor, imports).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radtransfer import limits
from radtransfer.artifacts import read_json

ROOT = Path(__file__).resolve().parent.parent
AIM = 0.15


def command(*arguments: str) -> None:
    """Run a ``radtransfer`` command of this environment; its output goes to standard error.

    Raises:
        SystemExit: it failed.
    """
    program = Path(sys.executable).parent / "radtransfer"
    done = subprocess.run([str(program), *arguments], check=False, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"radtransfer {arguments[0]} ended with code {done.returncode}")


def run(config: Path, data_root: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """``run.json`` of one fresh run."""
    with tempfile.TemporaryDirectory(prefix="radtransfer-bench-") as folder:
        out = Path(folder) / "run"
        settings = [part for override in overrides for part in ("--set", override)]
        command("run", "--config", str(config), "--data-root", str(data_root), "--out", str(out), *settings)
        return dict(read_json(out / "run.json"))


def lines(found: dict[str, Any]) -> list[str]:
    """The figures of one run, one line each."""
    cost = found["orchestration"]
    steps: dict[str, list[float]] = {}
    for task in found["tasks"]:
        steps.setdefault(task["step"], []).append(task["start_up_seconds"])
    tasks = (f"  {step:12s} {len(cost):3d} {statistics.mean(cost):8.2f}" for step, cost in steps.items())
    return [
        f"wall {cost['wall_seconds']:.1f} s, inside steps {cost['inside_steps_seconds']:.1f} s, overhead "
        f"{cost['overhead_seconds']:.1f} s = {cost['overhead_share']:.1%} (aim: below {AIM:.0%}); "
        f"peak {found['peak_mib']:.0f} MiB, all processes together",
        "  step       tasks  start-up, mean s",
        *tasks,
    ]


def main() -> None:
    """Run, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.yaml")
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", help="made with phantoms if it is missing")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="key=value")
    given = parser.parse_args()
    if not given.data_root.exists():
        command("datasets", "phantoms", "--out", str(given.data_root / "phantoms"))
    shares = []
    for number in range(1, given.repeat + 1):
        found = run(given.config, given.data_root, given.overrides)
        shares.append(found["orchestration"]["overhead_share"])
        print(f"run {number} of {given.repeat}, {limits.cpus()} cores, {found['code_version']}")
        print("\n".join(lines(found)), flush=True)
    if len(shares) > 1:
        print(f"overhead: median {statistics.median(shares):.1%} of {len(shares)} runs")


if __name__ == "__main__":
    main()
