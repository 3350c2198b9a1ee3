"""The component that fine-tunes one backbone on the target images."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(
    target_store: Input[Dataset],
    backbone: str,
    tl_source: str,
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
    refit: bool,
    code_version: str,
    model: Output[Model],
    pretrained: Input[Model] = None,
) -> None:
    """Fine-tune one backbone on the target images, from one transfer-learning source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("finetune", tl_source, backbone, code_version=code_version, model=model.path) as call:
        from radtransfer.training.steps import finetune

        support.expect(target_store.path, "image-store", role="target")
        if pretrained is not None:
            support.expect(pretrained.path, "model", backbone=backbone, stage="pretrain")
        call(
            finetune,
            target_store=Path(target_store.path),
            backbone=backbone,
            tl_source=tl_source,
            pretrained=Path(pretrained.path) if pretrained is not None else None,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
            input_size=input_size, weights_mirror=weights_mirror, mirror=mirror, seed=seed, threads=threads,
            precision=precision, checkpoints=checkpoints, refit=refit, out=Path(model.path),
        )  # fmt: skip
        said = {"backbone": backbone, "tl_source": tl_source, "stage": "finetune"}
        support.describe(model.metadata, model.path, "model", **said)
