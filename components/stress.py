"""The component that scores changed test images."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stress(
    target_store: Input[Dataset],
    classifiers_scratch: Input[Artifact],
    classifiers_imagenet: Input[Artifact],
    classifiers_in_domain: Input[Artifact],
    models_scratch: Input[list[Model]],
    models_imagenet: Input[list[Model]],
    models_in_domain: Input[list[Model]],
    corruptions: list,
    seed: int,
    threads: int,
    code_version: str,
    stress_scores: Output[Artifact],
) -> None:
    """Score corrupted test images, and some whose lesions are hidden, by the choices of every TL source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("stress", code_version=code_version, stress_scores=stress_scores.path) as call:
        from radtransfer.robustness.stress import stress

        classifiers = support.by_source("classifiers", classifiers_scratch, classifiers_imagenet, classifiers_in_domain)
        models = support.by_source("model", models_scratch, models_imagenet, models_in_domain)
        call(
            stress,
            target_store=Path(target_store.path),
            classifiers=classifiers,
            models=models,
            corruptions=corruptions,
            seed=seed,
            threads=threads,
            out=Path(stress_scores.path),
        )
        support.describe(stress_scores.metadata, stress_scores.path, "stress")
