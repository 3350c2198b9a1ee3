"""The process that runs a pipeline under ``kfp.local``: ``python -m radtransfer_pipelines.runner WORK``.

It is a process of its own, leader of the group that all tasks belong to, because kfp.local prints without end, patches
``print`` and the logging of the process it runs in, and offers no way to stop what it has begun. Whoever started it
(:mod:`radtransfer_pipelines.local`) holds the other end of its standard input: when that closes, by whatever death,
the whole group ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from pathlib import Path

from radtransfer.artifacts import read_json
from radtransfer_pipelines.warm import warm_up


def main(work: Path) -> None:
    """Run the pipeline that ``work/run-config.json`` asks for; tasks finished before are taken from the cache."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warm_up()
    from kfp import local

    from radtransfer_pipelines import PIPELINES

    in_one_order()
    request = read_json(work / "run-config.json")
    with (work / "runner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tasks of a run that was killed may take a moment to die
        (work / "stop").unlink(missing_ok=True)
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(work / "artifacts"),
            workspace_root=str(work / "workspace"),
            enable_caching=True,
            cache_root=str(work / "cache"),
        )
        PIPELINES[request["pipeline"]]()(target="local")(**request["arguments"])


def in_one_order() -> None:
    """Have kfp.local take tasks that do not depend on each other in the order of their names.

    kfp.local 2.17 takes them in the order of a protobuf map, which is another one in every fourth process: a run that
    goes on would begin with another training than the one that was interrupted.
    """
    from kfp.local import graph_utils

    found = graph_utils.build_dependency_map
    graph_utils.build_dependency_map = lambda tasks: dict(sorted(found(tasks).items()))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
