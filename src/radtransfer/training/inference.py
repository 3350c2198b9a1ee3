"""The forward pass over many stored images: validation, extraction, prediction and LIME all go through here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from radtransfer.progress import track
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

Passed = tuple[NDArray[np.float32], NDArray[np.float32]]


def batches(
    networks: Sequence[Network], images: NDArray[np.uint8], batch_size: int = 32, what: str = "infer"
) -> Iterator[tuple[slice, list[Passed]]]:
    """Features and logits of stored images, batch by batch.

    Of a network to which a mirrored image means the same, each is the mean over the image and its mirror image:
    training mirrors half of its images (:func:`radtransfer.training.augment.augment`), so both views are at home. The
    head is linear: the logit of the mean features is the mean of the logits.

    Args:
        networks: in evaluation mode.
        images: uint8 [N, S, S]; a memory map is read once, batch by batch.
        batch_size: images per forward pass.
        what: shown with the progress.

    Yields:
        rows of the images, and for each network features float32 [B, D] and logits float32 [B] of its own head.
    """
    starts = range(0, len(images), batch_size)
    for start in track(starts, what, len(starts)):
        rows = slice(start, min(start + batch_size, len(images)))
        with torch.inference_mode():
            stored = torch.from_numpy(np.array(images[rows])).to(device())
            passed = []
            for network in networks:
                features = network.features(stored)
                if network.mirror:
                    features = (features + network.features(stored.flip(-1))) / 2
                passed.append((features.cpu().numpy(), network.head(features).cpu().numpy()))
        yield rows, passed


def infer(network: Network, images: NDArray[np.uint8], batch_size: int = 32, what: str = "infer") -> Passed:
    """Features float32 [N, D] and logits float32 [N] by one network; see :func:`batches`."""
    features = np.empty((len(images), network.feature_dim), np.float32)
    logits = np.empty(len(images), np.float32)
    for rows, ((its_features, its_logits),) in batches([network], images, batch_size, what):
        features[rows], logits[rows] = its_features, its_logits
    return features, logits
