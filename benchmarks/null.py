"""Whether the tool finds what is not there, and what is: whole runs on phantoms whose labels mean nothing, or much.

    python benchmarks/null.py [--runs 20] [--planted 3] [--keep DIR]

**Nothing there**: the target's labels are dealt anew among its patients, so that no test image can be told better than
by chance. Each run draws its own phantoms, permutation, splits and trainings. The mean test AUROC of the selected
models must lie within 4 standard errors of 0.5, and at most 4 of 20 runs may show a difference between TL sources
(a Holm-adjusted p-value below .05 in the family ``tl_source``); a correct tool fails the first in 1 of some 1,300 (with
20 runs; Student's t), and the second, were every family wrong in 5 % of runs, in 1 of some 390.

**Something there**: the source's fractures are plain and many and the target's are hard to see and few, so that
in-domain pre-training helps; and the same with the source's labels dealt anew, so that it cannot. The report must name
in-domain pre-training as the winner in the first case, and not in the second.

Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from radtransfer.artifacts import read, read_json
from radtransfer.datasets.phantoms import TABLE, make_phantoms

TARGET, SOURCE = "humerus", "forearm"
SIDE = 64
FALSE_ALARMS = 4 / 20
CONFIG = {
    "name": "null", "target_layout": "phantoms", "target_path": "phantoms", "target_part": TARGET,
    "source_layout": "phantoms", "source_path": "phantoms", "image_size": SIDE, "input_size": SIDE,
    "backbones": ["tf_efficientnet_lite1", "tf_efficientnet_lite0"], "test_fraction": 0.4, "pretrain_epochs": 2,
    "finetune_epochs": 3, "batch_size": 8, "cv_folds": 3, "bootstrap": 1000, "explain_images": 0, "quality_images": 0,
}  # fmt: skip
PLANTED = {"target_path": "target", "test_fraction": 0.55, "validation_fraction": 0.3, "pretrain_epochs": 6}


def dealt_anew(folder: Path, part: str, seed: int) -> None:
    """Deal the labels of a part's patients anew among them, and forget where the fractures lie."""
    table = folder / TABLE
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    labels = {row["patient"]: row["label"] for row in rows if row["part"] == part}
    shuffled = np.random.default_rng(seed).permutation(list(labels.values())).tolist()
    dealt = dict(zip(labels, shuffled, strict=True))
    for row in rows:
        if row["part"] == part:
            row.update(label=dealt[row["patient"]], boxes="")
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run(folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One whole run on ``folder/phantoms``: AUROC of the selected row, p-values between sources, and the winner."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG | settings | {"seed": seed}), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "radtransfer"), "run", "--config", str(config)]
    done = subprocess.run(
        [*command, "--data-root", str(folder), "--out", str(folder / "run")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{folder}: radtransfer run ended with code {done.returncode}\n{done.stderr[-2000:]}")
    evaluation = read(folder / "run" / "evaluation", "evaluation").content
    metrics = read_json(folder / "run" / "metrics.json")
    selected = next(row for row in metrics["results"] if row["selected"])
    between = [one["adjusted_p"] for one in metrics["comparisons"] if one["family"] == "tl_source"]
    return {
        "auroc": selected["auroc"]["value"],
        "id": selected["id"],
        "p": min((p for p in between if p is not None), default=None),
        "winner": evaluation["answer"]["winner"],
        "text": evaluation["answer"]["text"],
    }


def nothing(place: Path, runs: int) -> bool:
    """Runs whose labels mean nothing; whether the tool says so."""
    found = []
    for seed in range(runs):
        folder = place / f"nothing-{seed}"
        make_phantoms(folder / "phantoms", 200, (TARGET, SOURCE), size=SIDE, seed=seed)
        dealt_anew(folder / "phantoms", TARGET, seed)
        found.append(run(folder, seed, {}))
        shutil.rmtree(folder / "phantoms")
        print(
            f"nothing there, seed {seed}: AUROC {found[-1]['auroc']:.3f}, p {found[-1]['p']}, {found[-1]['id']}",
            flush=True,
        )
    aurocs = np.array([one["auroc"] for one in found])
    error = float(aurocs.std(ddof=1)) / np.sqrt(runs)
    alarms = sum(one["p"] is not None and one["p"] < 0.05 for one in found)
    unjudged = sum(one["p"] is None for one in found)
    off = (float(aurocs.mean()) - 0.5) / error
    print(
        f"nothing there, {runs} runs: mean AUROC of the selected model {aurocs.mean():.3f}, standard error "
        f"{error:.3f}, {off:+.1f} of them from 0.5; a difference between sources in {alarms} runs, no verdict in "
        f"{unjudged}"
    )
    return bool(abs(off) <= 4 and alarms <= FALSE_ALARMS * runs)


def planted(place: Path, runs: int) -> bool:
    """Runs in which in-domain pre-training helps, and cannot; whether the tool says so."""
    right = True
    for seed in range(runs):
        for helps in (True, False):
            folder = place / f"{'help' if helps else 'noise'}-{seed}"
            make_phantoms(folder / "phantoms", 600, (SOURCE,), 0.0, SIDE, seed)
            made = folder / "target"
            make_phantoms(made, 300, (TARGET,), 0.3, SIDE, seed)
            if not helps:
                dealt_anew(folder / "phantoms", SOURCE, seed)
            found = run(folder, seed, PLANTED)
            said = (found["winner"] == "in_domain") is helps
            right &= said
            print(
                f"{'helps' if helps else 'cannot help'}, seed {seed}: {'right' if said else 'WRONG'}: {found['text']}",
                flush=True,
            )
            shutil.rmtree(folder / "phantoms")
    return right


def main(arguments: Sequence[str] | None = None) -> int:
    """Both experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--planted", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder to leave the runs in; else they are thrown away")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="radtransfer-null-") as name:
        place = given.keep or Path(name)
        results = [planted(place, given.planted)] if given.planted else []
        results += [nothing(place, given.runs)] if given.runs > 1 else []
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
