"""The component that shows where the models look."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def explain(
    target_store: Input[Dataset],
    evaluation: Input[Artifact],
    classifiers_scratch: Input[Artifact],
    classifiers_imagenet: Input[Artifact],
    classifiers_in_domain: Input[Artifact],
    models_scratch: Input[list[Model]],
    models_imagenet: Input[list[Model]],
    models_in_domain: Input[list[Model]],
    images_per_outcome: int,
    lime_samples: int,
    quality_images: int,
    seed: int,
    threads: int,
    code_version: str,
    explanations: Output[Artifact],
) -> None:
    """Grad-CAM and LIME for true and false positives and negatives of every transfer-learning source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("explain", code_version=code_version, explanations=explanations.path) as call:
        from radtransfer.explain.run import explain

        classifiers = support.by_source("classifiers", classifiers_scratch, classifiers_imagenet, classifiers_in_domain)
        models = support.by_source("model", models_scratch, models_imagenet, models_in_domain)
        call(
            explain,
            target_store=Path(target_store.path),
            evaluation=Path(evaluation.path),
            classifiers=classifiers,
            models=models,
            images_per_outcome=images_per_outcome,
            lime_samples=lime_samples,
            quality_images=quality_images,
            seed=seed,
            threads=threads,
            out=Path(explanations.path),
        )
        support.describe(explanations.metadata, explanations.path, "explanations")
