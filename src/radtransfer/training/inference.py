"""The forward pass over many stored images: validation, extraction, prediction and LIME all go through here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import taken
from radtransfer.progress import track
from radtransfer.training import memory
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

Passed = tuple[NDArray[np.float32], NDArray[np.float32]]


def batches(
    networks: Sequence[Network],
    images: NDArray[np.uint8],
    batch_size: int = 32,
    what: str = "infer",
    of: NDArray[np.intp] | None = None,
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
        of: positions of the images to pass, ascending; None: all.

    Yields:
        rows of the images (of ``of``, where it is given), and for each network features float32 [B, D] and logits
        float32 [B] of its own head.

    Raises:
        RadtransferError: memory does not even do for one image. A batch that does not fit is passed in halves.
    """
    count = len(images) if of is None else len(of)
    starts = range(0, count, batch_size)
    for start in track(starts, what, len(starts)):
        rows = slice(start, min(start + batch_size, count))
        yield rows, passed(networks, taken(images, rows if of is None else of[rows]), what)


def passed(networks: Sequence[Network], images: NDArray[np.uint8], what: str) -> list[Passed]:
    """Features and logits of stored images by each network, in one pass; see :func:`batches`."""
    try:
        return _forward(networks, images)
    except Exception as error:
        if not memory.exhausted(error):
            raise
        if len(images) == 1:
            raise RadtransferError(
                f"{what}: out of memory with one image at a time ({memory.first_line(error)}); give this process "
                "more memory, or train with a smaller input_size or another backbone"
            ) from None
        memory.release(error)
    half = len(images) // 2
    print(
        f"{what}: warning: {len(images)} images do not fit into memory, now {half} at a time",
        file=sys.stderr,
        flush=True,
    )
    halves = passed(networks, images[:half], what), passed(networks, images[half:], what)
    return [(np.concatenate((a, c)), np.concatenate((b, d))) for (a, b), (c, d) in zip(*halves, strict=True)]


def _forward(networks: Sequence[Network], images: NDArray[np.uint8]) -> list[Passed]:
    found = []
    with torch.inference_mode():
        stored = torch.from_numpy(images).to(device())
        for network in networks:
            features = network.features(stored)
            if network.mirror:
                features = (features + network.features(stored.flip(-1))) / 2
            found.append((features.cpu().numpy(), network.head(features).cpu().numpy()))
    return found


def infer(network: Network, images: NDArray[np.uint8], batch_size: int = 32, what: str = "infer") -> Passed:
    """Features float32 [N, D] and logits float32 [N] by one network; see :func:`batches`."""
    features = np.empty((len(images), network.feature_dim), np.float32)
    logits = np.empty(len(images), np.float32)
    for rows, ((its_features, its_logits),) in batches([network], images, batch_size, what):
        features[rows], logits[rows] = its_features, its_logits
    return features, logits
