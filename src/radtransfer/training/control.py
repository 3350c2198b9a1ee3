"""The control "trained as long": networks that were not pre-trained get the steps that pre-training would have taken.

In-domain networks see more images than the others, so a gain may come from training longer. Under this control networks
from scratch and with ImageNet weights are fine-tuned for as many optimiser steps as the in-domain ones are given in
pre-training and fine-tuning together, rounded up to whole epochs of the target.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from radtransfer import artifacts
from radtransfer.registry.references import located
from radtransfer.registry.versions import PRETRAINED
from radtransfer.training.schedule import steps_per_epoch

if TYPE_CHECKING:  # it loads PyTorch
    from radtransfer.training.loop import Recipe


def extra_steps(
    tl_source: str, backbone: str, pretrained_models: str, *, images: int, batch_size: int, epochs: int
) -> int:
    """The steps that a backbone is given in pre-training, for sources without it; they are known before it has begun.

    Early stopping may end it sooner: what counts here is the budget, as for fine-tuning.

    Args:
        tl_source: what the network starts from; of ``in_domain``, which is pre-trained, 0.
        backbone: name of the timm model.
        pretrained_models: folder, or version of a registry, of models that are taken up in place of it, which say what
            they were given (or, made before they said so, what they took); empty: none.
        images: training images of the source.
        batch_size, epochs: of pre-training.

    Raises:
        RadtransferError: the backbone has no sound model there.
    """
    if tl_source == "in_domain":
        return 0
    if pretrained_models:
        with located(pretrained_models, PRETRAINED) as folder:
            told = artifacts.read(folder / backbone, "model").content
        return int(told.get("planned_steps", told["source_steps"]))
    return epochs * steps_per_epoch(images, batch_size)


def epochs_with(extra: int, *, epochs: int, images: int, batch_size: int) -> int:
    """Epochs of a fine-tuning on so many images with so many more steps, rounded up."""
    return epochs + math.ceil(extra / steps_per_epoch(images, batch_size))


def lengthened(recipe: Recipe, images: int, extra: int) -> Recipe:
    """A recipe with so many more steps, rounded up to whole epochs.

    All that is a share of a training follows its new length: warm-up, cosine, the growth of the images, and patience
    (a training three times as long waits three times as many epochs). ``freeze_epochs`` stays as it is.

    Args:
        recipe: of the fine-tuning without the control.
        images: training images of the target.
        extra: steps to add.
    """
    epochs = epochs_with(extra, epochs=recipe.epochs, images=images, batch_size=recipe.batch_size)
    return replace(recipe, epochs=epochs, patience=math.ceil(recipe.patience * epochs / recipe.epochs))
