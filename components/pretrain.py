"""The component that pre-trains one backbone on related images."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pretrain(
    source_store: Input[Dataset],
    backbone: str,
    init: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    input_size: int,
    weights_mirror: str,
    mirror: bool,
    seed: int,
    threads: int,
    precision: str,
    checkpoints: str,
    pretrained_models: str,
    code_version: str,
    model: Output[Model],
) -> None:
    """Pre-train one backbone on the related images."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("pretrain", backbone, code_version=code_version, model=model.path) as call:
        from radtransfer.training.steps import pretrain

        support.expect(source_store.path, "image-store", role="source")
        call(
            pretrain,
            source_store=Path(source_store.path),
            backbone=backbone,
            init=init,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
            input_size=input_size, weights_mirror=weights_mirror, mirror=mirror, seed=seed, threads=threads,
            precision=precision, checkpoints=checkpoints, pretrained_models=pretrained_models, out=Path(model.path),
        )  # fmt: skip
        support.describe(model.metadata, model.path, "model", backbone=backbone, stage="pretrain")
