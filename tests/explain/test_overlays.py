from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from radtransfer.explain import draw

GREY = np.full((40, 60), 120, np.uint8)


def test_no_heat_leaves_the_image_and_heat_colours_it() -> None:
    heat = np.zeros((40, 60), np.float32)
    heat[:, 30:] = 1.0
    picture = draw.heat_overlay(GREY, heat)
    assert (picture[:, :30] == 120).all()
    red, green, blue = picture[0, 45].astype(int)
    assert red > blue + 60 and green > blue + 60  # strong is yellow


def test_for_is_orange_against_is_blue_and_the_rest_stays() -> None:
    segments = np.repeat(np.arange(6), 10)[None, :].repeat(40, axis=0)
    weights = np.array([0.5, -0.5, 0.001, 0.0, 0.3, 0.0])
    picture = draw.lime_overlay(GREY, segments, weights).astype(int)
    assert picture[20, 5, 0] > picture[20, 5, 2] + 40
    assert picture[20, 15, 2] > picture[20, 15, 0] + 40
    assert (picture[:, 20:40] == 120).all() and (picture[:, 50:] == 120).all()
    assert tuple(picture[20, 9]) == draw.FOR  # superpixel 0 is outlined like any other
    assert abs(picture[20, 5] - 120).sum() > abs(picture[20, 45] - 120).sum()


def test_padding_and_weightless_explanations_draw_nothing() -> None:
    segments = np.full((40, 60), -1)
    segments[:, :20] = 0
    assert (draw.lime_overlay(GREY, segments, np.array([0.4]))[:, 20:] == 120).all()
    assert (draw.lime_overlay(GREY, segments, np.zeros(1)) == 120).all()


def test_pictures_are_legible_and_boxes_dashed_where_they_are(tmp_path: Path) -> None:
    picture = draw.plain(GREY, [[10, 10, 30, 20]])
    assert picture.shape == (280, 420, 3)
    edge = {tuple(colour) for colour in picture[70, 70:210].tolist()}
    assert edge == {draw.BOX, (0, 0, 0)}
    assert (picture[90:130, 90:190] == 120).all() and (picture[:60] == 120).all()
    assert draw.legible(np.zeros((300, 256, 3), np.uint8)).shape == (300, 256, 3)
    draw.save(tmp_path / "x.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
