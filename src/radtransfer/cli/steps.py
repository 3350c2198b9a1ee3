"""One command for each step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from radtransfer.cli.options import (
    Backbone,
    BatchSize,
    CheckpointMinutes,
    CheckpointsAt,
    Classifiers,
    DataRoot,
    Epochs,
    Evaluation,
    FreezeEpochs,
    InputSize,
    LayerDecay,
    LearningRate,
    Mirror,
    Models,
    Out,
    Patience,
    Precision,
    Pretrained,
    RegistryOrNone,
    Seed,
    TargetStore,
    Threads,
    TlSource,
    WeightDecay,
    WeightsMirror,
)

if TYPE_CHECKING:
    from radtransfer.fusion.calibration import Method

app = typer.Typer()


@app.command()
def preprocess(
    data_root: DataRoot,
    target_layout: Annotated[str, typer.Option(help="Layout of the target data set; see `datasets list`.")],
    target_path: Annotated[str, typer.Option(help="Its folder, relative to the data root.")],
    target_part: Annotated[str, typer.Option(help="Body part (or class pair) that the model is for.")],
    source_layout: Annotated[str, typer.Option(help="Layout of the related images.")],
    source_path: Annotated[str, typer.Option(help="Their folder, relative to the data root.")],
    target_out: Annotated[Path, typer.Option(help="Image store to write.")],
    source_out: Annotated[Path, typer.Option(help="Image store to write.")],
    source_parts: Annotated[
        list[str] | None, typer.Option(help="Body parts to take; none: all but the target's.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the stored square images, px.")] = 256,
    test_fraction: Annotated[float, typer.Option(help="Share of the target's groups kept for test.")] = 0.2,
    test_fold: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Number and count: test on this one (from 1) of so many folds, in place of a fraction."),
    ] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share kept for validation.")] = 0.2,
    label_fraction: Annotated[
        float, typer.Option(help="Share of the target's train and validation images whose labels are used.")
    ] = 1.0,
    max_images: Annotated[int, typer.Option(min=0, help="Cap on the images of each store; 0: none.")] = 0,
    seed: Seed = 0,
    target_table: Annotated[
        str | None, typer.Option(help="For the layout `table`: {table: labels.csv, file: COLUMN, ...}, as in configs.")
    ] = None,
    source_table: Annotated[str | None, typer.Option(help="The same for the source.")] = None,
    ct_window: Annotated[
        tuple[float, float] | None, typer.Option(help="For CT in DICOM: centre and width in Hounsfield units.")
    ] = None,
    crop_border: Annotated[
        bool, typer.Option("--crop-border", help="Cut away the flat border (film edge, collimation) before scaling.")
    ] = False,
    previous_splits: Annotated[
        str,
        typer.Option(
            help="splits.csv of an earlier run, relative to the data root, or REGISTRY#NAME@VERSION of its model; "
            "its images keep their splits."
        ),
    ] = "",
    on_problem: Annotated[
        list[str] | None,
        typer.Option(help="PROBLEM=POLICY, e.g. truncated=fail; repeatable; see on_problem in configurations."),
    ] = None,
) -> None:
    """Decode, check, split and store the target images and the related ones."""
    from radtransfer.configfile import mapping
    from radtransfer.preprocess.run import preprocess as step

    step(
        data_root=data_root,
        target_layout=target_layout,
        target_path=target_path,
        target_part=target_part,
        source_layout=source_layout,
        source_path=source_path,
        source_parts=source_parts or [],
        image_size=image_size,
        test_fraction=test_fraction,
        test_fold=test_fold or (),
        validation_fraction=validation_fraction,
        label_fraction=label_fraction,
        max_images=max_images,
        seed=seed,
        target_out=target_out,
        source_out=source_out,
        target_table=mapping(target_table or "{}", "--target-table"),
        source_table=mapping(source_table or "{}", "--source-table"),
        previous_splits=previous_splits,
        ct_window=ct_window or (),
        crop_border=crop_border,
        on_problem={key: value for key, _, value in (pair.partition("=") for pair in on_problem or [])},
    )


@app.command()
def pretrain(
    source_store: Annotated[Path, typer.Option(help="Image store of the related images.")],
    backbone: Backbone,
    out: Out,
    init: Annotated[Literal["scratch", "imagenet"], typer.Option(help="What to start from.")] = "imagenet",
    task: Annotated[
        Literal["abnormality", "body_part", "both"], typer.Option(help="What to learn to tell.")
    ] = "abnormality",
    boxes: Annotated[bool, typer.Option("--boxes", help="Learn from lesion boxes too.")] = False,
    epochs: Epochs = 5,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 3e-4,
    weight_decay: WeightDecay = 0.02,
    layer_decay: LayerDecay = 1.0,
    freeze_epochs: FreezeEpochs = 0,
    patience: Patience = 5,
    input_size: InputSize = 0,
    weights_mirror: WeightsMirror = "",
    mirror: Mirror = True,
    seed: Seed = 0,
    threads: Threads = 2,
    precision: Precision = "float32",
    checkpoints: CheckpointsAt = "",
    checkpoint_minutes: CheckpointMinutes = 5.0,
    pretrained_models: Annotated[
        str,
        typer.Option(
            help="Folder `pretrained` of an earlier run, or REGISTRY#NAME@VERSION, whose model is taken in place of "
            "training."
        ),
    ] = "",
) -> None:
    """Pre-train one backbone on the related images, or take up what an earlier run pre-trained."""
    from radtransfer.training.steps import pretrain as step

    step(
        source_store=source_store,
        backbone=backbone,
        init=init,
        task=task,
        boxes=boxes,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        freeze_epochs=freeze_epochs,
        patience=patience,
        input_size=input_size,
        weights_mirror=weights_mirror,
        mirror=mirror,
        seed=seed,
        threads=threads,
        precision=precision,
        checkpoints=checkpoints,
        checkpoint_minutes=checkpoint_minutes,
        out=out,
        pretrained_models=pretrained_models,
    )


@app.command()
def finetune(
    target_store: TargetStore,
    backbone: Backbone,
    tl_source: Annotated[TlSource, typer.Option(help="What to start from.")],
    out: Out,
    pretrained: Annotated[Path | None, typer.Option(help="Pre-trained model, for in_domain.")] = None,
    epochs: Epochs = 8,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 3e-4,
    weight_decay: WeightDecay = 0.02,
    layer_decay: LayerDecay = 1.0,
    freeze_epochs: FreezeEpochs = 0,
    patience: Patience = 5,
    input_size: InputSize = 0,
    weights_mirror: WeightsMirror = "",
    mirror: Mirror = True,
    seed: Seed = 0,
    threads: Threads = 2,
    precision: Precision = "float32",
    checkpoints: CheckpointsAt = "",
    checkpoint_minutes: CheckpointMinutes = 5.0,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train again on train and validation images together, to predict with.")
    ] = False,
    extra_steps: Annotated[
        int, typer.Option(min=0, help="More steps: as many as pre-training takes, for the control `trained as long`.")
    ] = 0,
) -> None:
    """Fine-tune one backbone on the target images."""
    from radtransfer.training.steps import finetune as step

    step(
        target_store=target_store,
        backbone=backbone,
        tl_source=tl_source,
        pretrained=pretrained,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        freeze_epochs=freeze_epochs,
        patience=patience,
        input_size=input_size,
        weights_mirror=weights_mirror,
        mirror=mirror,
        seed=seed,
        threads=threads,
        precision=precision,
        checkpoints=checkpoints,
        checkpoint_minutes=checkpoint_minutes,
        refit=refit,
        extra_steps=extra_steps,
        out=out,
    )


@app.command()
def extract(
    store: TargetStore,
    models: Annotated[
        list[Path], typer.Option("--model", help="Fine-tuned model of one TL source; once for each backbone.")
    ],
    out: Out,
    threads: Threads = 2,
) -> None:
    """Turn the images of a store into features of the models of one TL source."""
    from radtransfer.fusion.extract import extract as step

    step(store=store, models=models, threads=threads, out=out)


@app.command()
def fuse(
    features: Annotated[Path, typer.Option(help="Folder that `extract` wrote.")],
    out: Out,
) -> None:
    """Join the features of the backbones of one TL source."""
    from radtransfer.fusion.fuse import fuse as step

    step(features=features, out=out)


@app.command()
def classify(
    fused: Annotated[Path, typer.Option(help="Folder that `fuse` wrote.")],
    out: Out,
    cv_folds: Annotated[int, typer.Option(min=2, max=20, help="Folds of the grouped cross-validation.")] = 5,
    cv_repeats: Annotated[int, typer.Option(min=0, max=20, help="Cuts into these folds; 0: as the size asks.")] = 0,
    classifiers: Annotated[
        list[str] | None, typer.Option("--classifier", help="One to be tried; repeatable; none named: all.")
    ] = None,
    classifier_grid: Annotated[
        str | None, typer.Option(help="Values tried, {svm_rbf.C: [1, 10], ...}, as in configurations.")
    ] = None,
    classifier_budget: Annotated[int, typer.Option(min=1, help="Combinations tried for each classifier at most.")] = 16,
    calibration: Annotated[str, typer.Option(help="platt, temperature or isotonic.")] = "platt",
    threshold_rule: Annotated[str, typer.Option(help="youden, sensitivity=S or cost=C.")] = "youden",
    seed: Seed = 0,
) -> None:
    """Fit, calibrate and choose classifiers on fused and single features."""
    from radtransfer.configfile import mapping
    from radtransfer.fusion.classify import classify as step
    from radtransfer.fusion.grid import CLASSIFIERS

    step(
        fused=fused,
        cv_folds=cv_folds,
        cv_repeats=cv_repeats,
        classifiers=classifiers or list(CLASSIFIERS),
        classifier_grid=mapping(classifier_grid or "{}", "--classifier-grid"),
        classifier_budget=classifier_budget,
        calibration=cast("Method", calibration),
        threshold_rule=threshold_rule,
        seed=seed,
        out=out,
    )


@app.command()
def stress(
    target_store: TargetStore,
    classifiers: Classifiers,
    models: Models,
    out: Out,
    corruptions: Annotated[
        list[str] | None, typer.Option("--corruption", help="A kind, e.g. blur, at five grades; repeatable.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Score corrupted test images, and some whose lesions are hidden, for `evaluate` to measure."""
    from radtransfer.robustness.stress import stress as step

    step(
        target_store=target_store,
        classifiers=classifiers,
        models=models,
        corruptions=corruptions or [],
        seed=seed,
        threads=threads,
        out=out,
    )


@app.command()
def evaluate(
    target_store: TargetStore,
    classifiers: Classifiers,
    stress: Annotated[Path, typer.Option(help="Folder that `stress` wrote.")],
    out: Out,
    bootstrap: Annotated[int, typer.Option(min=100, help="Bootstrap replicates behind every interval.")] = 2000,
    prevalence: Annotated[
        float, typer.Option(min=0, max=1, help="Share of positives for PPV and NPV; 0: that of the test images.")
    ] = 0.0,
    seed: Seed = 0,
) -> None:
    """Measure all candidates on the test images."""
    from radtransfer.evaluation.evaluate import evaluate as step

    step(
        target_store=target_store,
        classifiers=classifiers,
        stress=stress,
        bootstrap=bootstrap,
        seed=seed,
        out=out,
        prevalence=prevalence,
    )


@app.command()
def register(
    name: Annotated[str, typer.Option(help="Name of the model.")],
    target_store: TargetStore,
    evaluation: Evaluation,
    classifiers: Classifiers,
    models: Models,
    pretrained: Pretrained,
    config: Annotated[Path, typer.Option(help="Configuration of the run, which the bundle keeps.")],
    out: Out,
    registry: RegistryOrNone = "",
) -> None:
    """Pack all that is needed to predict into a bundle, and enter it into a registry if one is named."""
    from radtransfer.configfile import load
    from radtransfer.registry.bundle import register as step

    step(
        name=name,
        target_store=target_store,
        evaluation=evaluation,
        classifiers=classifiers,
        models=models,
        pretrained=pretrained,
        config=load(config).model_dump(mode="json", exclude={"pretrained_models"}),
        registry=registry,
        out=out,
    )


@app.command(name="write-report")  # `report` fetches that of a run on a cluster
def report(
    config: Annotated[Path, typer.Option(help="Configuration of the run, to be shown.")],
    target_store: TargetStore,
    source_store: Annotated[Path, typer.Option(help="Image store of the related images.")],
    evaluation: Evaluation,
    explanations: Annotated[Path, typer.Option(help="Folder that `explain` wrote.")],
    bundle: Annotated[Path, typer.Option(help="Folder that `register` wrote.")],
    models: Models,
    pretrained: Pretrained,
    html_out: Annotated[Path, typer.Option(help="Report to write.")],
    markdown_out: Annotated[Path, typer.Option(help="Summary to write.")],
) -> None:
    """Write the self-contained report."""
    from radtransfer.configfile import load
    from radtransfer.evaluation.report import report as step

    step(
        config=load(config).model_dump(mode="json"),
        target_store=target_store,
        source_store=source_store,
        evaluation=evaluation,
        explanations=explanations,
        bundle=bundle,
        models=models,
        pretrained=pretrained,
        html_out=html_out,
        markdown_out=markdown_out,
    )
