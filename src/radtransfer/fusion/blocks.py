"""Standardisation of fused features, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Weights = Literal["equal", "columns", "signal"]


class BlockScaler(StandardScaler):  # type: ignore[misc]
    """Give every column mean 0 and variance 1, then every block of columns a weight.

    - ``columns``: none, a block counts by its width.
    - ``equal``: the variances of a block's columns sum to the same for all blocks, as in multiple factor analysis with
      the total inertia in place of the first eigenvalue (Escofier and Pages, 1994). Blocks of equal width: as
      ``columns``, to the last bit.
    - ``signal``: that sum is proportional to how well the block's columns tell the classes apart one by one: the mean
      squared point-biserial correlation with the label, less what chance gives (1 / (n - 1)), the floor a hundredth of
      the largest. It looks at labels and is for that reason fitted inside the fold.

    Args:
        widths: columns of each block, in their order.
        weights: as above.
    """

    scale_: Floats

    def __init__(self, widths: Sequence[int] = (), weights: Weights = "equal") -> None:
        super().__init__()
        self.widths = widths
        self.weights = weights

    def fit(self, X: Floats, y: NDArray[np.integer[Any]] | None = None, sample_weight: None = None) -> Self:
        """Learn means, scales and weights from X [N, sum of widths] and labels y [N] (for ``signal``)."""
        super().fit(X)
        self.scale_ = self.scale_ / np.repeat(np.sqrt(self._variances(X, y)), self.widths)
        return self

    def _variances(self, X: Floats, y: NDArray[np.integer[Any]] | None) -> Floats:
        """Variance that each column of a block gets, [blocks]; the mean over all columns is 1."""
        widths = np.asarray(self.widths, np.float64)
        if self.weights == "columns" or len(widths) == 1:
            return np.ones(len(widths))
        if self.weights == "equal":
            return np.asarray(widths.mean() / widths, np.float64)
        assert y is not None
        share = float(np.mean(y))
        difference = (X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)) / self.scale_
        correlation = difference**2 * share * (1 - share)
        edges = np.concatenate([[0], np.cumsum(self.widths)[:-1]]).astype(int)
        signal = np.add.reduceat(correlation, edges) / widths - 1 / (len(X) - 1)
        if signal.max() <= 0:
            signal = np.ones(len(widths))
        signal = np.maximum(signal, signal.max() / 100)
        return np.asarray(signal / signal.sum() * widths.sum() / widths, np.float64)
