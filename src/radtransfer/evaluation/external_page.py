"""The page and the lines on the terminal of a run on unseen images; both say what its ``metrics.json`` holds."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from radtransfer import pages
from radtransfer.evaluation import charts, report_text, verdict
from radtransfer.evaluation.charts import Axis, number
from radtransfer.progress import console

SHOWN = ("auroc", "sensitivity", "specificity", "kappa", "ece", "calibration_slope")


def render(content: dict[str, Any]) -> str:
    """The HTML page of an **external**: self-contained, without scripts."""
    environment = pages.environment()
    environment.filters |= {
        "number": number,
        "difference": report_text.difference,
        "p_value": lambda row, name: report_text.p_value(row, name, content["bootstrap"]),
        "model_name": report_text.model_name,
    }
    environment.tests["shown"] = report_text.shown
    pairs = list(zip(content["results"], content["home"], strict=True))
    auroc = [row["auroc"][end] for pair in pairs for row in pair for end in ("low", "value", "high")]
    return environment.get_template("evaluation/external.html").render(
        content=content,
        answer=answer(content),
        pairs=pairs,
        shown_metrics={metric: report_text.METRIC_NAMES[metric] for metric in SHOWN},
        contrast=lambda row: contrast(content, row),
        tuning=tuning,
        synthetic=verdict.SYNTHETIC in content["warnings"],
        charts=charts,
        text=report_text,
        auroc_axis=Axis.covering(auroc, include=(0.5, 1.0)),
    )


def answer(content: dict[str, Any]) -> str:
    """What the selected model comes to here and at home, and whether the sources differ here."""
    here, home = next(pair for pair in zip(content["results"], content["home"], strict=True) if pair[0]["selected"])
    said = (
        f"On {here['n']} images that the run has not seen ({content['target']}) the selected model has an AUROC of "
        f"{report_text.estimate(here['auroc'])}; on the {home['n']} test images of the run ({content['run_target']}) "
        f"it has {report_text.estimate(home['auroc'])}."
    )
    compared = content["comparisons"]
    if not compared:
        return said
    if all(row["adjusted_p"] is None for row in compared):
        return f"{said} There is no verdict on the sources: a class lies in too few leakage groups."
    found = [f"{contrast(content, row)} {report_text.difference(row)}" for row in compared if report_text.shown(row)]
    return f"{said} Differences between the sources that are shown here: {'; '.join(found) or 'none'}."


def contrast(content: dict[str, Any], row: dict[str, Any]) -> str:
    """What a comparison subtracts from what, in few words."""
    tuned = content["tuned"] or {"before": [], "after": []}
    names = {one["id"]: report_text.SOURCE_NAMES[one["tl_source"]] for one in content["results"]}
    names |= {one["id"]: f"{report_text.SOURCE_NAMES[one['tl_source']]} as it was" for one in tuned["before"]}
    names |= {one["id"]: f"{report_text.SOURCE_NAMES[one['tl_source']]} fine-tuned" for one in tuned["after"]}
    return f"{names[row['a']]} \u2212 {names[row['b']]}"


def tuning(content: dict[str, Any]) -> str:
    """What light fine-tuning did, in a sentence."""
    its, compared = content["tuned"], content["tuned"]["comparisons"][: len(content["tuned"]["after"])]
    intro = f"Fine-tuned on {its['images']} of the images, tested on the {its['after'][0]['n']} others"
    if all(row["adjusted_p"] is None for row in compared):
        return f"{intro}: no verdict, a class lies in too few leakage groups."
    found = [f"{contrast(content, row)} {report_text.difference(row)}" for row in compared if report_text.shown(row)]
    return f"{intro}: {'; '.join(found) or 'no difference to the models as they were is shown'}."


def show(content: dict[str, Any]) -> None:
    """Print the figures and what they come to."""
    said = Console(width=max(console.width, 140), highlight=False)
    table = Table(title=f"{content['name']}: {content['test']['images']} images, 95 % intervals")
    for heading in ("model", "AUROC here", "AUROC of the run", "sensitivity", "specificity"):
        table.add_column(heading, no_wrap=True)
    for here, home in zip(content["results"], content["home"], strict=True):
        figures = (here["auroc"], home["auroc"], here["sensitivity"], here["specificity"])
        table.add_row(report_text.model_name(here), *map(report_text.estimate, figures))
    said.print(table)
    told = [answer(content), *([tuning(content)] if content["tuned"] else [])]
    for line in [*told, *(f"warning: {one}" for one in content["warnings"])]:
        said.print(line, markup=False)
