"""The model card (Mitchell et al. 2019, Model Cards for Model Reporting) that goes with a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radtransfer.evaluation.verdict import FEW, TOO_FEW
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
        *_known(data["attributes"]),
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
        *_subgroups(bundle["row_id"], metrics["results"]),
        evaluation["answer"]["text"],
        "",
        *([evaluation["robustness"]["text"], ""] if evaluation.get("robustness") else []),
        *_refusals(bundle["unfit"]),
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


def _refusals(unfit: Mapping[str, Any]) -> list[str]:
    """When prediction refuses an image, and how often wrongly."""
    alarms = unfit["false_alarms"]
    return [
        "## Unfit images",
        "",
        "- `predict` gives no label, but a reason, for an image that is blank, "
        + ("" if unfit["coloured"] else "in colour, ")
        + "by its DICOM header of another modality than the images of the run, or farther from the training images "
        f"than {unfit['limit']:.2f} (1: the median training image); this limit is set on validation images to refuse "
        f"{unfit['false_alarms_meant']:.0%} of fit ones",
        f"- false alarms on the test images: {alarms['unfit']} of {alarms['images']}, {alarms['value']:.1%} "
        f"({alarms['low']:.1%} to {alarms['high']:.1%})",
        "",
    ]


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


def _known(attributes: Mapping[str, int]) -> list[str]:
    """Of how many images the data set says what."""
    said = ", ".join(f"{name.replace('_', ' ').replace('=', ' ')} {count}" for name, count in attributes.items())
    return [f"- known of the images: {said}"] if said else []


def _subgroups(row_id: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model scores in subgroups of the test images; nothing where none are known."""
    found = [row for row in rows if row["subgroup"] != "all" and row["id"] == f"{row_id}/{row['subgroup']}"]
    if not found:
        return []
    names = ("auroc", "sensitivity", "specificity")
    listed = [
        f"| {row['subgroup'].replace('_', ' ').replace('=', ': ')} | {row['n']} | {row['positives']} | "
        + " | ".join(_estimate(row[name]) for name in names)
        + " |"
        for row in found
    ]
    return [
        "In subgroups of the test images, as far as they are known; described, not tested. Undefined: a class is in "
        f"fewer than {TOO_FEW} leakage groups. With fewer than {FEW} figures are a rough guide.",
        "",
        "| subgroup | images | positive | AUROC | sensitivity | specificity |",
        "|---|---|---|---|---|---|",
        *listed,
        "",
    ]


def _fused_choices(evaluation: Mapping[str, Any]) -> list[str]:
    return [choice["fused"] for choice in evaluation["choices"].values()]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _estimate(metric: Mapping[str, float | None]) -> str:
    return "undefined" if metric["value"] is None else f"{_number(metric['value'])} ({_interval(metric)})"


def _interval(metric: Mapping[str, float | None]) -> str:
    return f"{_number(metric['low'])} to {_number(metric['high'])}"
