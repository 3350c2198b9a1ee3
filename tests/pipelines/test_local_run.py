"""`radtransfer run`: the whole graph under kfp.local, its folder, its failures and its resumption."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest
from kfp.local import graph_utils

from radtransfer_pipelines.local import overhead
from radtransfer_pipelines.runner import in_one_order

if TYPE_CHECKING:
    from conftest import FakeRun

SOURCES = ("scratch", "imagenet", "in_domain")
BACKBONES = ("b1", "b2", "b3")
EXPECTED = Counter(
    ["preprocess", "stress 9 3", "evaluate", "explain 9 3", "external 9 3"]
    + [f"finetune {s} {b}" for s in SOURCES for b in BACKBONES]
    + [f"pretrain {b}" for b in BACKBONES]
    + [f"extract {s} 3" for s in SOURCES]
    + [f"fuse {s}" for s in SOURCES]
    + [f"classify {s}" for s in SOURCES]
    + [f"{step} ['b2', 'b1', 'b3'] 7 0.0005" for step in ("register 9 3 ''", "report 9 3")]
)


def test_tasks_come_in_one_order_in_whichever_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_utils, "build_dependency_map", graph_utils.build_dependency_map)
    in_one_order()
    needs = {"preprocess": [], "evaluate": ["classify", "classify-2"]}
    needs |= {name: ["preprocess"] for name in ("classify-2", "classify")}
    tasks = [(name, SimpleNamespace(dependent_tasks=needed)) for name, needed in needs.items()]
    orders = [graph_utils.topological_sort_tasks(dict(order)) for order in itertools.permutations(tasks)]
    assert all(order[::-1] == ["preprocess", "classify", "classify-2", "evaluate"] for order in orders)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_every_task_runs_once_with_what_it_should_get(fake_run: FakeRun) -> None:
    code, stdout, stderr = fake_run("--set", "budget_minutes=3")
    assert code == 0, stderr
    assert Counter(fake_run.calls) == EXPECTED
    out = fake_run.out
    assert stdout.splitlines()[-1] == str(out / "report.html")
    assert "No source is better than another." in stdout
    assert "selected by validation: imagenet/fused/seed0, AUROC 0.800 (0.700 to 0.900)" in stdout
    assert "stated budget 3 minutes" in stderr and "29/29 external" in stderr
    top = {"report.html", "data_report.html", "summary.md", "metrics.json", "run.json", "run.log", "config.yaml"}
    top |= {"splits.csv", "evaluation", "explanations", "bundle", "logs", "pretrained", "models", "classifiers"}
    assert {p.name for p in out.iterdir()} == top
    assert sorted(p.name for p in (out / "pretrained").iterdir()) == list(BACKBONES)
    made = sorted(p.relative_to(out).as_posix() for name in ("models", "classifiers") for p in (out / name).glob("*"))
    assert made == [f"{name}/{source}" for name in ("classifiers", "models") for source in sorted(SOURCES)]
    assert sorted(p.name for p in (out / "models" / "imagenet").iterdir()) == list(BACKBONES)

    run = json.loads((out / "run.json").read_text())
    assert len(run["tasks"]) == 29 and len({task["task"] for task in run["tasks"]}) == 29
    assert all(task["seconds"] >= task["start_up_seconds"] > 0 and task["peak_mib"] > 5 for task in run["tasks"])
    assert run["peak_mib"] > max(task["peak_mib"] for task in run["tasks"])  # two tasks at once, and who watches them
    cost = run["orchestration"]
    assert cost["overhead_seconds"] + cost["inside_steps_seconds"] == pytest.approx(cost["wall_seconds"], abs=0.01)
    assert run["config"]["seed"] == 7 and not run["resumed"]

    code, _, stderr = fake_run()
    assert code == 2 and "holds a finished run" in stderr and "Traceback" not in stderr


@pytest.mark.slow
def test_mappings_reach_their_tasks_as_written(fake_run: FakeRun) -> None:
    """kfp.local hands a mapping on whole, and only outside of other mappings; quotes and numbers stay as they are."""
    table = {"table": "labels.csv", "file": "path", "label": 'say "what"', "positive": ["1", "it's"], "negative": ["0"]}
    table["attributes"] = {"sex": "s"}
    rows = ['path,"say ""what""",s', "normal/a.png,0,F", "abnormal/b.png,1,M"]
    (fake_run.data_root / "T" / "labels.csv").write_text("\n".join(rows))
    layout = ["--set", "target_layout=table", "--set", f"target_table={json.dumps(table)}"]
    policies = ["--set", "on_problem={truncated: fail, colour: skip}"]
    for name in ("normal", "abnormal"):
        (fake_run.data_root / "E" / name).mkdir(parents=True)
        (fake_run.data_root / "E" / name / "a.png").write_bytes(b"not looked at")
    asked = {"layout": "class_folders", "path": "E", "part": "E"}
    policies += ["--set", f"external={json.dumps(asked)}"]
    temporary = fake_run.folder / "temporary"
    temporary.mkdir()
    code, _, stderr = fake_run(*layout, *policies, "--set", "backbones=[b1]", TMPDIR=str(temporary))
    assert code == 0, stderr
    assert not list(temporary.iterdir())  # kfp.local leaves a folder for every task where TMPDIR says
    mappings = f"{sorted(table.items())} [('colour', 'skip'), ('truncated', 'fail')]"
    assert fake_run.calls[0] == f"preprocess {mappings}"
    # Last, so that its failure keeps no other step from running.
    assert fake_run.calls[-1] == f"external 3 3 {sorted(asked.items())}"
    assert (fake_run.out / "external" / "external.html").is_file()
    assert fake_run.calls[-2] == f"report 3 1 ['b1'] 7 0.0005 {mappings}"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_goes_on_after_the_last_finished_task(
    fake_run: FakeRun, how: signal.Signals, processes_of: Callable[[Path], list[str]]
) -> None:
    hung = "finetune imagenet b1"
    process = fake_run.start(FAKE_HANG=hung)
    until(lambda: hung in fake_run.calls)
    time.sleep(0.5)
    if how == signal.SIGKILL:
        # A second run in the same folder is turned away while the first is alive.
        code, _, stderr = fake_run()
        assert code == 2 and "another radtransfer run is at work" in stderr
    process.send_signal(how)
    process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    until(lambda: not processes_of(fake_run.out), 20)
    assert not (fake_run.out / "report.html").exists()
    before = set(fake_run.calls)
    # Whatever had not ended when the signal came may be done again, nothing else.
    again = {hung} | {call for call in before if call.startswith("finetune imagenet")}

    code, _, stderr = fake_run()
    assert code == 0, stderr
    assert "taking up an unfinished run" in stderr
    counts = Counter(fake_run.calls)
    assert set(counts) == set(EXPECTED)
    assert {call for call, count in counts.items() if count > 1} <= again
    assert counts[hung] == 2
    run = json.loads((fake_run.out / "run.json").read_text())
    assert run["resumed"] and len(run["tasks"]) == 29
    earlier = [task for task in run["tasks"] if task["started"] < run["started"]]
    assert earlier and run["wall_seconds"] > run["orchestration"]["wall_seconds"] + max(t["seconds"] for t in earlier)
    assert not (fake_run.out / ".work").exists()


@pytest.mark.slow
def test_failure_is_told_at_once_and_begins_nothing_more(fake_run: FakeRun) -> None:
    code, _, stderr = fake_run(FAKE_FAIL="finetune imagenet b2")
    assert code == 2
    last = stderr.splitlines()[-1]
    assert last == "radtransfer: error: finetune[imagenet, b2]: image x.png: cannot be decoded; remove it"
    assert stderr.count("image x.png") == 1
    assert "Traceback" not in stderr
    # At most what the other of kfp.local's two threads was about to do.
    assert len(fake_run.calls) - fake_run.calls.index("finetune imagenet b2") - 1 <= 2
    code, _, stderr = fake_run()  # put right by the user: it goes on
    assert code == 0, stderr
    assert {call for call, n in Counter(fake_run.calls).items() if n > 1} <= {"finetune imagenet b2"}


@pytest.mark.slow
def test_a_bug_names_its_log(fake_run: FakeRun) -> None:
    code, _, stderr = fake_run(FAKE_BUG="preprocess")
    assert code == 2 and fake_run.calls == ["preprocess"]
    assert "preprocess: KeyError: 'a bug' (log:" in stderr and "Traceback" not in stderr
    assert "Traceback" in (fake_run.out / ".work" / "logs" / "preprocess.log").read_text()


@pytest.mark.slow
def test_unfinished_run_of_something_else_is_refused(fake_run: FakeRun) -> None:
    code, _, _ = fake_run(FAKE_FAIL="preprocess")
    assert code == 2
    code, _, stderr = fake_run("--set", "seed=8")
    assert code == 2 and "unfinished run with seed 7, this one has 8" in stderr
    image = fake_run.data_root / "T" / "normal" / "c.png"
    image.write_bytes(b"new")
    code, _, stderr = fake_run()
    assert code == 2 and "unfinished run with data_version" in stderr
    image.unlink()
    code, _, stderr = fake_run("--set", "budget_minutes=9")  # says nothing about the result
    assert code == 0, stderr


def test_unfinished_run_of_other_splits_is_refused(fake_run: FakeRun) -> None:
    table = fake_run.data_root / "splits.csv"
    table.write_text("role,image_id,sha256,split\ntarget,a,b,train\n")
    code, _, _ = fake_run("--set", "previous_splits=splits.csv", FAKE_FAIL="preprocess")
    assert code == 2
    table.write_text("role,image_id,sha256,split\ntarget,a,b,test\n")
    code, _, stderr = fake_run("--set", "previous_splits=splits.csv")
    assert code == 2 and "unfinished run with previous_splits_sha256" in stderr


def test_folder_with_something_else_is_refused_untouched(fake_run: FakeRun) -> None:
    fake_run.out.mkdir()
    (fake_run.out / "thesis.txt").write_text("years of work")
    code, _, stderr = fake_run()
    assert code == 2 and "holds thesis.txt" in stderr and "name a new or empty folder" in stderr
    assert [p.name for p in fake_run.out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "sead=1"], "unknown key 'sead'; did you mean seed"),
        (["--set", "seed=-1"], "seed"),
        (["--set", "external={path: E}"], "external: data set: layout: Field required"),
        (["--set", "external={layout: class_folders, path: S, part: foot}"], "external part 'foot' is not in S"),
        (["--set", "external={layout: class_folders, path: E, part: E}"], "no folder 'E', where the class_folders"),
        (["--set", "seed"], "expected key=value"),
        (["--set", "target_layout=fracatlass"], "fracatlas"),
        (["--set", "target_path=../T"], "T"),
        (["--set", "target_layout=table"], "T: the layout 'table' needs to know the columns; set target_table"),
        (["--set", "target_table={file: path}"], "target_table: table: Field required"),
        (["--set", "threshold_rule=sensitivity=2"], "threshold_rule: 'sensitivity=2'; expected a number above 0"),
        (["--set", "on_problem={truncate: fail}"], "on_problem: unknown problem 'truncate'; did you mean truncated"),
        (["--set", "on_problem={empty: repair}"], "on_problem: empty: 'repair' is no policy for it; known: fail, skip"),
        (["--set", "source_path=nowhere"], "nowhere"),
        (["--set", "target_part=U"], "target part 'U' is not in T"),
        (["--set", "source_parts=[U]"], "source part 'U' is not to be had from S"),
        (["--set", "pretrained_models=nowhere"], "nowhere/b2: expected an artifact of kind 'model' (model.json)"),
        (["--set", "previous_splits=gone.csv"], "gone.csv: no such file; it is splits.csv of an earlier run"),
        (["--set", "backbones=[nope]"], "unknown backbone 'nope'"),
        (["--data-root", "/no/such/folder"], "/no/such/folder"),
        (["--registry", "/usr/lib"], "/usr/lib: holds "),
        (["--config", "/no/such.yaml"], "/no/such.yaml: no such configuration file"),
    ],
)
def test_bad_request_is_refused_before_anything_is_written(fake_run: FakeRun, options: list[str], message: str) -> None:
    code, _, stderr = fake_run(*options)
    assert code == 2 and message in stderr, stderr
    assert "Traceback" not in stderr
    assert not fake_run.out.exists() and not fake_run.calls


def test_results_inside_a_data_set_are_refused(fake_run: FakeRun) -> None:
    """They would change what the run reads: it could not be taken up."""
    inside = fake_run.data_root / "T" / "out"
    code, _, stderr = fake_run("--out", str(inside))
    assert code == 2 and f"--out {inside}: lies inside the data set 'T'" in stderr
    assert not inside.exists() and not fake_run.calls


def test_a_class_without_images_is_seen_before_anything_is_written(fake_run: FakeRun) -> None:
    (fake_run.data_root / "S" / "abnormal" / "b.png").unlink()
    code, _, stderr = fake_run()
    assert code == 2 and "source S, S: class 'abnormal' has no images; add some" in stderr
    assert not fake_run.out.exists() and not fake_run.calls


def test_overhead_counts_the_time_in_which_no_step_was_at_work() -> None:
    # Ten seconds; steps at work in [1, 4] (twice over), [6, 7], and before and after the run.
    inside = [[6, 7], [1, 3], [2, 4], [2.5, 3.5], [-5, -1], [9.5, 12]]
    cost = overhead(0, 10, [{"inside": call, "entered": call[0] - 0.5} for call in inside])
    assert cost["wall_seconds"] == 10
    assert cost["inside_steps_seconds"] == pytest.approx(3 + 1 + 0.5)
    assert cost["overhead_share"] == pytest.approx(0.55)
    assert cost["of_which_imports_seconds"] == pytest.approx(0.5 + 0.5 + 0.5)


def test_fakes_are_out_of_the_way_of_other_tests() -> None:
    assert "FAKE_CALLS" not in os.environ


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(fake_run: FakeRun) -> None:
    code, stdout, stderr = fake_run("--dry-run", "--set", "refit=true", "--set", "budget_minutes=9")
    assert code == 0, stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stderr.splitlines() if "│" in line]
    # Of two images each 64 % are learnt from, and 80 % of the source's; with `refit` all is done twice, and mirrored.
    assert rows[:3] == [
        ["pretrain", "b2", "1", "2", "5", "0.1"],
        ["finetune", "b2", "3", "1", "16", "1.2"],
        ["extract", "b2", "3", "2", "4", "0.4"],
    ]
    assert [row[1] for row in rows[3:]] == ["b1"] * 3 + ["b3"] * 3
    assert "stated budget 9 minutes" in stderr and "come on top" in stderr
    assert stdout == "" and not fake_run.out.exists() and not fake_run.calls


def test_a_dry_run_knows_what_the_control_and_fewer_labels_cost(fake_run: FakeRun) -> None:
    """One step an epoch on source and target: 5 of pre-training make 8 epochs of fine-tuning 13."""
    code, _, stderr = fake_run("--dry-run", "--set", "equal_steps=true", "--set", "label_fraction=0.5")
    assert code == 0, stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stderr.splitlines() if "│" in line]
    assert [row[:5] for row in rows[:4]] == [
        ["pretrain", "b2", "1", "2", "5"],
        ["finetune", "b2", "2", "1", "13"],
        ["finetune", "b2", "1", "1", "8"],
        ["extract", "b2", "3", "2", "2"],
    ]


def test_a_dry_run_knows_what_corruptions_cost(fake_run: FakeRun) -> None:
    """Of two images 0.4 are for test: two kinds in five grades, mirrored, by three sources are 60 passes."""
    code, _, stderr = fake_run("--dry-run", "--set", "corruptions=[jpeg, blur]")
    assert code == 0, stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stderr.splitlines() if "│" in line]
    assert [row for row in rows if row[0] == "stress"] == [
        ["stress", name, "1", "0", "60", "0.4"] for name in ("b2", "b1", "b3")
    ]
    code, _, stderr = fake_run("--dry-run", "--set", "corruptions=[blurr]")
    assert code == 2 and "corruptions: unknown corruption 'blurr'; did you mean blur" in stderr


@pytest.mark.slow
def test_the_control_reaches_the_trainings_that_it_is_for(fake_run: FakeRun) -> None:
    """Four images of the source are one step an epoch, five epochs of pre-training five steps."""
    code, _, stderr = fake_run("--set", "equal_steps=true", "--set", "backbones=[b1]", "--set", "label_fraction=0.5")
    assert code == 0, stderr
    tuned = [call for call in fake_run.calls if call.startswith("finetune")]
    more = [f"finetune {source} b1 and 5 more steps" for source in ("imagenet", "scratch")]
    assert sorted(tuned) == sorted([*more, "finetune in_domain b1"])
    assert "label_fraction: 0.5" in (fake_run.out / "config.yaml").read_text()


def test_ctrl_c_ends_what_is_looked_at_first_at_once() -> None:
    """The terminal sends it to all processes of the command."""
    code = (
        "import time; from radtransfer_pipelines import local\nif __name__ == '__main__':\n"
        " try: local.apart(time.sleep, 60)\n except KeyboardInterrupt: print('interrupted')"
    )
    for seconds in (0, 1):  # while the other process starts, and when it is at work
        command = subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while len(psutil.Process(command.pid).children()) < 2:  # it, and multiprocessing's resource tracker
            time.sleep(0.01)
        time.sleep(0.05 + seconds)
        os.killpg(command.pid, signal.SIGINT)
        sent = time.monotonic()
        assert command.communicate(timeout=30) == ("interrupted\n", "")
        assert time.monotonic() - sent < 10
