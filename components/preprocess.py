"""The component that turns data sets into image stores."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preprocess(
    data_root: str,
    target_layout: str,
    target_path: str,
    target_part: str,
    target_table: dict,
    source_layout: str,
    source_path: str,
    source_parts: list,
    source_table: dict,
    image_size: int,
    ct_window: list,
    crop_border: bool,
    test_fraction: float,
    test_fold: list,
    validation_fraction: float,
    label_fraction: float,
    max_images: int,
    previous_splits: str,
    on_problem: dict,
    seed: int,
    data_version: str,  # takes part in the cache key alone: new data never get an old store
    code_version: str,
    target_store: Output[Dataset],
    source_store: Output[Dataset],
    data_report: Output[HTML],
    source_images: Output[Artifact],  # number of those to train on, which spares other tasks the whole store
) -> None:
    """Decode, check, split and store the target images and the related images to pre-train on."""
    from pathlib import Path

    from radtransfer_components import support

    outputs = {"target_store": target_store.path, "data_report": data_report.path}
    with support.task("preprocess", code_version=code_version, **outputs) as call:
        from radtransfer.preprocess.run import preprocess

        call(
            preprocess,
            data_root=data_root, target_out=Path(target_store.path), source_out=Path(source_store.path),
            target_layout=target_layout, target_path=target_path, target_part=target_part, target_table=target_table,
            source_layout=source_layout, source_path=source_path, source_parts=source_parts, source_table=source_table,
            image_size=image_size, ct_window=ct_window, crop_border=crop_border, on_problem=on_problem,
            max_images=max_images, test_fraction=test_fraction, test_fold=test_fold,
            validation_fraction=validation_fraction, label_fraction=label_fraction, previous_splits=previous_splits,
            seed=seed,
        )  # fmt: skip
        support.show_stores(target_store, source_store, Path(data_report.path), Path(source_images.path))
