"""The component that fine-tunes one backbone on the target images."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(
    target_store: Input[Dataset],
    backbone: str,
    tl_source: str,
    epochs: int,
    recipe: dict,
    refit: bool,
    equal_steps: bool,
    pretrain_epochs: int,
    source_images: Input[Artifact],
    pretrained_models: str,
    code_version: str,
    model: Output[Model],
    curves: Output[Metrics],
    pretrained: Input[Model] = None,
) -> None:
    """Fine-tune one backbone on the target images, from one transfer-learning source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("finetune", tl_source, backbone, code_version=code_version, model=model.path) as call:
        from radtransfer.configfile import entries
        from radtransfer.training.control import extra_steps
        from radtransfer.training.steps import finetune

        support.expect(target_store.path, "image-store", role="target")
        if pretrained is not None:
            support.expect(pretrained.path, "model", backbone=backbone, stage="pretrain")
        settings = entries(recipe)
        images = int(Path(source_images.path).read_text(encoding="utf-8"))
        others = {"images": images, "batch_size": settings["batch_size"], "epochs": pretrain_epochs}
        extra = extra_steps(tl_source, backbone, pretrained_models, **others) if equal_steps else 0
        call(
            finetune,
            target_store=Path(target_store.path),
            backbone=backbone,
            tl_source=tl_source,
            pretrained=Path(pretrained.path) if pretrained is not None else None,
            epochs=epochs,
            **settings,
            refit=refit,
            extra_steps=extra,
            out=Path(model.path),
        )
        said = {"backbone": backbone, "tl_source": tl_source, "stage": "finetune"}
        support.describe(model.metadata, model.path, "model", **said)
        support.show_training(Path(model.path), curves)
