"""The ablation that docs/results.md rests on, on synthetic radiographs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Chain

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ablation.py"


def test_settings_are_compared_on_the_same_images(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "name": "tiny", "target_layout": "phantoms", "target_path": "phantoms", "target_part": "hand",
        "source_layout": "phantoms", "source_path": "phantoms", "image_size": 64, "validation_fraction": 0.3,
        "backbones": ["test_efficientnet"], "input_size": 64, "weights_mirror": str(chain.data_root.parent / "mirror"),
        "finetune_epochs": 1, "pretrain_epochs": 1, "batch_size": 8, "threads": 1,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def ablation(*vary: str, tl_source: str = "imagenet") -> list[str]:
        arguments = ["--config", str(tmp_path / "config.yaml"), "--data-root", str(chain.data_root)]
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
