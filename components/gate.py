"""The component that decides whether a new model becomes champion."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    bundle: Input[Model],
    target_store: Input[Dataset],
    registry: str,
    margin: float,
    floor: float,
    threads: int,
    code_version: str,
    decision: Output[Artifact],
) -> None:
    """Score the test images by the new model and the champion, and promote the new one if it is shown to be better."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("gate", code_version=code_version, decision=decision.path) as call:
        from radtransfer.registry.gate import gate as step
        from radtransfer.registry.weigh import Rules

        call(
            step,
            registry=registry,
            challenger=bundle.path,
            test_store=Path(target_store.path),
            rules=Rules.of(margin=margin, floor=floor),
            threads=threads,
            out=Path(decision.path),
        )
        support.describe(decision.metadata, decision.path, "decision")
