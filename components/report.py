"""The component that writes the report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    config: dict,
    backbones: list,
    source_parts: list,
    target_table: dict,
    source_table: dict,
    on_problem: dict,
    ct_window: list,
    test_fold: list,
    tried: list,
    classifier_grid: dict,
    external: dict,
    corruptions: list,
    target_store: Input[Dataset],
    source_store: Input[Dataset],
    evaluation: Input[Artifact],
    explanations: Input[Artifact],
    bundle: Input[Model],
    models_scratch: Input[list[Model]],
    models_imagenet: Input[list[Model]],
    models_in_domain: Input[list[Model]],
    pretrained: Input[list[Model]],
    code_version: str,
    html: Output[HTML],
    summary: Output[Markdown],
) -> None:
    """Write the self-contained report and its summary."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("report", code_version=code_version, html=html.path, summary=summary.path) as call:
        from radtransfer.evaluation.report import report

        call(
            report,
            config=support.configuration(
                config, tried, backbones=backbones, source_parts=source_parts, target_table=target_table,
                source_table=source_table, on_problem=on_problem, ct_window=ct_window, test_fold=test_fold,
                classifier_grid=classifier_grid, external=external, corruptions=corruptions,
            ),
            target_store=Path(target_store.path), source_store=Path(source_store.path),
            evaluation=Path(evaluation.path), explanations=Path(explanations.path), bundle=Path(bundle.path),
            models=support.by_source("model", models_scratch, models_imagenet, models_in_domain),
            pretrained=[Path(item.path) for item in pretrained],
            html_out=Path(html.path), markdown_out=Path(summary.path),
        )  # fmt: skip
