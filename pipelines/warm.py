"""Tasks of a local run begin in processes that have imported what they need.

kfp.local's SubprocessRunner starts an interpreter for every task, in which importing PyTorch and what builds on it
takes longer than many a task. Here a task is forked off a server that has imported it all once and done nothing else
(the ``forkserver`` of :mod:`multiprocessing`); KFP's executor then does in it what it does in an interpreter of its
own. On a cluster every task has its container.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver
from pathlib import Path

IMPORTED = (
    "kfp.dsl.executor_main",
    "radtransfer.preflight",
    "radtransfer.preprocess.run",
    "radtransfer.training.steps",
    "radtransfer.fusion.extract",
    "radtransfer.fusion.fuse",
    "radtransfer.fusion.classify",
    "radtransfer.robustness.stress",
    "radtransfer.evaluation.evaluate",
    "radtransfer.evaluation.report",
    "radtransfer.explain.run",
    "radtransfer.registry.bundle",
    "skops.io",
)
PROGRAM = "ephemeral_component.py"
LONGEST = 70
"""Characters of a temporary folder in which a socket still gets a path: the system takes about a hundred of them."""
_processes = multiprocessing.get_context("forkserver")
_one_at_a_time = threading.Lock()  # multiprocessing's notes on children are not for several threads


def warm_up() -> None:
    """Have kfp.local start its tasks so; the server begins to import at once.

    Where no temporary folder has a path short enough for the server's socket, tasks start as kfp.local starts them.
    """
    usual = tempfile.gettempdir()
    tried = (usual, "/tmp")  # noqa: S108 - the server's folder in it is of a name of its own
    short = next((folder for folder in tried if len(folder) <= LONGEST and os.access(folder, os.W_OK)), None)
    if short is None:
        return
    _processes.set_forkserver_preload(list(IMPORTED))
    os.environ["_KFP_RUNTIME"], tempfile.tempdir = "true", short  # KFP then imports what a task needs, and no compiler
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["_KFP_RUNTIME"]
        tempfile.tempdir = usual
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.run_local_subprocess = _started


def _started(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
    """Stands in for ``kfp.local.subprocess_task_handler.run_local_subprocess``: exit code of a task's command."""
    script = next(number for number, part in enumerate(full_command) if PROGRAM in part)
    program, *arguments = full_command[script + 1 :]
    task = _processes.Process(target=_execute, args=(program, arguments, dict(env_vars or {})))
    with _one_at_a_time:
        task.start()
    connection.wait([task.sentinel])
    with _one_at_a_time:
        task.join()
    return int(task.exitcode or 0)


def _execute(program: str, arguments: Sequence[str], env_vars: Mapping[str, str]) -> None:
    """In the task's process: what the shell command of a lightweight component does."""
    from kfp.dsl import executor_main

    os.environ.update(env_vars)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROGRAM
        path.write_text(program, encoding="utf-8")
        sys.argv = ["executor_main", "--component_module_path", str(path), *arguments]
        executor_main.executor_main()
