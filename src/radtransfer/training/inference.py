"""The forward pass over many stored images: validation, extraction, prediction and LIME all go through here."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from radtransfer.progress import track
from radtransfer.training.network import Network
from radtransfer.training.runtime import device


def infer(
    network: Network, images: NDArray[np.uint8], batch_size: int = 32, what: str = "infer"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features and logits of stored images, each the mean over the image and its mirror image.

    Training mirrors half of its images (:func:`radtransfer.training.augment.augment`), so both views are at home. The
    head is linear: the logit of the mean features is the mean of the logits.

    Args:
        network: in evaluation mode.
        images: uint8 [N, S, S]; a memory map is read batch by batch.
        batch_size: images per forward pass.
        what: shown with the progress.

    Returns:
        features float32 [N, D] and logits float32 [N] of the network's own head.
    """
    features = np.empty((len(images), network.feature_dim), np.float32)
    logits = np.empty(len(images), np.float32)
    starts = range(0, len(images), batch_size)
    with torch.inference_mode():
        for start in track(starts, what, len(starts)):
            rows = slice(start, min(start + batch_size, len(images)))
            stored = torch.from_numpy(np.array(images[rows])).to(device())
            batch = (network.features(stored) + network.features(stored.flip(-1))) / 2
            features[rows] = batch.cpu().numpy()
            logits[rows] = network.head(batch).cpu().numpy()
    return features, logits
