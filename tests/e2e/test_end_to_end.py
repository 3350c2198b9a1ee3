"""The whole road for real, small: from images to report and bundle under kfp.local, killed and taken up; predicting."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from radtransfer.cache import VARIABLE

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]


def start(config: Path, data_root: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [*CLI, "run", "--config", str(config), "--data-root", str(data_root), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(out: Path) -> list[str]:
    events = out / ".work" / "events.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    return [event["task"] for event in map(json.loads, lines) if event["event"] == "end"]


@pytest.fixture(scope="module")
def uninterrupted(config: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    process = start(config, data_root, out)
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    return out, stdout


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_run_leaves_what_it_promises(uninterrupted: tuple[Path, str]) -> None:
    out, stdout = uninterrupted
    assert stdout.splitlines()[-1] == str(out / "report.html")
    found = metrics(out)
    assert [row["selected"] for row in found["results"]].count(True) == 1
    assert {row["tl_source"] for row in found["results"]} == {"scratch", "imagenet", "in_domain", "shortcut"}
    assert any(row["features"] == "fused" for row in found["results"])
    assert 'id="degradation-blur-t"' in (out / "report.html").read_text(encoding="utf-8")
    graded = [row for row in found["results"] if row["corruption"].startswith("blur-")]
    assert len(graded) >= 5 * 3 * 2 and {one["family"] for one in found["comparisons"]} >= {"robustness", "fusion"}
    assert {path.name for path in (out / "pretrained").iterdir()} == {"tf_efficientnet_lite0", "tf_efficientnet_lite1"}
    assert (out / "bundle" / "bundle.json").is_file() and (out / "explanations" / "gallery.json").is_file()
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert len(run["tasks"]) == 25 and run["tasks"][0]["task"] == "preflight"
    assert 0 < run["orchestration"]["overhead_share"] < 1
    assert not (out / ".work").exists()


def test_predict_gives_the_scores_of_the_report(uninterrupted: tuple[Path, str], data_root: Path) -> None:
    out, _ = uninterrupted
    selected = next(row["id"] for row in metrics(out)["results"] if row["selected"])
    reported = pd.read_parquet(out / "evaluation" / "test_scores.parquet").set_index("image_id")[selected]
    images = [str(data_root / name) for name in reported.index]
    broken = str(data_root / "phantoms" / "hand" / "cut.png")
    command = [*CLI, "predict", "--bundle", str(out / "bundle"), *images, broken, "--format", "csv"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "cut.png" in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["image"] for row in rows] == [*images, broken]
    assert rows[-1]["score"] == rows[-1]["label"] == ""
    scores = np.array([float(row["score"]) for row in rows[:-1]])
    np.testing.assert_allclose(scores, reported.to_numpy(), atol=1e-4)
    threshold = json.loads((out / "bundle" / "bundle.json").read_text())["content"]["threshold"]
    assert [row["label"] for row in rows[:-1]] == ["abnormal" if s >= threshold else "normal" for s in reported]


def test_run_of_a_bundle_killed_and_taken_up_gives_the_same_figures(
    uninterrupted: tuple[Path, str], data_root: Path, tmp_path: Path
) -> None:
    """Also says that the same seed gives the same figures: nothing but the data and configuration is shared."""
    out = tmp_path / "out"
    command = [*CLI, "run", "--from", str(uninterrupted[0] / "bundle"), "--data-root", str(data_root)]

    def begun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = begun()
    deadline = time.monotonic() + 300
    while len(ended(out)) < 9:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    before = ended(out)
    artifacts = {path: path.stat().st_mtime_ns for path in (out / ".work" / "artifacts").rglob("model.json")}
    assert before and artifacts

    process = begun()
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    assert "taking up an unfinished run" in stderr and "every figure within 0.0001" in stdout
    again = [line.split()[1] for line in stderr.splitlines() if "MiB" in line]
    # A task whose end came in the very moment of the kill may not have reached the cache.
    assert len(set(before) & {name.rstrip(":") for name in again} - {"preflight"}) <= 2
    assert metrics(out) == metrics(uninterrupted[0])
    assert (out / "report.html").stat().st_size > 10_000


def test_a_training_that_is_interrupted_goes_on_where_it_was(
    config: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = ["--set", "backbones=[tf_efficientnet_lite0]", "--set", "finetune_epochs=200"]

    def until(said: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 200
        while not any(said in log.read_text(encoding="utf-8") for log in (out / ".work/logs").glob("finetune*.log")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    process = start(config, data_root, out, *options)
    until("epoch 2/200", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert len(list((tmp_path / "cache/checkpoints").rglob("*.safetensors"))) == 1
    process = start(config, data_root, out, *options)
    until("goes on after step", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_models_of_an_earlier_run_give_the_same_figures(
    uninterrupted: tuple[Path, str], config: Path, data_root: Path, tmp_path: Path
) -> None:
    earlier, out = uninterrupted[0] / "pretrained", tmp_path / "out"
    process = start(config, data_root, out, "--set", f"pretrained_models={earlier}")
    _, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    assert metrics(out) == metrics(uninterrupted[0])
    for model in earlier.iterdir():
        assert (out / "pretrained" / model.name / "model.json").read_bytes() == (model / "model.json").read_bytes()
