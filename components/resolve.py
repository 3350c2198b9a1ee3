"""The component that looks for what changed since the model was last trained."""

from kfp import dsl
from kfp.dsl import OutputPath

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def resolve(
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
    data_root: str,
    registry: str,
    margin: float,
    floor: float,
    code_version: str,
    pinned: OutputPath(str),  # type: ignore[valid-type]
    splits: OutputPath(str),  # type: ignore[valid-type]
) -> bool:
    """Pin the newest data, and compare data, code and configuration with the versions of the model."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("resolve", code_version=code_version) as call:
        from radtransfer.registry.resolve import resolve as step

        found = call(
            step,
            data_root=data_root, registry=registry, margin=margin, floor=floor,
            config=support.configuration(
                config, tried, backbones=backbones, source_parts=source_parts, target_table=target_table,
                source_table=source_table, on_problem=on_problem, ct_window=ct_window, test_fold=test_fold,
                classifier_grid=classifier_grid, external=external, corruptions=corruptions,
            ),
        )  # fmt: skip
        print(found.why)
        Path(pinned).write_text(found.data_root, encoding="utf-8")
        Path(splits).write_text(found.previous_splits, encoding="utf-8")
    return bool(found.changed)  # unnamed: kfp.local 2.17 makes no condition of an output with a name
