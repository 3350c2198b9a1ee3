"""The page and the table on the terminal of a learning curve; both say what ``learning_curve.json`` holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from radtransfer import pages
from radtransfer.config import TL_SOURCES
from radtransfer.evaluation import charts, comparison_page, curve_text, report_text, verdict
from radtransfer.evaluation.charts import Axis, Series, number
from radtransfer.progress import console

FAMILY_NAMES = {
    curve_text.FEW_LABELS: "In-domain less ImageNet, fused choices, at each label fraction",
    curve_text.OVER_SCRATCH: "What transfer gains over training from scratch, at each label fraction",
    curve_text.TREND: "In-domain\u2019s gain over ImageNet with the fewest labels less that with the most",
    curve_text.SHORTCUT: "The selected model against the shortcuts, at each label fraction",
}
KINDS = {"fused": "Fused choice", "single": "Best single network"}


@dataclass(frozen=True)
class Counts(Axis):
    """A logarithmic axis whose ticks are the numbers of labels that were tried."""

    numbers: tuple[int, ...] = ()

    @classmethod
    def of(cls, numbers: list[int]) -> Counts:
        return cls(numbers[0] / 1.15, numbers[-1] * 1.15, 1, 0, tuple(numbers))

    @property
    def ticks(self) -> list[float]:
        return [float(one) for one in self.numbers]

    def at(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)

    def label(self, value: float) -> str:
        return pages.whole(value)


def render(curve: dict[str, Any]) -> str:
    """The HTML page of ``learning_curve.json``: self-contained, without scripts."""
    environment = pages.environment()
    bootstrap = curve["bootstrap"]
    environment.filters |= {
        "number": number,
        "difference": report_text.difference,
        "p_value": lambda row, name: report_text.p_value(row, name, bootstrap),
        "row_name": comparison_page.row_name,
        "chosen": comparison_page.chosen,
        "percent": percent,
    }
    environment.tests["shown"] = report_text.shown
    families = {
        family: [row for row in curve["comparisons"] if row["family"] == family]
        for family in dict.fromkeys(row["family"] for row in curve["comparisons"])
    }
    return environment.get_template("evaluation/learning_curve.html").render(
        curve=curve,
        plots={heading: plot(curve, kind, heading) for kind, heading in KINDS.items()},
        points={point["run"]: point for point in curve["points"]},
        subjects={one["label"]: one for one in curve["subjects"]},
        rows={row["id"]: row for row in curve["results"]},
        sources=list(reversed(TL_SOURCES)),
        synthetic=verdict.SYNTHETIC in curve["warnings"],
        pooled=any(one["folds"] > 1 for one in curve["subjects"]),
        families=families,
        family_names=FAMILY_NAMES,
        contrast=contrast,
        source_of=lambda row: row["a"].split("/")[1] if row["a"].split("/")[1] in TL_SOURCES else "mixed",
        charts=charts,
        text=report_text,
        offset_axis=_axis(curve["comparisons"]),
        main_axis=_axis(families[curve_text.FEW_LABELS]),
    )


def _axis(comparisons: list[dict[str, Any]]) -> Axis:
    return Axis.around_zero(row[end] for row in comparisons for end in ("low", "difference", "high"))


def plot(curve: dict[str, Any], kind: str, heading: str) -> Markup:
    """AUROC over the number of labelled images, a line with its band for each TL source, and the histogram's."""
    points = curve["points"]
    x = [point["images"] for point in points]
    rows = {row["id"]: row for row in curve["results"]}
    series = []
    wanted = [(source, f"{source}/{kind}", True) for source in TL_SOURCES] + [("shortcut", verdict.HISTOGRAM, False)]
    for source, choice, banded in wanted:
        values = [rows[f"{point['run']}/{choice}"]["auroc"] for point in points]
        if any(value["value"] is None or value["low"] is None for value in values):
            continue
        label = f"{report_text.SOURCE_NAMES[source]}: {', '.join(number(value['value']) for value in values)}"
        band = [(value["low"], value["high"]) for value in values] if banded else []
        middle = [value["value"] for value in values]
        series.append(Series(source, x, middle, label, not banded, tuple(range(len(x))), band))
    ends = [end for one in series for pair in one.band for end in pair] + [value for one in series for value in one.y]
    return charts.plot(
        title=f"{heading}: AUROC over the number of labelled images",
        description="; ".join(one.label for one in series),
        x=Counts.of(x),
        y=Axis.covering(ends, include=(0.5,)),
        x_label="labelled images of the target (train and validation)",
        y_label="AUROC, test images",
        series=series,
        size=(460, 340),
        identity=f"curve-{kind}",
    )


def percent(fraction: float) -> str:
    """A label fraction in percent."""
    return f"{100 * fraction:.3g}\u202f%"


def contrast(curve: dict[str, Any], row: dict[str, Any]) -> str:
    """What a comparison subtracts from what, in few words."""
    if row["family"] == curve_text.TREND:
        few, many = (percent(curve["points"][end]["fraction"]) for end in (0, -1))
        return f"Gain with {few} of the labels \u2212 gain with {many}"
    run, *choice = row["a"].split("/")
    share = percent(next(point["fraction"] for point in curve["points"] if point["run"] == run))
    if row["family"] == curve_text.SHORTCUT:
        return f"{share}: selected \u2212 {report_text.SHORTCUT_NAMES[row['b'].split('/')[-1]]}"
    a, b = (report_text.SOURCE_NAMES[one] for one in (choice[0], row["b"].split("/")[1]))
    return f"{share}: {a} \u2212 {b}"


def show(curve: dict[str, Any]) -> None:
    """Print the figures and what they come to."""
    said = Console(width=max(console.width, 140), highlight=False)
    test = curve["test"]
    table = Table(title=f"AUROC on {test['images']} test images, {test['positives']} positive; 95 % intervals")
    headings = ["labels", "images"] + [report_text.SOURCE_NAMES[source] for source in reversed(TL_SOURCES)]
    for heading in [*headings, "In-domain \u2212 ImageNet", "adjusted p", "verdict"]:
        table.add_column(heading, no_wrap=True)
    rows = {row["id"]: row for row in curve["results"]}
    for point in curve["points"]:
        own = [rows[f"{point['run']}/{source}/fused"]["auroc"] for source in reversed(TL_SOURCES)]
        row = next(one for one in curve["comparisons"] if one["a"] == f"{point['run']}/in_domain/fused")
        p = report_text.p_value(row, "adjusted_p", curve["bootstrap"])
        cells = [percent(point["fraction"]), str(point["images"]), *map(report_text.estimate, own)]
        table.add_row(*cells, report_text.difference(row), p, report_text.verdict(row))
    said.print(table)
    for line in [*curve["answers"], *(f"warning: {one}" for one in curve["warnings"])]:
        said.print(line, markup=False)
