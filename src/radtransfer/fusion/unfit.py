"""Images that a model must not judge: those whose features point elsewhere than those of the training images.

The features of each network are taken as directions, scaled to length 1: how long they are says much about contrast and
little about kinship (Sun et al., ICML 2022, section 4.3, of nearest neighbours; measured here too, docs/method.md). The
distance is close to that of probabilistic principal components (Tipping and Bishop, JRSS B 61, 1999), a Gaussian with
the first components and one variance for all that they leave,

    d^2 = sum of (component / its deviation)^2  +  |what the components leave|^2 / variance of the left-over.

That variance is scikit-learn's ``noise_variance_``: what N images leave in D columns, summed and divided by
min(N, D) - K, where Tipping and Bishop have D - K. With fewer images than columns it is larger (N = 150, D = 1280,
K = 32: 10.6 times), and the residual weighs less. The table of docs/method.md was measured with it.

Its first part is the Mahalanobis distance in the subspace of the training images (Lee et al., NeurIPS 2018), its second
the distance from that subspace (Moghaddam and Pentland, IEEE PAMI 19, 1997; the residual of ViM, Wang et al., CVPR
2022). No label is read. It holds a mean and directions, and no image's features: a bundle gives none of these away.

Networks know the images that they have learnt by heart, whose features lie closer together than those of new ones: so
the limit comes from validation images (:func:`limit`), and never from the training images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.stats import t
from sklearn.decomposition import PCA

from radtransfer.errors import RadtransferError

Floats = NDArray[np.float64]
Features = NDArray[np.floating[Any]]

UNFIT = "unfit.safetensors"
"""A detector's file in a bundle."""

COMPONENTS = 32
"""Principal components at most; fewer where there are fewer than twice as many images."""

FALSE_ALARMS = 0.01
"""Share of fit images that may be called unfit."""

MOST = 4096
"""Images that are learnt from at most, evenly out of all; and that are measured at a time."""

LEAST_VARIANCE = 1e-10
"""Of any direction, for features of length 1: rounding stays far below it, what tells images apart far above."""


@dataclass(frozen=True, eq=False)
class Detector:
    """How far images lie from the training images, by the features of one or several networks.

    Attributes:
        mean: [D] of the features of all networks side by side, those of each scaled to length 1.
        axes: [K, D] directions of the components.
        variances: [K] of the components.
        noise: [1] what they leave: its total variance, divided by min(N, D) - K, N the number of images learnt from.
        typical: [1] the median distance of the training images, which is the unit.
    """

    mean: Floats
    axes: Floats
    variances: Floats
    noise: Floats
    typical: Floats

    @classmethod
    def fit(cls, blocks: Sequence[Features]) -> Self:
        """Learn from the features [N, D] that each network gives for the training images, N of at least 2."""
        places = np.linspace(0, len(blocks[0]) - 1, min(len(blocks[0]), MOST)).astype(np.intp)
        learnt = [block[places] for block in blocks]
        values = _directions(learnt)
        count, columns = values.shape
        found = PCA(max(1, min(COMPONENTS, (count - 1) // 2, columns)), random_state=0)
        with np.errstate(invalid="ignore"):  # scikit-learn's shares of no variance
            found.fit(values)
        variances = np.maximum(found.explained_variance_, LEAST_VARIANCE)
        noise = np.array([max(found.noise_variance_, LEAST_VARIANCE)])
        bare = cls(*(_stored(part) for part in (found.mean_, found.components_, variances, noise, np.ones(1))))
        typical = max(1.0, float(np.median(bare.distance(learnt))))
        return replace(bare, typical=_stored(np.array([typical])))

    def distance(self, blocks: Sequence[Features]) -> Floats:
        """Distances [N], N > 0, by the features [N, D] of each network; 1: as far as the median training image."""
        starts = range(0, len(blocks[0]), MOST)
        return np.concatenate([self._distance([block[start : start + MOST] for block in blocks]) for start in starts])

    def _distance(self, blocks: Sequence[Features]) -> Floats:
        centred = _directions(blocks) - self.mean
        inside = centred @ self.axes.T
        outside = np.maximum((centred**2).sum(axis=1) - (inside**2).sum(axis=1), 0)
        return np.asarray(np.sqrt((inside**2 / self.variances).sum(axis=1) + outside / self.noise) / self.typical)

    def save(self, path: Path) -> None:
        """Write all arrays as float32."""
        save_file({name: np.ascontiguousarray(part, np.float32) for name, part in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            RadtransferError: no such file, or not one of these.
        """
        try:
            found = {name: part.astype(np.float64) for name, part in load_file(path).items()}
            detector = cls(**found)
            columns, kept = len(detector.mean), len(detector.variances)
            shapes = {"mean": (columns,), "axes": (kept, columns), "variances": (kept,), "noise": (1,), "typical": (1,)}
            if any(found[name].shape != shape or not np.isfinite(found[name]).all() for name, shape in shapes.items()):
                raise TypeError("odd shapes or numbers")
            if any(found[name].min() <= 0 for name in ("variances", "noise", "typical")):
                raise TypeError("a variance that is not positive")
        except FileNotFoundError:
            raise RadtransferError(f"{path}: no such file") from None
        except (SafetensorError, AttributeError, TypeError, ValueError) as error:  # NumPy has no float8: AttributeError
            raise RadtransferError(f"{path}: not a detector of unfit images ({error})") from None
        return detector


def _directions(blocks: Sequence[Features]) -> Floats:
    """[N, sum of D], the features of each network scaled to length 1."""
    found = []
    for block in blocks:
        values = np.asarray(block, np.float64)
        found.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
    return np.concatenate(found, axis=1)


def _stored(part: Floats) -> Floats:
    """As it is read back."""
    return part.astype(np.float32).astype(np.float64)


def limit(distances: Floats) -> float:
    """The distance beyond which an image is unfit, from distances [N] of N > 1 images that the networks
    have not learnt.

    It is the upper prediction bound of one more such image, at the false-alarm rate :data:`FALSE_ALARMS`, for
    distances whose logarithm is normal: mean + t * deviation * sqrt(1 + 1 / N), with Student's t of N - 1 degrees of
    freedom (Hahn and Meeker, Statistical Intervals, 1991, section 4.7). An empirical quantile would ask for more than
    1 / :data:`FALSE_ALARMS` images; this bound widens where there are few. It is at least 1, the distance of the
    median training image.
    """
    logs, count = np.log(np.maximum(distances, 1e-6)), len(distances)
    spread = float(logs.std(ddof=1)) * np.sqrt(1 + 1 / count)
    return float(max(1.0, np.exp(logs.mean() + t.ppf(1 - FALSE_ALARMS, count - 1) * spread)))
