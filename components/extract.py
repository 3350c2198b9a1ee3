"""The component that turns images into features."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract(
    store: Input[Dataset],
    models: Input[list[Model]],
    backbones: list,
    tl_source: str,
    threads: int,
    code_version: str,
    features: Output[Artifact],
) -> None:
    """Features and the networks' own scores of every target image, from the models of one transfer-learning source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("extract", tl_source, code_version=code_version, features=features.path) as call:
        from radtransfer.fusion.extract import extract

        paths = [item.path for item in models]
        support.expect_all(paths, "model", backbones, tl_source=tl_source)
        call(extract, store=Path(store.path), models=list(map(Path, paths)), threads=threads, out=Path(features.path))
        support.describe(features.metadata, features.path, "features", tl_source=tl_source)
