"""The report of a run: one self-contained HTML page with the answer first, and a short Markdown summary.

The page is made of the artifacts of the run and nothing else. It loads nothing from anywhere (its own content security
policy forbids it), so it works from a file, by e-mail and in the sandboxed frame of the KFP UI. Everything that came
from data sets (file names, class names, notes) is untrusted and escaped.
"""

from __future__ import annotations

from pathlib import Path

from radtransfer import pages
from radtransfer.config import RunConfig
from radtransfer.evaluation import charts
from radtransfer.evaluation import report_figures as figures
from radtransfer.evaluation import report_text as text
from radtransfer.evaluation.charts import Axis, number
from radtransfer.evaluation.literature import published
from radtransfer.evaluation.report_run import Run, open_run
from radtransfer.evaluation.verdict import FEW, TOO_FEW
from radtransfer.explain import draw
from radtransfer.pages import plain
from radtransfer.robustness.kinds import EVERY, GRADES, KINDS


def report(
    *,
    config: dict[str, object],
    target_store: Path,
    source_store: Path,
    evaluation: Path,
    explanations: Path,
    bundle: Path,
    models: list[Path],
    pretrained: list[Path],
    html_out: Path,
    markdown_out: Path,
) -> None:
    """Write the report of a run.

    Args:
        config: the run's configuration, as in :class:`radtransfer.config.RunConfig`.
        target_store: image store of the target.
        source_store: image store of the related images.
        evaluation: evaluation artifact; every result shown comes from its ``metrics.json`` and ``curves.json``.
        explanations: explanations artifact.
        bundle: bundle of the selected model.
        models: fine-tuned models of all TL sources, in any order.
        pretrained: models trained on the source store, in any order.
        html_out: HTML file to write; its images are inside.
        markdown_out: Markdown file to write.

    Raises:
        RadtransferError: an artifact is missing, broken or belongs to another run.
    """
    run = open_run(config, target_store, source_store, evaluation, explanations, bundle, models, pretrained)
    html, summary = render(run), markdown(run)
    pages.write(Path(html_out), html)
    pages.write(Path(markdown_out), summary)


def render(run: Run) -> str:
    """The HTML page."""
    environment = pages.environment()
    environment.filters |= {
        "number": number,
        "difference": text.difference,
        "p_value": lambda row, name: text.p_value(row, name, run.bootstrap),
        "duration": text.duration,
        "features_name": text.features_name,
        "classifier_name": text.classifier_name,
        "model_name": text.model_name,
        "particulars": text.particulars,
    }
    environment.filters["groupby_attribute"] = text.by_attribute
    environment.tests["shown"] = text.shown
    auroc = [row["auroc"][end] for row in run.listed for end in ("low", "value", "high")]
    drawn = [row for row in run.metrics["comparisons"] if row["metric"] == "auroc"]
    offsets = [row[end] for row in drawn for end in ("low", "difference", "high")]
    chosen: dict[str, list[str]] = {}
    for source in run.sources:
        for what, row_id in run.evaluation.content["choices"][source].items():
            chosen.setdefault(row_id, []).append(what)
    card = run.bundle.path / "MODEL_CARD.md"
    curve = run.curves[run.selected["id"]]
    return environment.get_template("evaluation/report.html").render(
        run=run,
        charts=charts,
        text=text,
        contrast=lambda row: text.contrast(run, row),
        auroc_axis=Axis.covering(auroc, include=(0.5, 1.0)),
        offset_axis=Axis.around_zero(offsets),
        few=FEW,
        too_few=TOO_FEW,
        unit_axis=Axis(0, 1, 0.25, 2),
        chosen=chosen,
        families=sorted({row["family"] for row in run.metrics["comparisons"]}, key=list(text.FAMILY_NAMES).index),
        forest=figures.forest(run),
        roc=figures.roc(run),
        precision_recall=figures.precision_recall(run),
        reliability=figures.reliability(run),
        degradation=figures.degradation(run),
        kinds=KINDS,
        grades=GRADES,
        every=EVERY,
        gallery=figures.gallery(run),
        heat_scale=draw.heat_scale(),
        lime_colours=draw.lime_colours(),
        published=published(run.target.content["layout"], run.target.content["part"]),
        histories={
            "fine-tuning": figures.histories(run.models, "fine-tuning"),
            "pre-training": figures.histories(run.pretrained, "pre-training"),
        },
        settings=RunConfig.model_fields,
        model_card=card.read_text(encoding="utf-8") if card.is_file() else "",
        confusion=curve["confusion"],
        threshold=curve["threshold"],
    )


def markdown(run: Run) -> str:
    """The summary for the KFP UI: the answer, the comparison, the selected model, the warnings."""
    test, content = run.metrics["test"], run.evaluation.content
    lines = [f"# {plain(run.config['name'])}: {plain(run.metrics['target'])}", ""]
    if run.synthetic:
        lines += [f"> **{text.SYNTHETIC}.**", ""]
    lines += [
        f"**{plain(content['answer']['text'])}**",
        "",
        *([plain(run.robustness["text"]), ""] if run.robustness else []),
        f"Test set: {test['images']} images in {test['groups']} groups, {test['positives']} "
        f"{plain(run.metrics['positive_class'])}. Intervals are 95 %.",
        "",
        "| TL source | fused choice | AUROC | best single network | AUROC |",
        "|---|---|---|---|---|",
    ]
    for source in run.sources:
        fused, single = run.choice(source, "fused"), run.choice(source, "single")
        lines.append(
            f"| {text.SOURCE_NAMES[source]} | {plain(text.classifier_name(fused))} | {text.estimate(fused['auroc'])} "
            f"| {plain(text.features_name(single))} | {text.estimate(single['auroc'])} |"
        )
    lines += ["", "| Difference | metric | value | Holm-adjusted p | verdict |", "|---|---|---|---|---|"]
    for row in run.metrics["comparisons"]:
        p = text.p_value(row, "adjusted_p", run.bootstrap)
        lines.append(
            f"| {plain(text.contrast(run, row))} | {text.METRIC_NAMES.get(row['metric'], plain(row['metric']))} "
            f"| {text.difference(row)} | {p} | {text.verdict(row)} |"
        )
    lines += ["", f"**Selected** (on the validation split): {plain(text.model_name(run.selected))}.", ""]
    lines += [f"- {name} {text.estimate(run.selected[metric])}" for metric, name in text.METRIC_NAMES.items()]
    if content["warnings"]:
        lines += ["", "**Warnings**", "", *(f"- {plain(warning)}" for warning in content["warnings"])]
    return "\n".join([*lines, "", f"{text.RESEARCH_USE} Details: the HTML report.", ""])
