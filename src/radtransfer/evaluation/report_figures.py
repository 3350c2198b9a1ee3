"""The figures of the report: which series go into which chart, and the pictures of the explanations."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from radtransfer import artifacts, pages
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import charts
from radtransfer.evaluation.charts import Axis, Series, number
from radtransfer.evaluation.report_run import Row, Run
from radtransfer.evaluation.report_text import OUTCOMES, SOURCE_NAMES, estimate, features_name, model_name
from radtransfer.robustness.kinds import GRADES, KINDS, graded

_MAX_SIDE = 4096
UNIT = Axis(0, 1, 0.2)


def _drawn(run: Run) -> list[Row]:
    """Whose curves are drawn: each source's fused choice, and the grey-level histogram."""
    shortcuts = [row for row in run.shortcuts if row["features"] == "grey_level_histogram"]
    return [*shortcuts, *(run.choice(source, "fused") for source in reversed(run.sources))]


def _banded(run: Run, row: Row, kind: str, label: str) -> Series:
    """A curve of a row; with its band, if it is of a source."""
    curve = run.curves[row["id"]]["bands"][kind]
    band = [] if row["tl_source"] == "shortcut" else list(zip(curve["low"], curve["high"], strict=True))
    return Series(row["tl_source"], curve["x"], curve["y"], label, band=band)


def precision_recall(run: Run) -> Markup:
    """Precision and recall of each source's fused choice and of the grey-level histogram."""
    series = [_banded(run, row, "pr", f"{model_name(row)}: AUPRC {estimate(row['auprc'])}") for row in _drawn(run)]
    return charts.plot(
        title="Precision-recall curves on the test set",
        description="; ".join(one.label for one in series) + ".",
        x=UNIT, y=UNIT, x_label="Recall (sensitivity)", y_label="Precision (positive predictive value)",
        series=series, identity="pr",
    )  # fmt: skip


def roc(run: Run) -> Markup:
    """ROC of each source's fused choice, with its operating point, and of the grey-level histogram."""
    series, points = [], []
    for row in _drawn(run):
        curve = run.curves[row["id"]]
        series.append(_banded(run, row, "roc", f"{model_name(row)}: AUROC {estimate(row['auroc'])}"))
        if row["tl_source"] != "shortcut":
            n = curve["confusion"]
            at = [n["fp"] / max(n["fp"] + n["tn"], 1)], [n["tp"] / max(n["tp"] + n["fn"], 1)]
            points.append(Series(row["tl_source"], *at, f"{model_name(row)}, at its threshold"))
    return charts.plot(
        title="ROC curves on the test set",
        description="; ".join(one.label for one in series) + ". Markers: operating points.",
        x=UNIT,
        y=UNIT,
        x_label="False positive rate (1 \u2212 specificity)",
        y_label="True positive rate (sensitivity)",
        series=[*series, *points],
        diagonal=True,
        identity="roc",
    )


def reliability(run: Run) -> Markup:
    """Observed against predicted share of positives of the selected model."""
    bins = [one for one in run.curves[run.selected["id"]]["reliability"] if one["n"]]
    told = "; ".join(f"{number(b['predicted'], 2)} predicted, {number(b['observed'], 2)} observed" for b in bins)
    return charts.plot(
        title="Reliability of the selected model\u2019s scores",
        description=f"Expected calibration error {estimate(run.selected['ece'])}. {told}.",
        x=UNIT,
        y=UNIT,
        x_label="Predicted probability",
        y_label="Observed share",
        series=[
            Series(
                run.selected["tl_source"],
                [one["predicted"] for one in bins],
                [one["observed"] for one in bins],
                "mean of each bin",
                mark=tuple(range(len(bins))),
            )
        ],
        diagonal=True,
        weights=[one["n"] for one in bins],
        identity="reliability",
    )


def degradation(run: Run) -> list[tuple[str, Markup]]:
    """For each kind of corruption AUROC over grades of each source's fused choice; the same axes for all."""
    kinds = run.robustness.get("kinds", [])
    curves = {
        (kind, source): [run.rows[row_id]["auroc"] for row_id in _curve(run, source, kind)]
        for kind in kinds
        for source in reversed(run.sources)
    }
    ends = [point[end] for curve in curves.values() for point in curve for end in ("low", "value", "high")]
    axis, panels = Axis.covering(ends, include=(0.5,)), []
    for kind in kinds:
        series = [
            Series(
                source,
                range(GRADES + 1),
                [point["value"] for point in points],
                f"{SOURCE_NAMES[source]}: AUROC {', '.join(number(point['value']) for point in points)}",
                mark=tuple(range(GRADES + 1)),
                band=[(point["low"], point["high"]) for point in points],
            )
            for (of, source), points in curves.items()
            if of == kind
        ]
        drawn = charts.plot(
            title=f"AUROC by grade of corruption: {KINDS[kind].name}",
            description="; ".join(one.label for one in series) + f", at grades 0 to {GRADES}.",
            x=Axis(0, GRADES, 1, 0), y=axis, x_label="Grade", y_label="AUROC",
            series=series, size=(300, 210), identity=f"degradation-{kind}",
        )  # fmt: skip
        panels.append((KINDS[kind].name, drawn))
    return panels


def _curve(run: Run, source: str, kind: str) -> list[str]:
    """Row ids of a source's fused choice from grade 0 up."""
    row_id = run.choice(source, "fused")["id"]
    return [row_id, *(f"{row_id}/{graded(kind, grade)}" for grade in range(1, GRADES + 1))]


def histories(models: Sequence[Artifact], stage: str) -> dict[str, list[tuple[str, Markup]]]:
    """Per backbone, validation AUROC, losses and learning rate over the epochs, one line per TL source."""
    panels: dict[str, list[tuple[str, Markup]]] = {"AUROC": [], "Loss": [], "Learning rate": []}
    for backbone in sorted({model.content["backbone"] for model in models}):
        auroc: list[Series] = []
        loss: list[Series] = []
        rate: list[Series] = []
        columns = (
            ("validation_auroc", auroc),
            ("train_loss", loss),
            ("validation_loss", loss),
            ("learning_rate", rate),
        )
        for model in (one for one in models if one.content["backbone"] == backbone):
            source = model.content["tl_source"] or "in_domain"
            with (model.path / "history.csv").open(encoding="utf-8", newline="") as stream:
                table = list(csv.DictReader(stream))
            for column, into in columns:
                known = [(float(line["epoch"]), float(line[column])) for line in table if line[column]]
                known = [(epoch, value) for epoch, value in known if math.isfinite(value)]
                best = tuple(i for i, (epoch, _) in enumerate(known) if epoch == model.content["best_epoch"])
                label = f"{SOURCE_NAMES[source]}, {column.replace('_', ' ')}"
                if known:
                    epochs, values = [epoch for epoch, _ in known], [value for _, value in known]
                    mark = best if into is auroc else ()
                    into.append(Series(source, epochs, values, label, faint=column == "train_loss", mark=mark))
        for name, series in zip(panels, (auroc, loss, rate), strict=True):
            if not series:
                continue
            first, last = min(one.x[0] for one in series), max(one.x[-1] for one in series)
            step = max(1, math.ceil((last - first) / 6))
            digits = 6 if series is rate else 2
            ends = "; ".join(
                f"{one.label}: {number(one.y[0], digits)} to {number(one.y[-1], digits)}" for one in series
            )
            drawn = charts.plot(
                title=f"{name} of {backbone}, {stage}",
                description=ends,
                x=Axis(first, max(last, first + 0.5), step, 0),  # of one epoch: a single tick
                y=Axis.covering([value for one in series for value in one.y]),
                x_label="Epoch",
                y_label=name,
                series=series,
                size=(300, 210),
                identity=f"{stage}-{name}-{len(panels[name])}".replace(" ", "-"),
            )
            panels[name].append((backbone, drawn))
    return panels


def forest(run: Run) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Rows of the forest plot in groups that compare sources like for like."""
    groups = [("Fused features, each source\u2019s choice", [run.choice(source, "fused") for source in run.sources])]
    seed = run.selected["seed"]
    for backbone in run.backbones:
        ids = [f"{source}/{backbone}/head/seed{seed}" for source in run.sources]
        groups.append((f"{backbone}, own head", [run.rows[id_] for id_ in ids if id_ in run.rows]))
    groups.append(("Shortcuts", run.shortcuts))
    return [
        (
            name,
            [
                (SOURCE_NAMES[row["tl_source"]] if row["tl_source"] != "shortcut" else features_name(row), row)
                for row in rows
            ],
        )
        for name, rows in groups
        if rows
    ]


def _embed(folder: Path, name: str) -> str:
    """A picture of the explanations as a ``data:`` URI, decoded within bounds and encoded anew (WebP)."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RadtransferError(f"{folder / 'gallery.json'}: {name!r} lies outside the artifact; explain again")
    try:
        with Image.open(path) as image:
            if max(image.size) > _MAX_SIDE:
                raise RadtransferError(f"{path}: {image.size} px, expected at most {_MAX_SIDE} a side; explain again")
            picture = image.convert("L" if image.mode == "L" else "RGB")
    except OSError as error:
        raise RadtransferError(f"{path}: cannot be read as an image ({error}); explain again") from None
    return pages.embedded(picture)


def gallery(run: Run) -> list[dict[str, Any]]:
    """The explained cases, each picture as a ``data:`` URI, with its aspect (width by height)."""
    folder = run.explanations.path
    order = list(OUTCOMES)
    cases = sorted(artifacts.read_json(folder / "gallery.json"), key=lambda case: order.index(case["outcome"]))
    return [
        case
        | {
            "image": _embed(folder, case["image"]),
            "aspect": case["size"][0] / case["size"][1],
            "overlay": charts.boxes(case["boxes"], *case["size"]) if case["boxes"] else "",
            "maps": {
                source: {method: _embed(folder, name) for method, name in case["maps"][source].items()}
                for source in run.sources
                if source in case["maps"]
            },
        }
        for case in cases
    ]
