"""Tasks forked off a warm process: each ends with its own exit code, as the command that it stands for would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path

import pytest

from radtransfer_pipelines import warm

SCRIPT = 'python3 -m kfp.dsl.executor_main --component_module_path "$program_path/ephemeral_component.py" "$@"'
PROGRAM = """
def task(code: int, folder: str):
    import os
    from pathlib import Path

    if code < 0:
        os.kill(os.getpid(), -code)
    if code:
        raise SystemExit(code)
    Path(folder, "said").write_text(os.environ.get("SAID", ""))
"""


@pytest.fixture(autouse=True, scope="module")
def server() -> Iterator[None]:
    forkserver.set_forkserver_preload(["kfp.dsl.executor_main"])
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def command(code: int, folder: Path) -> list[str]:
    inputs = {"parameterValues": {"code": code, "folder": str(folder)}}
    asked = json.dumps({"inputs": inputs, "outputs": {"outputFile": str(folder / "executor_output.json")}})
    return ["sh", "-c", SCRIPT, PROGRAM, "--executor_input", asked, "--function_to_execute", "task"]


def test_tasks_side_by_side_end_with_their_own_exit_codes(tmp_path: Path) -> None:
    codes = [0, 2, 3, -9, 0, 7, -15, 1] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda code: warm._started(command(code, tmp_path)), codes)) == codes


def test_a_task_sees_the_environment_that_it_is_given(tmp_path: Path) -> None:
    assert warm._started(command(0, tmp_path), {"SAID": "here"}) == 0
    assert (tmp_path / "said").read_text() == "here"
    assert warm._started(command(0, tmp_path)) == 0
    assert (tmp_path / "said").read_text() == ""


def test_all_that_is_imported_beforehand_is_there_to_be_imported() -> None:
    """The server passes over what it cannot import: a module that was renamed would only make every task slower."""
    assert [name for name in warm.IMPORTED if find_spec(name) is None] == []
