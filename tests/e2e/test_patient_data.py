"""A whole run on DICOM files that say who the patients are, and what of that it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from radtransfer.datasets.pseudonym import VARIABLE
from tests.preprocess.test_hostile_runs import columns, found, identifying, left_in

CLI = [sys.executable, "-c", "from radtransfer.cli import main; main()"]


@pytest.mark.slow
def test_nothing_of_a_patient_is_in_what_a_run_leaves(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    secrets = identifying(data / "own")
    config = tmp_path / "run.yaml"
    sides = "".join(
        f"{side}_layout: table\n{side}_path: own\n{side}_table: {columns()}\n" for side in ("target", "source")
    )
    config.write_text(
        f"name: n\ntarget_part: hand\n{sides}image_size: 48\ninput_size: 48\ntest_fraction: 0.3\n"
        "validation_fraction: 0.3\nbackbones: [tf_efficientnet_lite0]\npretrain_epochs: 1\nfinetune_epochs: 1\n"
        "batch_size: 4\ncv_folds: 2\nbootstrap: 100\nexplain_images: 1\nlime_samples: 10\nquality_images: 2\n"
    )
    environment = os.environ | {VARIABLE: "a key for this test only"}
    run = [*CLI, "run", "--config", str(config), "--data-root", str(data), "--out", str(out)]
    ran = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr
    scores = pd.concat([pd.read_parquet(path) for path in out.rglob("*.parquet")]).to_csv()
    everything = {"stdout": ran.stdout, "stderr": ran.stderr, "scores": scores} | left_in(out)
    assert not found(secrets, everything)
    assert json.loads((out / "explanations/gallery.json").read_text())
    kept = {path.name for path in out.iterdir()}
    assert {"report.html", "data_report.html", "run.log", "logs", "bundle", "splits.csv"} <= kept
