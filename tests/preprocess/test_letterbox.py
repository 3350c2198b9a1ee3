"""Where an image lies in its square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.preprocess.letterbox import Letterbox, letterbox


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 96))
def test_letterbox_keeps_aspect_and_centres(width: int, height: int, size: int) -> None:
    square, box = letterbox(np.full((height, width), 200, dtype=np.uint8), size)
    assert square.shape == (size, size)
    wide, high = box.content
    assert max(wide, high) == size
    assert abs(wide / size - width / max(width, height)) <= 0.5 / size + 1 / size
    assert (square[box.top : box.top + high, box.left : box.left + wide] == 200).all()
    assert (square == 200).sum() == wide * high
    assert abs((size - wide) - 2 * box.left) <= 1 and abs((size - high) - 2 * box.top) <= 1
    assert box.restore(square).shape == (height, width)


@settings(max_examples=40, deadline=None)
@given(st.integers(60, 300), st.integers(60, 300), st.floats(0.1, 0.5), st.floats(0.1, 0.5))
def test_boxes_go_where_the_pixels_go(width: int, height: int, left: float, top: float) -> None:
    x0, y0 = int(left * width), int(top * height)
    x1, y1 = x0 + width // 3, y0 + height // 3
    picture = np.zeros((height, width), dtype=np.uint8)
    picture[y0:y1, x0:x1] = 255
    square, box = letterbox(picture, 128)
    rows, columns = np.nonzero(square > 127)
    stored = box.box(x0, y0, x1, y1)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(stored, found)).max() <= 1.01
    rows, columns = np.nonzero(box.restore(square) > 127)
    back = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(back, (x0, y0, x1, y1))).max() <= max(2.01, 2.5 / box.scale)


@settings(max_examples=40, deadline=None)
@given(*[st.integers(0, 60)] * 4, st.integers(80, 160), st.integers(80, 160), st.integers(0, 99))
def test_boxes_and_maps_find_their_way_past_a_border(
    left: int, top: int, right: int, bottom: int, width: int, height: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 60, (height, width)).astype(np.uint8)
    x0, y0 = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
    content[y0 : y0 + 40, x0 : x0 + 40] = 255
    picture = np.pad(content, ((top, bottom), (left, right)), constant_values=90)
    square, box = letterbox(picture, 128, crop_border=True)
    assert (box.x0, box.y0, box.x1, box.y1) == (left, top, left + width, top + height)
    assert (box.width, box.height) == (left + width + right, top + height + bottom)
    rows, columns = np.nonzero(square > 157)
    stored = box.box(left + x0, top + y0, left + x0 + 40, top + y0 + 40)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(stored, found)).max() <= 1.01
    everything = (box.left, box.top, *np.add((box.left, box.top), box.content))
    assert box.box(0, 0, box.width, box.height) == pytest.approx(everything)
    back = box.restore(np.maximum(square, 1))
    assert back.shape == picture.shape
    shown = np.pad(np.ones(content.shape, bool), ((top, bottom), (left, right)))
    np.testing.assert_array_equal(back > 0, shown)
    rows, columns = np.nonzero(back > 157)
    found = (columns.min() - left, rows.min() - top, columns.max() + 1 - left, rows.max() + 1 - top)
    assert np.abs(np.subtract(found, (x0, y0, x0 + 40, y0 + 40))).max() <= max(2.01, 2.5 / box.scale)


def test_a_box_in_what_is_cut_away_is_clipped() -> None:
    box = Letterbox.of(100, 50, 40, (20, 10, 100, 50))
    assert (box.left, box.top, box.scale, box.content, box.cropped) == (0, 10, 0.5, (40, 20), True)
    assert box.box(20, 10, 100, 50) == (0, 10, 40, 30)
    assert box.box(0, 0, 40, 20) == (0, 10, 10, 15)
    x0, y0, x1, y1 = box.box(0, 0, 20, 40)
    assert (x0, x1) == (0, 0) and y0 < y1


def test_restore_refuses_a_map_of_another_shape() -> None:
    with pytest.raises(ValueError, match="expected a map"):
        Letterbox.of(8, 8, 8, (0, 0, 8, 8)).restore(np.zeros((4, 4)))
