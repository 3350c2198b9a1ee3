"""The component that measures everything on the test images."""

from kfp import dsl
from kfp.dsl import Artifact, ClassificationMetrics, Dataset, Input, Metrics, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    target_store: Input[Dataset],
    classifiers_scratch: Input[Artifact],
    classifiers_imagenet: Input[Artifact],
    classifiers_in_domain: Input[Artifact],
    stress_scores: Input[Artifact],
    bootstrap: int,
    prevalence: float,
    seed: int,
    code_version: str,
    evaluation: Output[Artifact],
    scalars: Output[Metrics],
    curves: Output[ClassificationMetrics],
) -> None:
    """Measure all candidates on the test images, with intervals and paired comparisons."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("evaluate", code_version=code_version, evaluation=evaluation.path) as call:
        from radtransfer.evaluation.evaluate import evaluate

        classifiers = support.by_source("classifiers", classifiers_scratch, classifiers_imagenet, classifiers_in_domain)
        call(
            evaluate,
            target_store=Path(target_store.path),
            classifiers=classifiers,
            stress=Path(stress_scores.path),
            bootstrap=bootstrap,
            prevalence=prevalence,
            seed=seed,
            out=Path(evaluation.path),
        )
        support.describe(evaluation.metadata, evaluation.path, "evaluation")
        support.show_metrics(Path(evaluation.path), scalars, curves)
