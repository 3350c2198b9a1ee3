"""The component that compares new images with those that the champion knows."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def drift(
    name: str,
    target_store: Input[Dataset],
    registry: str,
    threads: int,
    code_version: str,
    drift: Output[Artifact],
    html: Output[HTML],
) -> None:
    """Say how the images that came since the champion was trained differ from those that it knows."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("drift", code_version=code_version, drift=drift.path) as call:
        from radtransfer.pages import write
        from radtransfer.registry.drift import drift as step

        call(
            step,
            name=name, registry=registry, target_store=Path(target_store.path), threads=threads, out=Path(drift.path),
        )  # fmt: skip
        made = support.describe(drift.metadata, drift.path, "drift", name=name)
        write(Path(html.path), (made.path / "drift.html").read_text(encoding="utf-8"))
