"""Augmentation fit for radiographs, on whole batches, on the device that trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ROTATION_DEGREES = 15.0
SCALE = 0.15
SHIFT = 0.08
CONTRAST = 0.25
BRIGHTNESS = 0.12
GAMMA = 0.25
NOISE = 0.02
ERASE_PROBABILITY = 0.25
ERASE_SIDE = (0.08, 0.25)


def augment(
    images: Tensor,
    generator: torch.Generator,
    masks: Tensor | None = None,
    *,
    flip: bool = True,
    of: tuple[int, slice] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Randomly rotate, scale, shift, mirror, change exposure, add noise and blot out a square.

    Mirroring left to right turns a left hand into a right one, which is as good a hand; upside down is not. Where the
    side counts, as in a chest, it is left out.

    Args:
        images: uint8 [B, S, S].
        generator: on the CPU; the only source of randomness, so that a batch depends on nothing else.
        masks: uint8 [B, S, S] of regions of the images, which move with them.
        flip: mirror half of the images left to right.
        of: the images are a part of a batch of so many, and look as they would in that batch; None: they are all of it.

    Returns:
        Images and masks, float32 [B, S, S] in 0..255, on the device of ``images``.
    """
    batch, side = images.shape[0], images.shape[-1]
    whole, part = of or (batch, slice(None))
    place = images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(whole).uniform_(low, high, generator=generator)[part]

    angle = uniform(-ROTATION_DEGREES, ROTATION_DEGREES) * (math.pi / 180)
    scale = torch.exp(uniform(-SCALE, SCALE))
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if flip else torch.ones(batch)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        cosine * mirror,
        -sine,
        uniform(-2 * SHIFT, 2 * SHIFT),
        sine * mirror,
        cosine,
        uniform(-2 * SHIFT, 2 * SHIFT),
    ]
    theta = torch.stack(rows, dim=1).view(batch, 2, 3).to(place)
    grid = functional.affine_grid(theta, [batch, 1, side, side], align_corners=False)

    def moved(pixels: Tensor) -> Tensor:
        return functional.grid_sample(pixels.unsqueeze(1), grid, padding_mode="zeros", align_corners=False)

    x = moved(images.float() / 255)

    def per_image(values: Tensor) -> Tensor:
        return values.view(batch, 1, 1, 1).to(place)

    x = x.clamp(0, 1) ** per_image(torch.exp(uniform(-GAMMA, GAMMA)))
    x = x * per_image(torch.exp(uniform(-CONTRAST, CONTRAST))) + per_image(uniform(-BRIGHTNESS, BRIGHTNESS))
    x = x + per_image(uniform(0, NOISE)) * torch.randn(whole, *x.shape[1:], generator=generator)[part].to(place)
    x = _erase(x.clamp(0, 1), uniform(0, 1), uniform(*ERASE_SIDE), uniform(0, 1), uniform(0, 1))
    return x.squeeze(1) * 255, None if masks is None else moved(masks.float()).squeeze(1)


def _erase(x: Tensor, chance: Tensor, size: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """Blot out one square in some images (Zhong et al. 2020, Random Erasing), so that no single marker decides."""
    side = x.shape[-1]
    along = torch.arange(side)
    width = size * side
    x0, y0 = left * (side - width), top * (side - width)
    inside_x = (along >= x0[:, None]) & (along < (x0 + width)[:, None])
    inside_y = (along >= y0[:, None]) & (along < (y0 + width)[:, None])
    hole = inside_y[:, None, :, None] & inside_x[:, None, None, :] & (chance < ERASE_PROBABILITY)[:, None, None, None]
    return x.masked_fill(hole.to(x.device), 0.0)
