"""The component that fits the classical classifiers."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def classify(
    fused: Input[Artifact],
    tl_source: str,
    tried: list,
    classifier_grid: dict,
    classifier_budget: int,
    cv_folds: int,
    cv_repeats: int,
    calibration: str,
    threshold_rule: str,
    seed: int,
    code_version: str,
    classifiers: Output[Artifact],
) -> None:
    """Fit, calibrate and choose the classifiers of one transfer-learning source; no test label is read."""
    from pathlib import Path

    from radtransfer_components import support

    with support.task("classify", tl_source, code_version=code_version, classifiers=classifiers.path) as call:
        from radtransfer.fusion.classify import classify

        support.expect(fused.path, "fused", tl_source=tl_source)
        call(
            classify,
            fused=Path(fused.path), classifiers=tried, classifier_grid=classifier_grid,
            classifier_budget=classifier_budget, cv_folds=cv_folds, cv_repeats=cv_repeats, seed=seed,
            calibration=calibration, threshold_rule=threshold_rule, out=Path(classifiers.path),
        )  # fmt: skip
        support.describe(classifiers.metadata, classifiers.path, "classifiers", tl_source=tl_source)
