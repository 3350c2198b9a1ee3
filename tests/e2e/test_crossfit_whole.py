"""Cross-fitting for real, small: two folds, stopped and taken up, pooled, and what the models of each have seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]
BACKBONE = "tf_efficientnet_lite0"


def start(config: Path, data_root: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    given = ["--config", str(config), "--data-root", str(data_root), "--out", str(out)]
    command = [*CLI, "crossfit", *given, "--set", f"backbones=[{BACKBONE}]", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
    )


def splits(run: Path, role: str) -> pd.DataFrame:
    table = pd.read_csv(run / "splits.csv")
    return table[table["role"] == role].set_index("image_id").sort_index()


@pytest.mark.timeout(6000)
def test_two_folds(config: Path, data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, said = start(config, data_root, out, "--folds", "2", "--dry-run").communicate(timeout=900)
    assert "2 runs (2 folds; seeds 0), 2 of them left: about" in said and "pre-training once for each seed" in said
    assert not out.exists()

    process = start(config, data_root, out, "--folds", "2")
    first, second = out / "seed0-fold1", out / "seed0-fold2"
    deadline = time.monotonic() + 2400
    while not (second / ".work" / "run-config.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    made = (first / "run.json").stat().st_mtime_ns
    assert not (second / "run.json").exists() and not (out / "comparison.html").exists()

    process = start(config, data_root, out, "--folds", "2")
    printed, said = process.communicate(timeout=2400)
    assert process.returncode == 0, said
    assert "1 of them left" in said and printed.splitlines()[-1] == str(out / "comparison.html")
    assert (first / "run.json").stat().st_mtime_ns == made
    _check(out, first, second)

    process = start(config, data_root, out, "--folds", "2")
    printed, said = process.communicate(timeout=900)
    assert process.returncode == 0 and "run 1" not in said and printed.splitlines()[-1] == str(out / "comparison.html")

    command = [*CLI, "compare", str(first), str(second), "--out", str(tmp_path / "compared")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2 and "0 are shared" in done.stderr and not (tmp_path / "compared").exists()


def _check(out: Path, first: Path, second: Path) -> None:
    # The source store and its splits are the same in both folds, and so is what was pre-trained on it.
    pd.testing.assert_frame_equal(splits(first, "source"), splits(second, "source"))
    models = [run / "pretrained" / BACKBONE for run in (first, second)]
    assert len({(model / "model.json").read_bytes() for model in models}) == 1
    seen = set((models[0] / "seen.txt").read_text().split())
    target = splits(first, "target")
    assert seen == set(splits(first, "source")["sha256"]) and not seen & set(target["sha256"])
    steps = [[task["step"] for task in json.loads((run / "run.json").read_text())["tasks"]] for run in (first, second)]
    assert steps[0].count("pretrain") == steps[1].count("pretrain") == 1
    told = json.loads((second / "run.json").read_text())
    config = told["config"]
    assert (config["seed"], config["test_fold"], config["pretrained_models"]) == (0, [2, 2], "")
    assert told["takes_up"] == "../seed0-fold1/pretrained"
    assert str(out) not in (second / "report.html").read_text()

    # Every image is tested once, and the pooled figures are those of the scores that the runs left.
    tables = [pd.read_parquet(run / "evaluation" / "test_scores.parquet") for run in (first, second)]
    assert sorted(pd.concat(tables)["image_id"]) == list(target.index)
    assert not set(tables[0]["group_id"]) & set(tables[1]["group_id"])
    comparison: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    assert comparison["test"]["images"] == len(target)
    row = next(row for row in comparison["results"] if row["id"] == "A/in_domain/fused")
    wins, pairs = 0.0, 0
    for run, table, fold in zip((first, second), tables, row["folds"], strict=True):
        evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())["content"]
        value = roc_auc_score(table["label"], table[evaluation["choices"]["in_domain"]["fused"]])
        assert fold["auroc"] == pytest.approx(value)
        positives = int(np.sum(table["label"]))
        wins, pairs = wins + value * positives * (len(table) - positives), pairs + positives * (len(table) - positives)
    assert row["auroc"]["value"] == pytest.approx(wins / pairs)
