from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from radtransfer.explain import draw

# Machado, Oliveira, Fernandes, IEEE TVCG 15 (2009): what linear RGB becomes without one kind of cone.
SIGHT = {
    "full": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "protanopia": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
    "deuteranopia": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881),
    "tritanopia": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900),
}
GREY = np.full((40, 60), 120, np.uint8)


def test_no_heat_leaves_the_image_and_heat_colours_it() -> None:
    heat = np.zeros((40, 60), np.float32)
    heat[:, 30:] = 1.0
    picture = draw.heat_overlay(GREY, heat)
    assert (picture[:, :30] == 120).all()
    expected = [0.2 * 120 + 0.8 * channel for channel in draw.FOR]
    np.testing.assert_allclose(picture[0, 45], expected, atol=0.6)


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
    assert picture.shape == (200, 300, 3)
    edge = {tuple(colour) for colour in picture[50, 50:150].tolist()}
    assert edge == {draw.BOX, (0, 0, 0)}
    assert (picture[65:85, 65:135] == 120).all() and (picture[:40] == 120).all()
    assert draw.legible(np.zeros((256, 60, 3), np.uint8)).shape == (256, 60, 3)
    assert draw.legible(np.zeros((64, 1, 3), np.uint8)).shape == (256, 4, 3)
    draw.save(tmp_path / "x.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)


def seen(colours: np.ndarray, sight: str) -> np.ndarray:
    """CIELAB [N, 3] of uint8 colours [N, 3], as one sees them."""
    given = colours / 255
    linear = (
        np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4) @ np.reshape(SIGHT[sight], (3, 3)).T
    )
    linear = linear.clip(0, 1)
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(shown[None])[0])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("grey", [10, 40, 80, 128, 165, 205, 245])
def test_a_quarter_of_the_scale_is_told_apart_with_any_colour_vision(grey: int, sight: str) -> None:
    """By at least 8 units of CIELAB, three to four times what is just seen, from every other."""
    quarters = draw.heat_overlay(np.full((1, 5), grey, np.uint8), np.linspace(0, 1, 5, dtype=np.float32)[None])[0]
    found = seen(quarters.astype(float), sight)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    assert apart[~np.eye(5, dtype=bool)].min() > 8
    way = seen(np.array([draw.FOR, draw.AGAINST, (grey, grey, grey)], float), sight)
    assert min(np.linalg.norm(way[0] - way[1]), np.linalg.norm(way[0] - way[2]), np.linalg.norm(way[1] - way[2])) > 8


def test_the_colour_bar_is_what_the_overlay_paints_on_grey() -> None:
    bar = draw.heat_scale(3)
    overlay = draw.heat_overlay(np.full((1, 1), 128, np.uint8), np.full((1, 1), 0.5, np.float32))
    assert bar[0] == "#808080" and bar[1] == "#" + bytes(overlay[0, 0].tolist()).hex() and len(draw.heat_scale()) == 17
    assert draw.lime_colours() == {"for": "#e69f00", "against": "#0072b2"}
