from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.robustness.lesions import hidden, moved, transferred

SIZE = 64
REGION = (8.0, 0.0, 56.0, 64.0)
noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE)).astype(np.uint8)


@st.composite
def boxes(draw: st.DrawFn) -> list[tuple[float, float, float, float]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        left, top = draw(st.floats(8, 50)), draw(st.floats(0, 58))
        found.append((left, top, draw(st.floats(left + 1, 56)), draw(st.floats(top + 1, 64))))
    return found


@given(boxes())
def test_what_is_hidden_is_the_box_and_its_margin(places: list[tuple[float, float, float, float]]) -> None:
    changed = hidden(noise, places) != noise
    ys, xs = np.nonzero(changed)
    inside = np.zeros(len(xs), bool)
    for x0, y0, x1, y1 in places:
        across, down = max(2, 0.1 * (x1 - x0)), max(2, 0.1 * (y1 - y0))
        inside |= (xs > x0 - across - 1) & (xs < x1 + across) & (ys > y0 - down - 1) & (ys < y1 + down)
        core = changed[int(np.ceil(y0)) : int(y1), int(np.ceil(x0)) : int(x1)]
        assert core.size == 0 or core.mean() > 0.5 or core.size < 20
    assert inside.all()


def test_a_bright_spot_is_gone() -> None:
    image = np.full((SIZE, SIZE), 60, np.uint8)
    image[30:38, 20:28] = 240
    np.testing.assert_allclose(hidden(image, [(20, 30, 28, 38)]), 60, atol=2)


@given(boxes(), st.integers(0, 1000))
def test_boxes_move_within_the_region_and_keep_their_sizes(
    places: list[tuple[float, float, float, float]], seed: int
) -> None:
    found = moved(places, REGION, np.random.default_rng(seed))
    assert found == moved(places, REGION, np.random.default_rng(seed))
    for (x0, y0, x1, y1), (left, top, right, bottom) in zip(places, found, strict=True):
        assert (right - left, bottom - top) == pytest.approx((x1 - x0, y1 - y0))
        assert left >= REGION[0] and top >= REGION[1] and right <= REGION[2] + 1e-9 and bottom <= REGION[3] + 1e-9


def test_small_boxes_move_off_the_lesions() -> None:
    lesions = [(20.0, 30.0, 28.0, 38.0), (40.0, 10.0, 46.0, 20.0)]
    for seed in range(50):
        for left, top, right, bottom in moved(lesions, REGION, np.random.default_rng(seed)):
            assert all(right <= x0 or left >= x1 or bottom <= y0 or top >= y1 for x0, y0, x1, y1 in lesions)


@given(boxes())
def test_boxes_keep_their_place_in_the_image(places: list[tuple[float, float, float, float]]) -> None:
    other = (0.0, 16.0, 64.0, 48.0)
    there = transferred(places, REGION, other)
    assert all(0 <= x0 < x1 <= 64 + 1e-9 and 16 - 1e-9 <= y0 < y1 <= 48 + 1e-9 for x0, y0, x1, y1 in there)
    np.testing.assert_allclose(transferred(there, other, REGION), places, atol=1e-9)
