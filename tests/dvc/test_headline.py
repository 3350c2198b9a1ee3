"""The small file that ``dvc metrics show`` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "headline.py"


def row(identity: str, auroc: float | None, *, selected: bool = False) -> dict[str, Any]:
    figures = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ("kappa", "accuracy", "f1")}
    source = identity.split("/", maxsplit=1)[0]
    interval = {"value": auroc, "low": None, "high": None}
    return {"id": identity, "tl_source": source, "selected": selected, "auroc": interval, **figures}


def comparison(a: str, b: str, metric: str, difference: float) -> dict[str, Any]:
    return {"a": a, "b": b, "metric": metric, "difference": difference, "low": -1.0, "high": 1.0, "adjusted_p": 0.03}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    rows = [
        row("imagenet/fused/svm_rbf/seed0", 0.9),
        row("in_domain/fused/knn/seed0", 0.8, selected=True),
        row("shortcut/majority_class", None),
        row("shortcut/grey_level_histogram", 0.7),
    ]
    comparisons = [
        comparison("imagenet/x", "scratch/y", "auroc", 0.1),
        comparison("in_domain/x", "imagenet/y", "kappa", 0.2),
        comparison("in_domain/x", "scratch/y", "auroc", 0.3),
        comparison("in_domain/x", "imagenet/y", "auroc", -0.4),
    ]
    (folder / "metrics.json").write_text(json.dumps({"results": rows, "comparisons": comparisons}))
    answer = {"content": {"answer": {"winner": None}}}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(answer))
    return folder


def test_headline_tells_the_selected_row_and_the_claim(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "demo.json"
    subprocess.run([sys.executable, str(SCRIPT), str(run), str(out)], check=True)
    assert json.loads(out.read_text()) == {
        "selected": "in_domain/fused/knn/seed0",
        "auroc": 0.8,
        "kappa": 0.5,
        "accuracy": 0.5,
        "f1": 0.5,
        "shortcut_auroc": 0.7,
        "in_domain_minus_imagenet": {"auroc": -0.4, "low": -1.0, "high": 1.0, "adjusted_p": 0.03},
        "winner": "none",
    }
