"""The component that pre-trains one backbone on related images."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pretrain(
    source_store: Input[Dataset],
    backbone: str,
    init: str,
    task: str,
    boxes: bool,
    epochs: int,
    recipe: dict,
    pretrained_models: str,
    code_version: str,
    model: Output[Model],
    curves: Output[Metrics],
) -> None:
    """Pre-train one backbone on the related images."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("pretrain", backbone, code_version=code_version, model=model.path) as call:
        from radtransfer.configfile import entries
        from radtransfer.training.steps import pretrain

        support.expect(source_store.path, "image-store", role="source")
        call(
            pretrain,
            source_store=Path(source_store.path),
            backbone=backbone,
            init=init,
            task=task,
            boxes=boxes,
            epochs=epochs,
            **entries(recipe),
            pretrained_models=pretrained_models,
            out=Path(model.path),
        )
        support.describe(model.metadata, model.path, "model", backbone=backbone, stage="pretrain")
        support.show_training(Path(model.path), curves)
