"""Deletion and insertion: areas that can be worked out by hand, and what must hold of any map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from radtransfer.explain.faithfulness import TILES, areas, ranks, tiles

WHOLE = (0.0, 0.0, 10.0, 10.0)
IMAGE = np.zeros((10, 10), np.uint8)
IMAGE[4] = 200  # a tenth of the pixels
HIDDEN = np.zeros_like(IMAGE)


def visible(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probability: the share of the ten bright pixels that can be seen."""
    return (images == 200).sum(axis=(1, 2)) / 10


def measured(*maps: NDArray[np.float32]) -> NDArray[np.float64]:
    tiled = tiles(10, WHOLE)
    return areas(visible, IMAGE[None], HIDDEN[None], np.array([[ranks(heat, tiled, 0) for heat in maps]]))[0]


def test_areas_by_hand() -> None:
    """The probability falls from 1 to 0, or rises from 0 to 1, within one step, the first or the last of ten."""
    perfect = IMAGE.astype(np.float32)
    half = np.zeros((10, 10), np.float32)
    half[4, :5], half[0, :5] = 2, 1  # half of the bright pixels and as many dark ones, then the rest at random
    found = measured(perfect, -perfect, half)
    np.testing.assert_allclose(found[0], [0.05, 0.95])
    np.testing.assert_allclose(found[1], [0.95, 0.05])
    assert 0.05 + 0.25 - 1e-9 < found[2, 0] < 0.5 < found[2, 1] < 0.95


def test_perfect_beats_random_beats_inverted() -> None:
    perfect = IMAGE.astype(np.float32)
    gains = np.diff(measured(perfect, np.zeros_like(perfect), -perfect), axis=1).ravel()
    assert gains[0] > gains[1] + 0.2 and gains[1] > gains[2] + 0.2


def test_a_random_order_gains_nothing_on_average() -> None:
    """200 orders, seeds 0 to 199: the mean lies within 4 standard errors of 0, beyond which 1 in 10 000 would be."""
    tiled, flat = tiles(10, WHOLE), np.zeros((10, 10), np.float32)
    orders = np.array([[ranks(flat, tiled, seed) for seed in range(200)]])
    gains = np.diff(areas(visible, IMAGE[None], HIDDEN[None], orders)[0], axis=1)
    assert gains.std() > 0.01 and abs(gains.mean()) < 4 * gains.std() / np.sqrt(200)


def test_an_image_that_hiding_does_not_change() -> None:
    black = np.zeros((1, 10, 10), np.uint8)
    order = ranks(np.zeros((10, 10), np.float32), tiles(10, WHOLE), 0)
    found = areas(lambda images: np.full(len(images), 0.3), black, black, order[None, None])
    np.testing.assert_allclose(found, 0.3)


def test_every_step_changes_a_tenth_and_padding_stays() -> None:
    size, content = 40, (10.0, 0.0, 30.0, 40.0)
    image, hidden = np.full((size, size), 100, np.uint8), np.full((size, size), 50, np.uint8)
    seen: list[NDArray[np.uint8]] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(images)
        return np.zeros(len(images))

    heat = np.random.default_rng(0).random((size, size), dtype=np.float32)
    areas(predict, image[None], hidden[None], ranks(heat, tiles(size, content), 0)[None, None])
    changed = np.concatenate(seen)
    assert (changed[:, :, :10] == 100).all() and (changed[:, :, 30:] == 100).all()
    shares = (changed[:, :, 10:30] == 50).mean(axis=(1, 2))
    np.testing.assert_allclose(shares, [0, 1, *np.arange(1, 10) / 10, *np.arange(9, 0, -1) / 10])
    first, last = changed[2][:, 10:30] == 50, changed[-9][:, 10:30] == 100
    np.testing.assert_array_equal(first, last)
    assert heat[:, 10:30][first].min() > heat[:, 10:30][~first].max()


def test_images_are_passed_together_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    images, hidden = rng.integers(0, 256, (2, 3, 20, 20), dtype=np.uint8)
    tiled = tiles(20, (0, 0, 20, 20))
    orders = np.array([[ranks(rng.random((20, 20), dtype=np.float32), tiled, 0) for _ in range(2)] for _ in images])
    sizes: list[int] = []

    def predict(changed: NDArray[np.uint8]) -> NDArray[np.float64]:
        sizes.append(len(changed))
        return changed.mean(axis=(1, 2)) / 255

    together = areas(predict, images, hidden, orders)
    monkeypatch.setattr("radtransfer.explain.faithfulness.CHUNK_BYTES", 0)
    np.testing.assert_array_equal(together, areas(predict, images, hidden, orders))
    assert sizes == [3 * 38, 38, 38, 38], "of two maps: the image, the hidden one, nine steps of each way"


@given(
    values=st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=12 * 12, max_size=12 * 12),
    left=st.integers(0, 11),
    top=st.integers(0, 11),
    seed=st.integers(0, 2**32),
)
def test_an_order_falls_and_holds_every_pixel_once(values: list[float], left: int, top: int, seed: int) -> None:
    heat, content = np.array(values, np.float32).reshape(12, 12), (left, top, 12, 12)
    tiled = tiles(12, content)
    order = ranks(heat, tiled, seed)
    inside = np.zeros((12, 12), bool)
    inside[top:, left:] = True
    assert (order[~inside] == -1).all() and (tiled[~inside] == -1).all()
    assert np.sort(order[inside]).tolist() == list(range(inside.sum()))
    assert (np.diff(heat[inside][np.argsort(order[inside])]) <= 0).all()
    np.testing.assert_array_equal(order, ranks(heat, tiled, seed))


def test_ties_go_tile_by_tile_in_an_order_that_the_seed_draws() -> None:
    tiled = tiles(70, (0, 0, 70, 70))
    assert np.bincount(tiled.ravel()).tolist() == [100] * TILES**2
    flat = np.full((70, 70), 0.5, np.float32)
    order = ranks(flat, tiled, 5)
    np.testing.assert_array_equal(order, ranks(0 * flat, tiled, 5))
    assert not np.array_equal(order, ranks(flat, tiled, 6))
    for tile in range(TILES**2):
        assert np.ptp(order[tiled == tile]) == 99, "a tile is hidden as a whole"
