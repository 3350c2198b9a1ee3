"""The model card (Mitchell et al. 2019, Model Cards for Model Reporting) that goes with a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radtransfer.robustness import CONTROL, MASKED
from radtransfer.robustness.kinds import EVERY, GRADES, KINDS

CHANGES = {MASKED: "annotated lesions hidden", CONTROL: "as much hidden elsewhere"}
CHANGES |= {kind: f"{kind}, mean over grades 0 to {GRADES}" for kind in KINDS}
CHANGES |= {EVERY: f"mean over all kinds and grades 0 to {GRADES}"}
REFITTED = (
    "- then networks and classifier were trained again on training and validation images together; choice, calibration "
    "and threshold are those of the training before"
)
METRICS = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "f1": "F1",
    "kappa": "Cohen's kappa",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "expected calibration error",
    "auprc": "average precision (AUPRC)",
    "brier": "Brier score",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "calibration_slope": "calibration slope",
}


def model_card(
    bundle: Mapping[str, Any], data: Mapping[str, Any], evaluation: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Markdown text of the card.

    Args:
        bundle: content of the bundle.
        data: content of the target's image store.
        evaluation: content of the evaluation.
        metrics: ``metrics.json``.
    """
    test = metrics["test"]
    row = bundle["metrics"]
    shortcuts = [one for one in metrics["results"] if one["tl_source"] == "shortcut" and one["level"] == "image"]
    rivals = [one for one in metrics["results"] if one["id"] in _fused_choices(evaluation)]
    lines = [
        f"# {bundle['name']}",
        "",
        f"{data['part']}: {bundle['classes']['0']} against {bundle['classes']['1']} (positive).",
        "",
        "## Intended use",
        "",
        str(bundle["intended_use"]),
        "",
    ]
    if bundle["synthetic"]:
        lines += ["**Trained and tested on synthetic images: says nothing about patients.**", ""]
    lines += [
        "## Model",
        "",
        f"- transfer-learning source: {bundle['tl_source']}",
        f"- features: {bundle['features']} ({', '.join(block['backbone'] for block in bundle['blocks'])})",
        f"- classifier: {bundle['classifier']}, calibrated ({bundle['calibrated_by']}), threshold "
        f"{bundle['threshold']:.4f} ({bundle['threshold_rule']}) on validation images",
        "- chosen among all candidates by validation AUROC, before a test label was read",
        *([REFITTED] if bundle["refit"] else []),
        "",
        "## Data",
        "",
        f"- {data['name']} (layout {data['layout']}), {data['images']} images stored at {data['size']} px, "
        f"{len(data['rejected'])} of {data['files_found']} files rejected",
        f"- split by {data['grouping'].replace('_', ' ')} group: "
        + "; ".join(
            f"{split} " + ", ".join(f"{count} {name}" for name, count in classes.items())
            for split, classes in data["counts"].items()
        ),
        "",
        f"## Test result ({test['images']} images, {test['groups']} groups, {test['positives']} positive)",
        "",
        "| metric | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {label} | {_number(row[key]['value'])} | {_interval(row[key])} |" for key, label in METRICS.items()),
        "",
        "AUROC of the others:",
        "",
        *(f"- {one['id']}: {_number(one['auroc']['value'])} ({_interval(one['auroc'])})" for one in rivals + shortcuts),
        "",
        *_changed(bundle["row_id"], metrics["results"]),
        evaluation["answer"]["text"],
        "",
        *([evaluation["robustness"]["text"], ""] if evaluation.get("robustness") else []),
        "## Limits",
        "",
        *(f"- {warning}" for warning in evaluation["warnings"]),
        "- One split and one seed; the intervals cover the sampling of test images, not the variance of training.",
        "- Not tested on images of other sites, devices or body parts.",
        "",
        "## Use",
        "",
        "    radtransfer predict --bundle FOLDER IMAGE... --format csv",
        "",
    ]
    return "\n".join(lines)


def _changed(row_id: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model scores on changed test images; nothing where there are none."""
    changed = [row for row in rows if row["corruption"] != "none" and row["id"] == f"{row_id}/{row['corruption']}"]
    found = [row for row in changed if row["corruption"] in CHANGES]  # not every grade
    if not found:
        return []
    listed = [
        f"- {CHANGES[row['corruption']]}: {_number(row['auroc']['value'])} "
        f"({_interval(row['auroc'])}), {row['n']} images"
        for row in found
    ]
    return ["Its AUROC on changed test images:", "", *listed, ""]


def _fused_choices(evaluation: Mapping[str, Any]) -> list[str]:
    return [choice["fused"] for choice in evaluation["choices"].values()]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(metric: Mapping[str, float | None]) -> str:
    return f"{_number(metric['low'])} to {_number(metric['high'])}"
