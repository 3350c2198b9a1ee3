from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from radtransfer.errors import RadtransferError
from radtransfer.explain.superpixels import Lime, Steadiness, averaged, blurred, design, lime, segment, steadiness

WHOLE = (0.0, 0.0, 96.0, 96.0)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (96, 96), dtype=np.uint8)


def detail_in(rows: slice, columns: slice) -> object:
    """A predictor that sees the detail (contrast) inside a region and nothing else."""

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        part = images[:, rows, columns].astype(float)
        return 1 / (1 + np.exp(-(part.std(axis=(1, 2)) - 50) / 10))

    return predict


@pytest.mark.parametrize("rows", [slice(0, 48), slice(48, 96)])
@pytest.mark.parametrize("columns", [slice(0, 48), slice(48, 96)])
def test_weight_lies_where_the_predictor_looks(image: NDArray[np.uint8], rows: slice, columns: slice) -> None:
    found = lime(detail_in(rows, columns), image, WHOLE, samples=300, seed=0)  # type: ignore[arg-type]
    shown = np.maximum(found.map, 0)
    assert shown[rows, columns].sum() / shown.sum() > 0.75
    inside = np.zeros((96, 96), bool)
    inside[rows, columns] = True
    blind = [k for k in range(len(found.weights)) if not inside[found.segments == k].any()]
    assert len(blind) > 10
    assert np.abs(found.weights[blind]).max() < 0.2 * found.weights.max()
    assert found.fidelity > 0.8


def test_a_constant_predictor_gets_no_weight(image: NDArray[np.uint8]) -> None:
    found = lime(lambda images: np.full(len(images), 0.7), image, WHOLE, samples=50, seed=0)
    assert np.abs(found.weights).max() < 1e-9


def test_same_image_and_seed_same_explanation(image: NDArray[np.uint8]) -> None:
    predict = detail_in(slice(0, 48), slice(0, 96))
    first, again, other = (
        lime(predict, image, WHOLE, samples=64, seed=seed)  # type: ignore[arg-type]
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.segments, again.segments)
    np.testing.assert_array_equal(first.weights, again.weights)
    np.testing.assert_array_equal(first.segments, other.segments)
    assert not np.array_equal(first.weights, other.weights)


def test_padding_is_no_superpixel_and_is_never_changed(image: NDArray[np.uint8]) -> None:
    image[:, :24] = image[:, 72:] = 0
    region = (24.0, 0.0, 72.0, 96.0)
    seen: list[NDArray[np.uint8]] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(images)
        return images.mean(axis=(1, 2)) / 255

    found = lime(predict, image, region, samples=40, seed=0)
    perturbed = np.concatenate(seen)
    assert perturbed.shape == (40, 96, 96) and perturbed.dtype == np.uint8  # one prediction a sample, none besides
    np.testing.assert_array_equal(perturbed[0], image)
    assert (found.segments[:, :24] == -1).all() and (found.segments[:, 72:] == -1).all()
    assert set(np.unique(found.segments[:, 24:72])) == set(range(len(found.weights)))
    assert (perturbed[:, :, :24] == 0).all() and (perturbed[:, :, 72:] == 0).all()
    assert (found.map[:, :24] == 0).all()
    hidden = averaged(image, found.segments)
    for shown in perturbed[1:]:  # every superpixel is either the image or its mean, as a whole
        for k in range(len(found.weights)):
            own = found.segments == k
            assert np.array_equal(shown[own], image[own]) or np.array_equal(shown[own], hidden[own])


def test_big_images_are_predicted_in_chunks(monkeypatch: pytest.MonkeyPatch, image: NDArray[np.uint8]) -> None:
    monkeypatch.setattr("radtransfer.explain.superpixels.CHUNK_BYTES", 0)
    sizes: list[int] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        sizes.append(len(images))
        return images.mean(axis=(1, 2)) / 255

    chunked = lime(predict, image, WHOLE, samples=80, seed=0)
    assert sizes == [32, 32, 16]
    monkeypatch.undo()
    np.testing.assert_array_equal(chunked.weights, lime(predict, image, WHOLE, samples=80, seed=0).weights)


def test_a_hidden_superpixel_shows_its_mean_and_padding_itself() -> None:
    image = np.array([[10, 20, 30], [40, 51, 60]], np.uint8)
    segments = np.array([[0, 0, 1], [-1, 0, 1]])
    np.testing.assert_array_equal(averaged(image, segments), [[27, 27, 45], [40, 27, 45]])


def test_blur_keeps_brightness_and_does_not_bleed_in_padding() -> None:
    image = np.zeros((96, 96), np.uint8)
    image[:, 24:72] = 200
    assert (blurred(image, (24, 0, 72, 96)) == image).all()


def test_superpixels_follow_edges() -> None:
    image = np.full((96, 96), 30, np.uint8)
    image[20:70, 33:61] = 200
    segments = segment(image, WHOLE)
    bright = [(image[segments == k] > 100).mean() for k in range(segments.max() + 1)]
    assert 20 <= len(bright) <= 80
    assert np.mean([0.1 < share < 0.9 for share in bright]) < 0.1


def test_a_region_without_pixels_is_an_error(image: NDArray[np.uint8]) -> None:
    with pytest.raises(RadtransferError, match="covers no pixel"):
        segment(image, (10, 10, 10, 90))


def weighing(*weights: float) -> Lime:
    return Lime(np.zeros((1, 1), np.int64), np.array(weights), 1.0)


def test_two_explanations_are_held_against_each_other() -> None:
    one = weighing(0.9, -0.8, 0.7, -0.6, 0.5, 0.1, 0.0)
    assert steadiness(one, one) == Steadiness(pytest.approx(1.0), 1.0)
    swapped = weighing(0.9, -0.8, 0.7, 0.0, 0.1, 0.5, -0.6)  # 3 and 6, 4 and 5 changed places
    # Ranks 7 1 6 2 5 4 3 and 7 1 6 3 4 5 2: 1 - 6 (1 + 1 + 1 + 1) / (7 * 48); 0, 1, 2 of the five are the same.
    assert steadiness(one, swapped) == Steadiness(pytest.approx(1 - 24 / 336), 3 / 5)
    assert steadiness(weighing(1, 2, 3), weighing(3, 2, 1)) == Steadiness(pytest.approx(-1.0), None)
    assert steadiness(one, weighing(*[0.0] * 7)) == Steadiness(None, None)
    assert steadiness(one, weighing(*[0.4] * 7)) == Steadiness(None, 1.0)
    assert steadiness(weighing(0.3), weighing(0.3)) == Steadiness(None, None)


def test_an_image_of_one_superpixel_or_one_grey_has_an_explanation() -> None:
    image = np.zeros((64, 64), np.uint8)
    image[30, 30] = 200
    region = (30.0, 30.0, 31.0, 31.0)
    seen: list[NDArray[np.uint8]] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(images)
        return np.linspace(0.3, 0.8, len(images))

    found = lime(predict, image, region, samples=40, seed=0)
    assert found.weights.shape == (1,) and np.isfinite([*found.weights, found.fidelity]).all()
    assert (found.segments == 0).sum() == 1
    assert (np.concatenate(seen)[:, 30, 30] == 200).all()  # one pixel is its own mean
    constant = np.full((64, 64), 90, np.uint8)
    found = lime(lambda images: images.mean(axis=(1, 2)) / 255, constant, (0, 0, 64, 64), samples=40, seed=0)
    assert np.abs(found.weights).max() < 1e-9 and np.isfinite(found.fidelity)


@pytest.mark.parametrize(("superpixels", "order"), [(1, 2), (3, 4), (4, 8), (41, 64), (63, 64), (64, 128)])
def test_a_round_shows_every_superpixel_and_every_pair_equally_often(superpixels: int, order: int) -> None:
    shown = design(1 + 4 * order, superpixels, np.random.RandomState(2))
    assert shown[0].all() and set(np.unique(shown)) == {0, 1}
    for rows in (shown[1 : 1 + 2 * order], shown[1 + 2 * order :]):
        np.testing.assert_array_equal(rows[::2], 1 - rows[1::2])
        together = rows.T @ rows
        assert (np.diag(together) == order).all(), "each in half of the rows"
        assert (together[~np.eye(superpixels, dtype=bool)] == order / 2).all(), "each pair in a quarter of them"
    if superpixels > 1:
        assert not np.array_equal(shown[1 : 1 + 2 * order], shown[1 + 2 * order :]), "rounds are drawn anew"
    np.testing.assert_array_equal(shown[:order], design(order, superpixels, np.random.RandomState(2)))
    assert not np.array_equal(shown, design(1 + 4 * order, superpixels, np.random.RandomState(3))) or superpixels == 1


def test_what_superpixels_do_only_together_moves_their_weights_little(image: NDArray[np.uint8]) -> None:
    """A score of known shares of every superpixel and of every pair, of which the pairs make the most.

    The mean correlation of the weights with the shares is .84 over twelve seeds; with independent draws it was .40.
    """
    segments = segment(image, WHOLE)
    hidden = averaged(image, segments)
    count = int(segments.max()) + 1
    told = [np.argwhere((segments == k) & (image != hidden))[0] for k in range(count)]  # a pixel that tells it is shown
    rows, columns = np.transpose(told)
    own = np.linspace(-0.1, 0.1, count)
    pairs = np.triu(np.random.default_rng(1).normal(0, 0.02, (count, count)), 1)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        signs = np.where(images[:, rows, columns] == image[rows, columns], 1.0, -1.0)
        return 0.5 + signs @ own / 2 + np.einsum("ni,ij,nj->n", signs, pairs, signs)

    found = [lime(predict, image, WHOLE, samples=129, seed=seed).weights for seed in range(6)]
    assert np.mean([np.corrcoef(weights, own)[0, 1] for weights in found]) > 0.7
