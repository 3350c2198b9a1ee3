"""The learning curve for real, small: two label fractions under the control, one pre-training, one page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]
BACKBONE = "tf_efficientnet_lite0"


def learning_curve(config: Path, data_root: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    given = ["--config", str(config), "--data-root", str(data_root), "--out", str(out), "--fractions", "0.5,1"]
    given += ["--set", f"backbones=[{BACKBONE}]", "--set", "equal_steps=true", "--set", "explain_images=0"]
    given += ["--set", "quality_images=0"]
    return subprocess.run(
        [*CLI, "learning-curve", *given, *options], check=False, capture_output=True, text=True, timeout=2800,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.timeout(6000)
def test_two_fractions(config: Path, data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = learning_curve(config, data_root, out)
    assert made.returncode == 0, made.stderr
    assert "2 runs (2 label fractions; seeds 0), 2 of them left: about" in made.stderr
    page = out / "learning_curve.html"
    assert made.stdout.splitlines()[-1] == str(page)
    few, whole = out / "fraction-0.5", out / "fraction-1"

    # The same test images and source, fewer labels, and the very same pre-trained model.
    splits = {run: pd.read_csv(run / "splits.csv").set_index(["role", "image_id"])["split"] for run in (few, whole)}
    pd.testing.assert_series_equal(splits[few].loc["source"], splits[whole].loc["source"])
    used = {run: table.loc["target"][table.loc["target"] != "unused"] for run, table in splits.items()}
    pd.testing.assert_series_equal(used[few], used[whole].loc[used[few].index])
    assert len(used[whole]) == len(splits[whole].loc["target"]) > len(used[few])
    assert (used[few] == "test").sum() == (used[whole] == "test").sum()
    assert len({(run / "pretrained" / BACKBONE / "model.json").read_bytes() for run in (few, whole)}) == 1
    assert [json.loads((run / "run.json").read_text())["takes_up"] for run in (few, whole)] == [
        "",
        "../fraction-0.5/pretrained",
    ]
    for run, share in ((few, 0.5), (whole, 1.0)):
        rows = json.loads((run / "metrics.json").read_text())["results"]
        assert {row["label_fraction"] for row in rows} == {share}
        report = (run / "report.html").read_text()
        assert "Control “trained as long”" in report and str(tmp_path) not in report
        assert ("of the labels were used" in report) == (share < 1)

    curve = json.loads((out / "learning_curve.json").read_text())
    learnt = [int((used[run] != "test").sum()) for run in (few, whole)]
    assert [point["images"] for point in curve["points"]] == learnt
    metrics = json.loads((few / "metrics.json").read_text())
    wanted = {row["id"]: row["auroc"]["value"] for row in metrics["results"]}
    choices = json.loads((few / "evaluation" / "evaluation.json").read_text())["content"]["choices"]
    for row in curve["results"]:
        if row["run"] == "A" and row["choice"] in ("fused", "single"):
            value = wanted[choices[row["tl_source"]][row["choice"]]]
            assert row["auroc"]["value"] == pytest.approx(value)

    again = learning_curve(config, data_root, out)
    assert again.returncode == 0 and "run 1 of" not in again.stderr
