"""The component that tests a run on images that it has never seen."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def external(
    name: str,
    data_root: str,
    external: dict,
    target_store: Input[Dataset],
    evaluation: Input[Artifact],
    classifiers_scratch: Input[Artifact],
    classifiers_imagenet: Input[Artifact],
    classifiers_in_domain: Input[Artifact],
    models_scratch: Input[list[Model]],
    models_imagenet: Input[list[Model]],
    models_in_domain: Input[list[Model]],
    bootstrap: int,
    seed: int,
    threads: int,
    data_version: str,  # takes part in the cache key alone, as in `preprocess`
    code_version: str,
    unseen: Output[Artifact],
    html: Output[HTML],
) -> None:
    """Score an external data set by the choices of every transfer-learning source, where one is named."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("external", code_version=code_version, unseen=unseen.path) as call:
        from radtransfer.evaluation.external import external as step

        call(
            step,
            name=name,
            data_root=data_root,
            external=external,
            target_store=Path(target_store.path),
            evaluation=Path(evaluation.path),
            classifiers=support.by_source(
                "classifiers", classifiers_scratch, classifiers_imagenet, classifiers_in_domain
            ),
            models=support.by_source("model", models_scratch, models_imagenet, models_in_domain),
            bootstrap=bootstrap,
            seed=seed,
            threads=threads,
            out=Path(unseen.path),
        )
        support.show_external(unseen, Path(html.path))
