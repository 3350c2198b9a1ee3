"""Images that a model must not judge: those whose features lie too far from the features of the training images.

The distance is that of probabilistic principal components (Tipping and Bishop, JRSS B 61, 1999): a Gaussian with the
first components of the standardised features and one variance for all that is left over, so that

    d^2 = sum of (component / its deviation)^2  +  |what the components leave|^2 / variance of the left-over.

Its first part is the Mahalanobis distance in the subspace of the training images (Lee et al., NeurIPS 2018), its second
the distance from that subspace (Moghaddam and Pentland, IEEE PAMI 19, 1997; the residual of ViM, Wang et al., CVPR
2022). No label is read. It holds means and directions, and no image's features: a bundle gives away none of these.

Networks know the images that they have learnt by heart, whose features lie closer together than those of new ones: so
the limit comes from validation images (:func:`limit`), and never from the training images themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.stats import t
from sklearn.decomposition import PCA

from radtransfer.errors import RadtransferError

Floats = NDArray[np.float64]

COMPONENTS = 32
"""Principal components at most; fewer where there are fewer than twice as many images."""

FALSE_ALARMS = 0.01
"""Share of fit images that may be called unfit."""

CONSTANT = 1e-6
"""Deviation of a column, in units of its mean or of the largest deviation, up to which it counts as constant: it gets
the median deviation of the others, so that an image in which it varies is farther, and rounding is not."""


@dataclass(frozen=True, eq=False)
class Detector:
    """How far features lie from those of the training images.

    Attributes:
        mean, scale: [D] of the features.
        axes: [K, D] directions of the components of the standardised features.
        variances: [K] of the components.
        noise: [1] variance of what they leave, each direction.
        typical: [1] the median distance of the training images, which is the unit.
    """

    mean: Floats
    scale: Floats
    axes: Floats
    variances: Floats
    noise: Floats
    typical: Floats

    @classmethod
    def fit(cls, features: Floats) -> Self:
        """Learn from the features [N, D] of the training images, N of at least 2."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        constant = deviation <= CONSTANT * np.maximum(np.abs(mean), float(deviation.max()))
        scale = np.where(constant, 1.0 if constant.all() else np.median(deviation[~constant]), deviation)
        count, columns = features.shape
        kept = max(1, min(COMPONENTS, (count - 1) // 2, columns))
        standard = np.zeros_like(features) if constant.all() else (features - mean) / scale
        with np.errstate(invalid="ignore"):  # the share of no variance
            found = PCA(kept, random_state=0).fit(standard)
        least = float(found.explained_variance_.max()) * 1e-6 or 1.0
        variances = np.maximum(found.explained_variance_, least)
        noise = np.array([max(found.noise_variance_, least)])
        bare = cls(*(_stored(part) for part in (mean, scale, found.components_, variances, noise, np.ones(1))))
        typical = _stored(np.atleast_1d(np.median(bare.distance(features))))
        return replace(bare, typical=np.where(typical > 0, typical, 1.0))

    def distance(self, features: NDArray[np.floating]) -> Floats:
        """Distances [N] of features [N, D]; 1: as far as the median training image."""
        standard = (np.asarray(features, np.float64) - self.mean) / self.scale
        inside = standard @ self.axes.T
        outside = np.maximum((standard**2).sum(axis=1) - (inside**2).sum(axis=1), 0)
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
            shapes = {"mean": (columns,), "scale": (columns,), "axes": (kept, columns), "variances": (kept,)}
            shapes |= {"noise": (1,), "typical": (1,)}
            if any(found[name].shape != shape or not np.isfinite(found[name]).all() for name, shape in shapes.items()):
                raise TypeError("odd shapes or numbers")
            if any(found[name].min() <= 0 for name in ("scale", "variances", "noise", "typical")):
                raise TypeError("a deviation that is not positive")
        except FileNotFoundError:
            raise RadtransferError(f"{path}: no such file") from None
        except (SafetensorError, TypeError, ValueError) as error:
            raise RadtransferError(f"{path}: not a detector of unfit images ({error})") from None
        return detector


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
