"""The component that turns images into features."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract(
    store: Input[Dataset],
    model: Input[Model],
    backbone: str,
    tl_source: str,
    threads: int,
    code_version: str,
    features: Output[Artifact],
) -> None:
    """Features and the network's own score of every target image, from one fine-tuned model."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("extract", tl_source, backbone, code_version=code_version, features=features.path) as call:
        from radtransfer.fusion.extract import extract

        support.expect(model.path, "model", backbone=backbone, tl_source=tl_source)
        call(extract, store=Path(store.path), model=Path(model.path), threads=threads, out=Path(features.path))
        said = {"backbone": backbone, "tl_source": tl_source}
        support.describe(features.metadata, features.path, "features", **said)
