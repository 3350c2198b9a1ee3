"""The component that joins the features of one transfer-learning source."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fuse(
    features: Input[Artifact],
    tl_source: str,
    code_version: str,
    fused: Output[Artifact],
) -> None:
    """Join the features of all backbones of one transfer-learning source."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("fuse", tl_source, code_version=code_version, fused=fused.path) as call:
        from radtransfer.fusion.fuse import fuse

        support.expect(features.path, "features", tl_source=tl_source)
        call(fuse, features=Path(features.path), out=Path(fused.path))
        support.describe(fused.metadata, fused.path, "fused", tl_source=tl_source)
