from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from radtransfer.datasets import phantoms
from radtransfer.errors import RadtransferError
from radtransfer.robustness.corruptions import APPLIED, Bits, Region, corrupted
from radtransfer.robustness.kinds import GRADES, KINDS, graded, read_kinds

SIZE = 64
REGION = (8, 0, 56, 64)
LIMITS = {
    "noise": 0, "blur": 0, "contrast": 1, "gamma": 1, "rotation": 0, "crop": 1, "resolution": 1, "marker": 0,
    "occlusion": 0,
}  # fmt: skip
"""Strength at which a kind leaves the image as it is; JPEG has none."""
DIGESTS = {
    "noise": "569d367e6ccbe839",
    "blur": "9a1dce4b6c7e863c",
    "contrast": "dfeb88d89579d833",
    "gamma": "47d27220254f5acd",
    "jpeg": "7ecee71f1c3044e8",
    "rotation": "45bce032a46f6def",
    "crop": "77340d96e648ee90",
    "resolution": "d183086d45a96055",
    "marker": "aabc691a006dfb74",
    "occlusion": "49b3b34c6f0b7048",
}
"""sha256 of all grades of two images, in their order."""
images = arrays(np.uint8, (SIZE, SIZE))


@st.composite
def regions(draw: st.DrawFn) -> Region:
    x0, y0 = draw(st.integers(0, SIZE - 2)), draw(st.integers(0, SIZE - 2))
    return x0, y0, draw(st.integers(x0 + 1, SIZE)), draw(st.integers(y0 + 1, SIZE))


def pattern(number: int) -> np.ndarray:
    """A picture made of whole numbers alone: stripes, blocks and a ramp, black beside the region."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    levels = (x * (3 + number) + y * y // 16 + 40 * ((x // 8 + y // 12) % 3) + 60 * ((x * y) % 7 == 0)) % 256
    return np.where((x >= REGION[0]) & (x < REGION[2]), levels, 0).astype(np.uint8)


def bits(count: int) -> np.ndarray:
    return np.random.PCG64(1).random_raw(count)


def digest(kind: str) -> str:
    found = hashlib.sha256()
    for number in range(2):
        for grade in range(1, GRADES + 1):
            found.update(corrupted(pattern(number), REGION, kind, grade, seed=0, name=f"{number}").tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_every_machine(kind: str) -> None:
    assert digest(kind) == DIGESTS[kind]


@given(images, regions(), st.sampled_from(list(KINDS)), st.integers(1, GRADES), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_only_the_region_changes_and_the_original_does_not(
    image: np.ndarray, region: Region, kind: str, grade: int, seed: int
) -> None:
    before = image.copy()
    changed = corrupted(image, region, kind, grade, seed=seed, name="a")
    np.testing.assert_array_equal(image, before)
    assert changed.shape == image.shape and changed.dtype == np.uint8
    outside = np.ones(image.shape, bool)
    outside[region[1] : region[3], region[0] : region[2]] = False
    np.testing.assert_array_equal(changed[outside], before[outside])
    np.testing.assert_array_equal(changed, corrupted(image, region, kind, grade, seed=seed, name="a"))


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.sampled_from(list(LIMITS)))
@settings(max_examples=200, deadline=None)
def test_without_strength_nothing_changes(pixels: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(APPLIED[kind](pixels, LIMITS[kind], bits), pixels)


@given(st.integers(0, 255), st.sampled_from(["blur", "contrast", "crop", "resolution", "occlusion"]))
@settings(max_examples=100, deadline=None)
def test_an_even_image_stays_even(level: int, kind: str) -> None:
    even = np.full((24, 40), level, np.uint8)
    np.testing.assert_array_equal(APPLIED[kind](even, KINDS[kind].grades[-1], bits), even)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_grade_takes_more_away(kind: str) -> None:
    """The mean distance to the originals grows from grade to grade, of synthetic radiographs; deterministic."""
    distances = np.zeros(GRADES)
    for case in range(6):
        image = phantoms.draw("hand", False, 0.2, 128, anatomy_seed=(1, case), view_seed=(1, case, 0))[0]
        square = np.zeros((128, 128), np.uint8)
        square[: image.shape[0], : image.shape[1]] = image[:128, :128]
        region = (0, 0, min(128, image.shape[1]), min(128, image.shape[0]))
        for grade in range(1, GRADES + 1):
            changed = corrupted(square, region, kind, grade, seed=0, name=str(case))
            distances[grade - 1] += np.abs(changed.astype(int) - square).mean()
    assert distances[0] > 0 and (np.diff(distances) > 0).all()


@pytest.mark.parametrize("kind", ["noise", "gamma", "rotation", "crop", "marker", "occlusion"])
def test_chance_differs_by_seed_image_and_not_by_grade(kind: str) -> None:
    """Of sixteen images some differ from each of the others' draws; halves would all agree in one of 65,536 cases."""
    image = pattern(0)
    drawn = {
        (seed, name): corrupted(image, REGION, kind, 3, seed=seed, name=str(name)).tobytes()
        for seed in range(2)
        for name in range(16)
    }
    for seed in range(2):
        assert len({drawn[seed, name] for name in range(16)}) > 1
    assert [drawn[0, name] for name in range(16)] != [drawn[1, name] for name in range(16)]


def test_noise_is_as_wide_as_it_says() -> None:
    """70,000 draws: the error of the deviation is 0.3 % (one standard error); deterministic."""
    grey = np.full((264, 264), 128, np.uint8)
    for share in KINDS["noise"].grades[:3]:
        added = APPLIED["noise"](grey, share, bits).astype(float) - 128
        assert added.std() == pytest.approx(share * 255, rel=0.02)
        assert abs(added.mean()) < 0.05 * share * 255


def test_rotation_is_that_of_pillow() -> None:
    """To a grey level but on the edge of what comes in from outside, where the last bit of a place decides."""
    for degrees, shape in ((7, (70, 50)), (30, (51, 64)), (90, (40, 40))):
        pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        wanted = np.array(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR)).astype(int)
        off = min((np.abs(APPLIED["rotation"](pixels, sign * degrees, bits) - wanted) > 1).mean() for sign in (1, -1))
        assert off < 0.005


def test_blur_is_the_gaussian() -> None:
    """A white point becomes the Gaussian of that width, to a grey level."""
    point = np.zeros((224, 224), np.uint8)
    point[100:110, 100:110] = 255
    x = np.arange(224)
    line = sum(np.exp(-((x - at) ** 2) / (2 * 3**2)) for at in range(100, 110)) / (3 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(APPLIED["blur"](point, 3, bits), 255 * np.outer(line, line), atol=2)


@pytest.mark.parametrize("kind", ["blur", "jpeg", "crop"])
def test_no_vector_code_changes_a_byte(kind: str) -> None:
    """The same digest where the libraries are told to leave the processor's vector units alone."""
    program = f"from tests.robustness.test_corruptions import digest; print(digest({kind!r}))"
    plain = {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1", "OPENCV_IPP": "disabled"}
    plain |= {"JSIMD_FORCENONE": "1"}
    told = subprocess.run([sys.executable, "-c", program], env=os.environ | plain, check=True, capture_output=True)
    assert told.stdout.decode().strip() == DIGESTS[kind]


def test_half_of_the_images_turn_to_the_left_and_half_to_the_right() -> None:
    point = np.zeros((65, 65), np.uint8)
    point[4:9, 30:35] = 255

    def to(side: int) -> Bits:
        return lambda count: np.full(count, side * (2**64 - 1), dtype=np.uint64)

    left, right = (APPLIED["rotation"](point, 30, to(side)) for side in (1, 0))
    assert left[:, :32].sum() > 100 * left[:, 33:].sum() and right[:, 33:].sum() > 100 * right[:, :32].sum()


@given(st.sampled_from([2.0, 3.0]), st.booleans())
def test_gamma_keeps_the_order_and_the_ends(exponent: float, up: bool) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    changed = APPLIED["gamma"](ramp, exponent, lambda count: np.full(count, up * (2**64 - 1), dtype=np.uint64)).ravel()
    assert changed[0] == 0 and changed[-1] == 255 and (np.diff(changed.astype(int)) >= 0).all()
    assert changed[128] == round(255 * (128 / 255) ** (exponent if up else 1 / exponent))


def test_a_marker_is_a_letter_and_occlusion_a_rectangle_of_the_stated_size() -> None:
    grey = np.tile(np.arange(60, 188, dtype=np.uint8), (128, 1))
    for grade, share in enumerate(KINDS["occlusion"].grades, start=1):
        changed = corrupted(grey, (0, 0, 128, 128), "occlusion", grade, seed=0, name="a") != grey
        side = round(share * 128)
        ys, xs = np.nonzero(changed)
        assert np.ptp(ys) + 1 == side and side - 1 <= np.ptp(xs) + 1 <= side  # a column may have the mean by itself
        marked = corrupted(grey, (0, 0, 128, 128), "marker", grade, seed=0, name="a")
        ys, xs = np.nonzero(marked == 255)
        height = math.ceil(KINDS["marker"].grades[grade - 1] * 128)
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (height, round(height * 5 / 7))


def test_kinds_are_read_in_the_order_of_the_table_and_unknown_ones_are_named() -> None:
    assert set(APPLIED) == set(KINDS) and all(len(kind.grades) == GRADES for kind in KINDS.values())
    assert read_kinds(["jpeg", "blur"]) == ["blur", "jpeg"] and read_kinds([]) == []
    assert graded("blur", 3) == "blur-3"
    with pytest.raises(RadtransferError, match="unknown corruption 'blurr'; did you mean blur"):
        read_kinds(["noise", "blurr"])
