"""Put a run's main figures into one small flat file, which ``dvc metrics show`` and ``dvc metrics diff`` can print.

    python scripts/headline.py RUN OUT

``dvc`` leaves lists out, and metrics.json holds its rows in lists.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from radtransfer.artifacts import read_json, write_json


def headline(run: Path) -> dict[str, Any]:
    """The selected row's figures, the best shortcut's AUROC, and the test of in-domain against ImageNet transfer."""
    metrics = read_json(run / "metrics.json")
    answer = read_json(run / "evaluation" / "evaluation.json")["content"]["answer"]
    rows = metrics["results"]
    selected = next(row for row in rows if row["selected"])
    shortcuts = [row["auroc"]["value"] for row in rows if row["tl_source"] == "shortcut"]
    claim = next(
        entry
        for entry in metrics["comparisons"]
        if entry["metric"] == "auroc" and entry["a"].startswith("in_domain/") and entry["b"].startswith("imagenet/")
    )
    return {
        "selected": selected["id"],
        **{name: selected[name]["value"] for name in ("auroc", "kappa", "accuracy", "f1")},
        "shortcut_auroc": max((value for value in shortcuts if value is not None), default=None),
        "in_domain_minus_imagenet": {
            "auroc": claim["difference"],
            "low": claim["low"],
            "high": claim["high"],
            "adjusted_p": claim["adjusted_p"],
        },
        "winner": answer["winner"] or "none",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `radtransfer run` made")
    parser.add_argument("out", type=Path, help="file to write")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, headline(given.run))
