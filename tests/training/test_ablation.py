"""The ablations that docs/results.md rests on, on synthetic radiographs."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Chain

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ablation.py"


@pytest.fixture
def config(chain: Chain, tmp_path: Path) -> Path:
    settings = {
        "name": "tiny", "target_layout": "phantoms", "target_path": "phantoms", "target_part": "hand",
        "source_layout": "phantoms", "source_path": "phantoms", "image_size": 64, "validation_fraction": 0.3,
        "backbones": ["test_efficientnet"], "input_size": 64, "weights_mirror": str(chain.data_root.parent / "mirror"),
        "finetune_epochs": 1, "pretrain_epochs": 1, "batch_size": 8, "threads": 1,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def test_settings_are_compared_on_the_same_images(
    chain: Chain, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ablation(*vary: str, tl_source: str = "imagenet") -> list[str]:
        arguments = ["--config", str(config), "--data-root", str(chain.data_root)]
        arguments += ["--backbone", "test_efficientnet", "--folds", "2", "--tl-source", tl_source]
        arguments += [part for text in vary for part in ("--vary", text)]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    base, same, all_of_it, constant, entry, fewer, last = ablation(
        "threads=1", "share=1", "loop.HEAD_RATE=100", "learning_rate=1e-2; schedule.WARM_UP=0.5", "share=0.5"
    )
    assert re.match(r"as configured: AUROC 0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\), \d+ s$", base)
    assert all(", +0.000 (+0.000 to +0.000), " in line for line in (same, all_of_it))
    assert all(", +0.000 (+0.000 to +0.000), " not in line for line in (constant, entry, fewer))
    assert "images in 2 folds" in last

    _, same, boxes, _ = ablation("share=1", "pretrain_boxes=true", tl_source="in_domain")
    assert ", +0.000 (+0.000 to +0.000), " in same and ", +0.000 (+0.000 to +0.000), " not in boxes

    with pytest.raises(SystemExit, match="seed=1: validates on other images"):
        ablation("seed=1")


def test_a_factorial_design_finds_what_each_variation_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    factorial = importlib.import_module("factorial")
    has, fold = factorial.design(24, 5, 4)
    assert [np.count_nonzero(fold == number) for number in range(4)] == [6] * 4
    assert has.sum(axis=0).tolist() == [12] * 5
    added = np.array([0.04, -0.02, 0, 0.01, 0])
    exact = np.array([0.8, 0.7, 0.75, 0.9])[fold] + has @ added
    np.testing.assert_allclose(factorial.effects(exact, has, fold)[0], added, atol=1e-12)
    # 200 noisy repeats (seed 0) of 5 intervals hold the truth 950 times of 1,000 on average, sd 7 were they apart;
    # those of one repeat share a variance, which at most doubles that: below 910 or above 985 in under 1 % of tries.
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        found, half = factorial.effects(exact + rng.normal(0, 0.01, 24), has, fold)
        held += int((abs(found - added) <= half).sum())
    assert 910 <= held <= 985
    with pytest.raises(SystemExit, match="too few for 5 variations on 4 folds"):
        factorial.design(9, 5, 4)


def test_many_settings_are_varied_at_a_time(chain: Chain, config: Path) -> None:
    def factorial(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT.parent / "factorial.py"), "--config", str(config), "--folds", "2"]
        command += ["--data-root", str(chain.data_root), "--backbone", "test_efficientnet", *options]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    found = factorial(
        "--trainings", "6", "--vary", "learning_rate=1e-2; schedule.WARM_UP=0.5", "--vary", "batch_size=4"
    )
    lines = found.stdout.splitlines()
    assert found.returncode == 0, found.stderr
    assert sum(line.startswith("fold ") for line in lines) == 6
    assert re.match(
        r"learning_rate=1e-2; schedule.WARM_UP=0.5: [+-]0\.\d{3} \([+-]\d\.\d{3} to [+-]\d\.\d{3}\)$", lines[6]
    )
    assert "6 trainings" in lines[-1]
    other = factorial("--trainings", "6", "--vary", "image_size=32")
    assert other.returncode and "image_size=32: varies more than fine-tuning" in other.stderr
