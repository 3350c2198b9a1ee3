from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.datasets import phantoms
from radtransfer.preprocess import fingerprint, grouping


def drawn(case: int, view: int = 0, part: str = "hand") -> np.ndarray:
    return phantoms.draw(part, False, 0.3, 256, anatomy_seed=(5, case), view_seed=(5, case, view))[0]


def pairs(
    images: list[np.ndarray],
    files: list[str],
    limits: grouping.Limits = grouping.RADIOGRAPHS,
    series: list[str] | None = None,
) -> set[tuple[int, int]]:
    small = [fingerprint.thumbnail(image) for image in images]
    descriptors = np.array([fingerprint.descriptor(image) for image in small])
    return set(grouping.near_duplicates(descriptors, files, small, limits, series))


def far(count: int) -> list[str]:
    """File names whose numbers lie far apart."""
    return [f"x/IMG{1000 * i:06d}.png" for i in range(count)]


def altered(image: np.ndarray) -> dict[str, np.ndarray]:
    high, wide = image.shape
    marked = image.copy()
    marked[high // 12 : high // 6, wide // 12 : wide // 5] = 255
    cut = image.copy()
    cut[int(high * 0.91) :] = 0
    noisy = image + np.random.default_rng(0).normal(0, 4, image.shape)
    return {
        "marker": marked,
        "cut": cut,
        "brighter": (255 * (image / 255) ** 0.6).astype(np.uint8),
        "darker": (0.5 * image + 20).astype(np.uint8),
        "noise": np.clip(noisy, 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("part", phantoms.PARTS)
def test_altered_copies_are_found_whatever_their_number(part: str) -> None:
    image = drawn(0, part=part)
    for name, copy in altered(image).items():
        assert pairs([image, drawn(1, part=part), copy], far(3)) == {(0, 2)}, name


def test_other_patients_are_not_joined() -> None:
    images = [drawn(case, part=part) for part in phantoms.PARTS for case in range(15)]
    found = pairs(images, far(len(images)))
    assert len(found) <= 2, found  # of 1770 pairs


def test_a_turned_copy_is_found_among_neighbouring_numbers_only() -> None:
    image = drawn(0)
    turned = np.ascontiguousarray(np.rot90(image)[:, ::-1])
    images = [image, drawn(1), turned]
    assert (0, 2) in pairs(images, ["a/IMG0001.png", "a/IMG0900.png", "b/IMG0003.png"])
    assert (0, 2) not in pairs(images, far(3))


def test_slices_join_more_readily() -> None:
    image = drawn(0).astype(float)
    other = drawn(1).astype(float)
    high, wide = (min(a, b) for a, b in zip(image.shape, other.shape, strict=True))
    blend = (0.65 * image[:high, :wide] + 0.35 * other[:high, :wide]).astype(np.uint8)
    assert pairs([image.astype(np.uint8)[:high, :wide], blend], far(2), grouping.SLICES) == {(0, 1)}


def test_less_alike_images_must_agree_more() -> None:
    limits = grouping.Limits(agreement=((0.6, 0.4), (0.5, 0.7)), numbered=0.5)
    assert [limits.least_agreement(value) for value in (0.9, 0.61, 0.6, 0.51)] == [0.4, 0.4, 0.7, 0.7]
    assert limits.likeness == 0.5 and grouping.SLICES.least_agreement(0.51) is None


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_groups_are_connected_components(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    index = st.integers(0, count - 1)
    joined = data.draw(st.lists(st.tuples(index, index), max_size=10))
    keys = data.draw(st.lists(st.lists(st.sampled_from("abcdef"), max_size=2), min_size=count, max_size=count))
    got = grouping.groups(count, joined, keys)
    together = np.eye(count, dtype=bool)
    for i, j in joined:
        together[i, j] = together[j, i] = True
    for i, j in itertools.product(range(count), repeat=2):
        together[i, j] |= bool(set(keys[i]) & set(keys[j]))
    for _ in range(count):
        together = together @ together
    np.testing.assert_array_equal(got[:, None] == got[None], together)
    assert sorted(set(got.tolist())) == list(range(len(set(got.tolist()))))


def test_file_numbers_say_something_within_one_series_alone() -> None:
    images, files = [drawn(0), np.rot90(drawn(0)).copy()], ["a/IMG0001.png", "b/IMG0002.png"]
    assert pairs(images, files) == pairs(images, files, series=["one", "one"]) == {(0, 1)}
    assert pairs(images, files, series=["one", "another"]) == pairs(images, files, series=["", ""]) == set()


def test_numbers_compare_a_bounded_number_of_pairs() -> None:
    files = [f"patient{i}/image1.png" for i in range(500)]
    assert len(list(grouping._numbered(files, ["set"] * len(files)))) <= 3 * len(files)


def test_pixel_digest_knows_the_shape() -> None:
    flat = np.arange(12, dtype=np.uint8)
    assert fingerprint.pixel_digest(flat.reshape(3, 4)) != fingerprint.pixel_digest(flat.reshape(4, 3))
    assert fingerprint.pixel_digest(flat.reshape(3, 4)) == fingerprint.pixel_digest(flat.reshape(3, 4).copy())
