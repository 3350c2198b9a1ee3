"""The page and the table on the terminal of a comparison of finished runs; both say what ``comparison.json`` holds."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from radtransfer import pages
from radtransfer.config import RunConfig
from radtransfer.evaluation import charts, report_text, verdict
from radtransfer.evaluation.charts import Axis, number
from radtransfer.progress import console

CHOICE_NAMES = {"fused": "fused choice", "single": "best single network", "selected": "selected model"}
FAMILY_NAMES = report_text.FAMILY_NAMES | {"run": "Between runs: the same choice, a later run less an earlier one"}


def render(comparison: dict[str, Any]) -> str:
    """The HTML page of ``comparison.json``: self-contained, without scripts."""
    environment = pages.environment()
    bootstrap = comparison["bootstrap"]
    rows = {row["id"]: row for row in comparison["results"]}
    environment.filters |= {
        "number": number,
        "difference": report_text.difference,
        "p_value": lambda row, name: report_text.p_value(row, name, bootstrap),
        "row_name": row_name,
        "chosen": chosen,
    }
    environment.tests["shown"] = report_text.shown
    drawn = [row for row in comparison["comparisons"] if row["metric"] == "auroc"]
    offsets = [row[end] for row in drawn for end in ("low", "difference", "high")]
    auroc = [row["auroc"][end] for row in rows.values() for end in ("low", "value", "high")]
    auroc += [fold["auroc"] for row in rows.values() for fold in row["folds"]]
    return environment.get_template("evaluation/comparison.html").render(
        comparison=comparison,
        rows=rows,
        subjects={one["label"]: one for one in comparison["subjects"]},
        several=len(comparison["subjects"]) > 1,
        synthetic=verdict.SYNTHETIC in comparison["warnings"],
        pooled=any(one["folds"] > 1 for one in comparison["subjects"]),
        families={name: _members(comparison, name) for name in _families(comparison)},
        family_name=_family_name,
        contrast=lambda row: contrast(comparison, row),
        charts=charts,
        text=report_text,
        auroc_axis=Axis.covering(auroc, include=(0.5, 1.0)),
        offset_axis=Axis.around_zero(offsets),
        meanings={key: field.description or "" for key, field in RunConfig.model_fields.items()},
    )


def row_name(row: dict[str, Any]) -> str:
    """What a row is, without its run."""
    if row["choice"] == "shortcut":
        return report_text.features_name(row)
    if row["choice"] == "selected":
        return "Selected model"
    return f"{report_text.SOURCE_NAMES[row['tl_source']]}, {CHOICE_NAMES[row['choice']]}"


def contrast(comparison: dict[str, Any], row: dict[str, Any]) -> str:
    """What a comparison subtracts from what, in few words."""
    a, b = (next(one for one in comparison["results"] if one["id"] == row[side]) for side in ("a", "b"))
    if a["run"] != b["run"]:
        return f"{row_name(a)}: {a['run']} \u2212 {b['run']}"
    if a["choice"] == b["choice"] == "fused":
        return f"{report_text.SOURCE_NAMES[a['tl_source']]} \u2212 {report_text.SOURCE_NAMES[b['tl_source']]}"
    if b["choice"] == "single":
        return f"{report_text.SOURCE_NAMES[a['tl_source']]}: fused \u2212 single network"
    return f"Selected \u2212 {row_name(b)}"


def show(comparison: dict[str, Any]) -> None:
    """Print the figures, the comparisons and what they come to."""
    said = Console(width=max(console.width, 140), highlight=False)
    test, several = comparison["test"], len(comparison["subjects"]) > 1
    title = f"{test['images']} test images in {test['groups']} groups, {test['positives']} positive; 95 % intervals"
    table = Table(title=title)
    for heading in ("row", "AUROC", "kappa", "accuracy", "AUROC of folds", "AUROC of seeds"):
        table.add_column(heading, no_wrap=True)
    for row in comparison["results"]:
        figures = [report_text.estimate(row[metric]) for metric in ("auroc", "kappa", "accuracy")]
        spreads = [_range(row[spread]) for spread in ("fold_spread", "seed_spread")]
        table.add_row(f"{row['run']}: {row_name(row)}" if several else row_name(row), *figures, *spreads)
    said.print(table)
    table = Table(title="Differences, paired group bootstrap; p after Holm within the family")
    for heading in ("family", "difference", "metric", "value", "adjusted p", "verdict"):
        table.add_column(heading, no_wrap=True)
    for row in comparison["comparisons"]:
        p = report_text.p_value(row, "adjusted_p", comparison["bootstrap"])
        name = report_text.METRIC_NAMES[row["metric"]]
        value = report_text.difference(row)
        table.add_row(row["family"], contrast(comparison, row), name, value, p, report_text.verdict(row))
    said.print(table)
    for line in [*comparison["answers"], *(f"warning: {one}" for one in comparison["warnings"])]:
        said.print(line, markup=False)


def _families(comparison: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["family"] for row in comparison["comparisons"]))


def _members(comparison: dict[str, Any], family: str) -> list[dict[str, Any]]:
    return [row for row in comparison["comparisons"] if row["family"] == family]


def _family_name(family: str) -> str:
    """A family in words; ``A: tl_source`` names the run first."""
    label, _, name = family.rpartition(": ")
    return f"{label}. {FAMILY_NAMES.get(name, name)}" if label else FAMILY_NAMES.get(name, name)


def chosen(row: dict[str, Any]) -> str:
    """What the runs chose, the most frequent first, with how often where they did not agree."""
    names = []
    for one in row["chosen"]:
        name = f"{report_text.features_name(one)}, {report_text.classifier_name(one)}"
        if row["choice"] == "selected":
            name = report_text.model_name(one)
        names.append(name if len(row["chosen"]) == 1 else f"{name} ({one['runs']}\u00d7)")
    return "; ".join(names)


def _range(spread: dict[str, Any] | None) -> str:
    if spread is None:
        return "\u2014"
    ends = f"{number(spread['lowest'], 2)}\u2013{number(spread['highest'], 2)}"
    return f"{ends} (SD {number(spread['sd'])})"
