"""Does a map depend on what a network has learnt?

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: a map that stays the same when the weights are thrown
away shows the image, not the model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch.nn import functional

from radtransfer.fusion.predictor import Predictor
from radtransfer.training.network import Network

CELLS = 14
"""Of each side: maps are compared as coarsely as networks of 224 px see them."""


def randomised(predict: Predictor, seed: int) -> Predictor:
    """The same predictor on networks that know nothing: the values of every tensor of weights in a random order.

    Unlike weights that are drawn anew they have the same spread, which the classifier behind them was fitted to.
    """
    draw = torch.Generator().manual_seed(seed)
    return replace(predict, networks=tuple(_shuffled(network, draw) for network in predict.networks))


def _shuffled(network: Network, draw: torch.Generator) -> Network:
    found = copy.deepcopy(network)
    with torch.no_grad():
        for weights in found.body.parameters():
            order = torch.randperm(weights.numel(), generator=draw).to(weights.device)
            weights.copy_(weights.flatten()[order].view_as(weights))
    return found


def alike(
    first: NDArray[np.float32], second: NDArray[np.float32], regions: Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """Spearman's rank correlation [N] of maps, over :data:`CELLS` x :data:`CELLS` cells of what is shown.

    Args:
        first, second: maps [N, S, S].
        regions: where each image lies in its square, x0, y0, x1, y1.

    Returns:
        in [-1, 1]; 0 where a map says the same everywhere.
    """
    pairs = zip(first, second, regions, strict=True)
    return np.array([_correlation(_coarse(a, region), _coarse(b, region)) for a, b, region in pairs])


def _coarse(heat: NDArray[np.float32], region: Sequence[float]) -> NDArray[np.float64]:
    """Means over cells of what is shown."""
    x0, y0, x1, y1 = (round(edge) for edge in region)
    shown = torch.from_numpy(heat[y0:y1, x0:x1].astype(np.float64))
    return np.asarray(functional.adaptive_avg_pool2d(shown[None], CELLS).numpy().ravel())


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    ranks = np.stack([rankdata(first.round(9)), rankdata(second.round(9))])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    return float(ranks[0] @ ranks[1] / norms.prod()) if norms.all() else 0.0
