"""The component that looks, before anything is computed, whether a run can succeed."""

from kfp import dsl

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preflight(
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
    package_version: str,
    code_version: str,
) -> None:
    """Check code, parameters, data, weights and storage, and tell all that is amiss."""
    try:
        from radtransfer_components import support
    except ImportError as error:
        raise SystemExit(
            f"radtransfer error: the image of this task does not hold the package ({error}); build it by `make image` "
            "and name it by `radtransfer submit --image REGISTRY/IMAGE@sha256:...`"
        ) from None

    with support.task("preflight", code_version="") as call:  # the code's version is one of the things to be told
        from radtransfer.preflight import preflight

        nested = {
            "backbones": backbones, "source_parts": source_parts, "target_table": target_table,
            "source_table": source_table, "on_problem": on_problem, "ct_window": ct_window, "test_fold": test_fold,
            "classifiers": tried, "classifier_grid": classifier_grid, "external": external, "corruptions": corruptions,
        }  # fmt: skip
        call(
            preflight,
            given=config | nested,
            data_root=data_root,
            registry=registry,
            versions=[package_version, code_version],
        )
