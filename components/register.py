"""The component that packs the chosen model."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    name: str,
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
    evaluation: Input[Artifact],
    classifiers_scratch: Input[Artifact],
    classifiers_imagenet: Input[Artifact],
    classifiers_in_domain: Input[Artifact],
    models_scratch: Input[list[Model]],
    models_imagenet: Input[list[Model]],
    models_in_domain: Input[list[Model]],
    pretrained: Input[list[Model]],
    registry: str,
    code_version: str,
    bundle: Output[Model],
) -> None:
    """Pack all that is needed to predict into a bundle, and enter it into the registry if one is named."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("register", code_version=code_version, bundle=bundle.path) as call:
        from radtransfer.registry.bundle import register

        of_sources = (classifiers_scratch, classifiers_imagenet, classifiers_in_domain)
        call(
            register,
            name=name, target_store=Path(target_store.path), evaluation=Path(evaluation.path),
            classifiers=support.by_source("classifiers", *of_sources),
            models=support.by_source("model", models_scratch, models_imagenet, models_in_domain),
            pretrained=[Path(item.path) for item in pretrained], registry=registry, out=Path(bundle.path),
            config=support.configuration(
                config, tried, backbones=backbones, source_parts=source_parts, target_table=target_table,
                source_table=source_table, on_problem=on_problem, ct_window=ct_window, test_fold=test_fold,
                classifier_grid=classifier_grid, external=external, corruptions=corruptions,
            ),
        )  # fmt: skip
        support.describe(bundle.metadata, bundle.path, "bundle", name=name)
