"""LIME on superpixels: what changes the calibrated probability of the complete predictor.

Ribeiro, Singh, Guestrin, "Why Should I Trust You?": Explaining the Predictions of Any Classifier, KDD 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage.segmentation import slic

from radtransfer.errors import RadtransferError

Box = tuple[float, float, float, float]
SUPERPIXELS = 48
COMPACTNESS = 0.2
BLUR = 1 / 16
CHUNK_BYTES = 2**26
TOP = 5
FAINTEST = 1e-6
"""Weights that are all below this probability have no order worth comparing."""
DESCRIPTION = (
    "LIME on the calibrated probability of the complete predictor (all backbones, fusion, classifier, calibration): "
    f"about {SUPERPIXELS} SLIC superpixels of the grey image without its letterbox padding; a hidden superpixel shows "
    "its mean, so what counts is detail, not overall brightness. "
    "Perturbed images are a balanced design: every superpixel, and every pair, is shown equally often. "
    "Weights are in units of probability per superpixel."
)


@dataclass(frozen=True)
class Lime:
    """A local linear surrogate.

    Attributes:
        segments: int [S, S], the superpixel of every pixel; -1 in the padding.
        weights: float64 [K], what showing superpixel k instead of hiding it adds to the probability.
        fidelity: weighted R^2 of the surrogate on the perturbed images it was fitted to (1 is perfect).
    """

    segments: NDArray[np.int64]
    weights: NDArray[np.float64]
    fidelity: float

    @property
    def map(self) -> NDArray[np.float32]:
        """The weights as an image, float32 [S, S]; 0 in the padding."""
        return np.append(self.weights, 0.0)[self.segments].astype(np.float32)


class Steadiness(NamedTuple):
    """How far two explanations of one image agree that differ in their random draws.

    Attributes:
        spearman: rank correlation of the superpixels' weights; None where one of them weighs all alike.
        top: share that the five greatest weights of either sign have in common; None where there are no more than
            five superpixels, or one explanation weighs none.
    """

    spearman: float | None
    top: float | None


def steadiness(one: Lime, other: Lime) -> Steadiness:
    """Hold two explanations of one image by the same superpixels against each other."""
    weights = np.abs(np.stack([one.weights, other.weights]))
    if weights.max(axis=1).min() < FAINTEST:
        return Steadiness(None, None)
    alike = np.ptp([one.weights, other.weights], axis=1).min() < FAINTEST
    top = len(greatest(one.weights) & greatest(other.weights)) / TOP if weights.shape[1] > TOP else None
    return Steadiness(None if alike else float(spearmanr(one.weights, other.weights).statistic), top)


def greatest(weights: NDArray[np.float64]) -> set[int]:
    """The five superpixels with the greatest weights [K], of either sign."""
    return set(np.argsort(-np.abs(weights), kind="stable")[:TOP].tolist())


def design(samples: int, superpixels: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Which superpixels perturbed images show: 0 or 1, int [samples, superpixels]; all of them in the first.

    Each is shown in half of the others, as in LIME's independent draws, but by design: columns of a Hadamard matrix in
    random order and with random signs, rows in random order, and behind each row its complement (Plackett and Burman,
    Biometrika 33, 1946; folded over as by Box and Wilson, JRSS B 13, 1951). In a whole round, of twice the matrix's
    order, every two superpixels are shown together, apart and not at all equally often, so that no weight takes what
    is another's; and what two superpixels do only together cancels between a row and its complement. The round is
    repeated with other signs and orders until there are enough, and cut.

    Explanations of equal cost agree better over seeds: docs/explanations.md says by how much.
    """
    order = 2 ** superpixels.bit_length()
    signs = hadamard(order, dtype=np.int64)
    rounds = []
    for _ in range(-(-(samples - 1) // (2 * order))):
        columns = 1 + random.permutation(order - 1)[:superpixels]  # column 0 is constant
        rows = signs[random.permutation(order)][:, columns] * random.choice((-1, 1), superpixels)
        rounds.append(np.stack([rows, -rows], axis=1).reshape(2 * order, superpixels))
    whole = np.ones((1, superpixels), np.int64)
    return np.concatenate([whole, *((rows + 1) // 2 for rows in rounds)])[:samples]


def segment(image: NDArray[np.uint8], content: Box) -> NDArray[np.int64]:
    """SLIC superpixels 0..K-1 of the grey image inside ``content`` (px of the stored image); -1 outside.

    SLIC draws nothing at random: equal images have equal superpixels.

    Raises:
        RadtransferError: ``content`` covers no pixel.
    """
    left, top, right, bottom = pixels_of(content, image.shape)
    if left >= right or top >= bottom:
        raise RadtransferError(f"LIME: the image covers no pixel of its stored square ({content}); check its size")
    shown = image[top:bottom, left:right]
    found = slic(shown, n_segments=SUPERPIXELS, compactness=COMPACTNESS, sigma=1.0, start_label=0, channel_axis=None)
    segments = np.full(image.shape, -1, np.int64)
    segments[top:bottom, left:right] = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    return segments


def averaged(image: NDArray[np.uint8], segments: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What hidden superpixels show, as in the library: each its mean; the padding as it is.

    The image blurred would let a hidden superpixel tell of its neighbours: two seeds then agree less, and the linear
    function explains less (docs/explanations.md).
    """
    inside = segments >= 0
    labels = segments[inside]
    means = np.bincount(labels, image[inside]) / np.bincount(labels)
    hidden = image.copy()
    hidden[inside] = np.rint(means[labels])
    return hidden


def blurred(image: NDArray[np.uint8], content: Box) -> NDArray[np.uint8]:
    """The image without detail inside ``content``, blurred without its padding bleeding in."""
    left, top, right, bottom = pixels_of(content, image.shape)
    hidden = image.copy()
    shown = image[top:bottom, left:right].astype(np.float32)
    hidden[top:bottom, left:right] = np.rint(gaussian_filter(shown, BLUR * len(image), mode="reflect"))
    return hidden


def lime(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    image: NDArray[np.uint8],
    content: Box,
    *,
    samples: int,
    seed: int,
) -> Lime:
    """Explain one prediction.

    Args:
        predict: uint8 [N, S, S] to probabilities [N].
        image: uint8 [S, S].
        content: x0, y0, x1, y1 of the image inside its padding, px.
        samples: perturbed images, each of which is predicted once.
        seed: of the perturbations; the same image and seed give the same explanation.
    """
    segments = segment(image, content)
    explainer = _Explainer(predict, averaged(image, segments), seed)
    found = explainer.explain_instance(
        image, None, labels=(1,), hide_color=0, top_labels=None, num_samples=samples,
        segmentation_fn=lambda _: segments, random_seed=seed,
    )  # fmt: skip
    weights = np.zeros(int(segments.max()) + 1)
    for superpixel, weight in found.local_exp[1]:
        weights[superpixel] = weight
    return Lime(segments, weights, float(found.score))


class _Explainer(LimeImageExplainer):  # type: ignore[misc]
    """LIME's image explainer with its perturbations made for grey images.

    The library's own loop copies three channels, masks superpixel by superpixel, shows a progress bar that cannot be
    switched off and knows no padding.
    """

    def __init__(
        self, predict: Callable[[NDArray[np.uint8]], NDArray[np.float64]], hidden: NDArray[np.uint8], seed: int
    ) -> None:
        super().__init__(feature_selection="none", random_state=seed)
        self.predict = predict
        self.hidden = hidden

    def data_labels(
        self, image: Any, fudged_image: Any, segments: Any, classifier_fn: Any, num_samples: int, batch_size: int = 10
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which superpixels are shown, int [num_samples, K] (all of them in row 0), and [1 - p, p] of each row."""
        grey = image[..., 0]
        shown = design(num_samples, int(segments.max()) + 1, self.random_state)
        visible = np.pad(shown.astype(bool), ((0, 0), (0, 1)), constant_values=True)  # column -1: the padding
        chunk = max(32, CHUNK_BYTES // grey.size)
        scores = np.concatenate(
            [
                self.predict(np.where(visible[start : start + chunk][:, segments], grey, self.hidden))
                for start in range(0, num_samples, chunk)
            ]
        )
        return shown, np.stack([1 - scores, scores], axis=1)


def pixels_of(content: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge of a region inside a picture [H, W], whole px."""
    left, top = max(0, round(content[0])), max(0, round(content[1]))
    return left, top, min(shape[1], round(content[2])), min(shape[0], round(content[3]))
