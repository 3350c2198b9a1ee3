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

from radtransfer.explain import cases, faithfulness, superpixels
from radtransfer.fusion.predictor import Predictor
from radtransfer.training.network import Network


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
    first: NDArray[np.float32], second: NDArray[np.float32], regions: Sequence[superpixels.Box]
) -> NDArray[np.float64]:
    """Spearman's rank correlation [N] of maps, over the tiles of what is shown.

    Args:
        first, second: maps [N, S, S].
        regions: where each image lies in its square, x0, y0, x1, y1.

    Returns:
        in [-1, 1]; 0 where a map says the same everywhere.
    """
    pairs = [
        cases.rank_correlation(faithfulness.coarse(one, region), faithfulness.coarse(other, region))
        for one, other, region in zip(first, second, regions, strict=True)
    ]
    return np.nan_to_num(np.array(pairs, np.float64))
