"""The course of a training: its steps, the size of the images and the learning rate."""

from __future__ import annotations

import math

WARM_UP = 0.15
GROWTH = ((0.4, 0.5), (0.7, 0.7), (1.0, 1.0))
"""Up to this share of the epochs, this share of the input size (Howard 2018, progressive resizing)."""
SMALLEST = 160
"""Below this side, px, a radiograph is not shrunk for the first epochs."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Training steps of an epoch over so many images; what does not fill a batch waits for another epoch's order."""
    return images // min(batch_size, images)


def side(epoch: int, epochs: int, full: int) -> int:
    """Input size of an epoch, px: small images first, which cost less and lose little while little is learnt.

    Args:
        epoch: from 1.
        epochs: how many there are; the last is always at ``full``.
        full: the network's own input size.
    """
    share = next(share for end, share in GROWTH if (epoch - 1) / epochs < end)
    return full if epoch == epochs else min(full, max(SMALLEST, 32 * round(full * share / 32)))


def rate(done: int, total: int) -> float:
    """Share of the peak rate at step ``done``: linear warm-up, then a half cosine (Loshchilov & Hutter 2017)."""
    warm = max(1, round(WARM_UP * total))
    if done < warm:
        return (done + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, total - warm)))
