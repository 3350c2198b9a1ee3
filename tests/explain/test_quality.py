"""Explanations measured on a sample: what is drawn, what is measured of an image, what the table makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from radtransfer.explain import cases, quality
from radtransfer.preprocess.store import Store
from tests.explain.conftest import by_heads

MARKED = 6
"""Side of the marker in the corner, px."""


def filled(store: Store, images: NDArray[np.uint8], **columns: Any) -> Store:
    """The store with other images and columns."""
    manifest = store.manifest.copy()
    for name, value in columns.items():
        manifest[name] = pd.Series([value] * len(manifest), index=manifest.index)
    return replace(store, images=images, manifest=manifest)


@pytest.fixture
def marked(mini_run: Any) -> Store:
    """Noise without padding, the lesion in its place, and a bright marker in the upper left corner of every image."""
    store = Store.open(mini_run.store)
    images = np.random.default_rng(2).integers(20, 90, store.images.shape, dtype=np.uint8)
    images[:, 30:38, 20:28] = 240
    images[:, :MARKED, :MARKED] = 250
    return filled(store, images, width=64, height=64, shown=[0, 0, 64, 64])


def measure(store: Store, network: Any, count: int = 4, samples: int = 150) -> pd.DataFrame:
    rows = quality.sample(store, count, 0)
    found = quality.measured(store, rows, "imagenet", by_heads(network), samples=samples, seed=0)
    return pd.DataFrame(found.rows, columns=quality.COLUMNS).set_index("method")


def test_a_marker_that_decides_is_seen_on_the_border(marked: Store, region_network: Any) -> None:
    corner, centre = (region_network(rows, rows, gain=100.0) for rows in (slice(0, 1), slice(3, 5)))
    corner.mirror = centre.mirror = False
    reads_marker, reads_centre = measure(marked, corner), measure(marked, centre)
    chance = 1 - (58 / 64) ** 2  # of 64 px, the centres of three at either end lie in the outer twentieth (3.2 px)
    for method in ("gradcam", "lime"):
        assert reads_marker.loc[method, "border_chance"].tolist() == pytest.approx([chance] * 4)
        assert reads_marker.loc[method, "border"].min() > 2 * chance
        assert reads_centre.loc[method, "border"].max() < chance / 2
        assert reads_marker.loc[method, "gain"].min() > reads_marker.loc["random", "gain"].max()
        assert reads_marker.loc[method, "energy"].max() < 0.2
    assert reads_centre.loc["gradcam", "energy"].min() > 3 * 64 / 64**2
    assert reads_marker.loc["gradcam", "fidelity"].tolist() == [1] * 4
    assert reads_marker.loc["lime", "stability"].notna().all() and reads_marker.loc["lime", "fidelity"].min() > 0.5


def test_where_nothing_speaks_for_the_positive_class(marked: Store, region_network: Any) -> None:
    """The network is blind, its probability one half whatever it is shown; nor does it help if images are black."""
    blind = region_network(slice(0, 0), slice(0, 0))
    for store in (marked, filled(marked, np.zeros_like(marked.images))):
        found = measure(store, blind, samples=20)
        np.testing.assert_allclose(found[["deletion", "insertion"]], 0.5)
        np.testing.assert_allclose(found["gain"], 0, atol=1e-12)
        maps = found.loc[["gradcam", "lime"]]
        assert maps["empty"].all() and (maps[["energy", "pointing"]] == 0).all(axis=None)
        assert maps[["border", "agreement"]].isna().all(axis=None)
        assert found.loc["lime", ["stability", "overlap", "fidelity"]].isna().all(axis=None)


def test_an_image_of_few_pixels(marked: Store, region_network: Any) -> None:
    """A strip of 64 x 1 px has fewer tiles, and hardly any superpixels."""
    strip = filled(marked, np.asarray(marked.images), width=1280, height=20, shown=[0, 0, 1280, 20], boxes=[])
    found = measure(strip, region_network(slice(3, 5), slice(0, 8), gain=100.0), samples=20)
    assert found[["energy", "pointing", "chance"]].isna().all(axis=None)
    assert found["gain"].notna().all() and found.loc["gradcam", "border_chance"].tolist() == pytest.approx(
        [1 - 58 / 64**2] * 4
    )


def test_a_box_and_the_sources_are_compared_by_the_same_maps(marked: Store, region_network: Any) -> None:
    rows = quality.sample(marked, 3, 0)
    on, off = (region_network(where, slice(2, 4), gain=100.0) for where in (slice(3, 5), slice(0, 2)))
    of = {
        name: quality.measured(marked, rows, name, by_heads(network), samples=20, seed=0).coarse
        for name, network in (("imagenet", on), ("in_domain", on), ("scratch", off))
    }
    agreed = {(row["a"], row["b"]): row["agreement"] for row in quality.between(marked, rows, of)}
    assert set(agreed) == {("in_domain", "imagenet"), ("in_domain", "scratch"), ("imagenet", "scratch")}
    assert agreed["in_domain", "imagenet"] == pytest.approx(1) and agreed["imagenet", "scratch"] < 0.5


def test_the_sample_is_of_lesions_and_of_as_many_groups_as_can_be(mini_run: Any) -> None:
    store = Store.open(mini_run.store)
    positive = [row for row in store.rows("test") if store.manifest["label"].iloc[row] == 1]
    assert quality.sample(store, 99, 0).tolist() == positive and len(quality.sample(store, 0, 0)) == 0
    drawn = {tuple(quality.sample(store, 2, seed)) for seed in range(30)}
    assert len(drawn) > 5 and tuple(quality.sample(store, 2, 7)) in drawn
    store.manifest.loc[positive[:-1], "group_id"] = "one patient"
    assert all(positive[-1] in quality.sample(store, 2, seed) for seed in range(10))
    store.manifest.loc[positive[1:], "boxes"] = pd.Series([[]] * len(positive[1:]), index=positive[1:])
    assert quality.sample(store, 99, 0).tolist() == positive[:1], "who has boxes"
    assert quality.sample(filled(store, np.asarray(store.images), boxes=[]), 99, 0).tolist() == positive


def test_the_border_by_hand() -> None:
    """Of 100 x 100 px a frame of 5; of 60 x 100 px with 20 px of padding at each side, all but 54 x 90."""
    assert quality.border(100, (0, 0, 100, 100)).sum() == 100**2 - 90**2
    padded = quality.border(100, (20, 0, 80, 100))
    assert padded.sum() == 100**2 - 54 * 90 and padded[:, :23].all() and not padded[50, 23]


def test_agreement_by_hand() -> None:
    assert cases.rank_correlation(np.array([1, 2, 3]), np.array([0.1, 5, 7])) == pytest.approx(1)
    assert cases.rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    for flat in ([1.0], [1.0, 1.0]):
        assert np.isnan(cases.rank_correlation(np.array(flat), np.arange(len(flat))))


def frame(groups: NDArray[np.int_], **gains: float) -> pd.DataFrame:
    """Images of these sources, of which Grad-CAM gains so much, LIME half of it, a random order nothing."""
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 0.05, len(groups))
    return pd.DataFrame(
        [
            {
                "tl_source": source, "method": method, "image_id": str(n), "group_id": str(group), "score": 0.5,
                "gain": share * gain + shared[n] + rng.normal(0, 0.01), "border": 0.4, "border_chance": 0.2,
            }
            for source, gain in gains.items()
            for method, share in (("gradcam", 1), ("lime", 0.5), (quality.RANDOM, 0))
            for n, group in enumerate(groups)
        ],
        columns=quality.COLUMNS,
    )  # fmt: skip


NO_PAIRS = pd.DataFrame(columns=quality.BETWEEN)


def test_differences_are_shown_where_there_are_some() -> None:
    found = frame(np.arange(32) // 2, in_domain=0.2, imagenet=0.2)
    table = quality.table(found, NO_PAIRS, 0)
    assert [(row["tl_source"], row["method"], row["n"], row["groups"]) for row in table.rows] == [
        (source, method, 32, 16) for source in ("in_domain", "imagenet") for method in ("gradcam", "lime", "random")
    ]
    first = table.rows[0]
    assert first["gain"]["value"] == pytest.approx(found[:32]["gain"].mean())
    assert first["gain"]["low"] < first["gain"]["value"] < first["gain"]["high"]
    assert first["energy"] == {"value": None, "low": None, "high": None} and first["chance"] is None
    by = {(one["a"], one["b"]): one for one in table.comparisons}
    assert len(by) == 8 and {one["metric"] for one in table.comparisons} == {"gain"}, "no boxes, no energy"
    assert by["in_domain/gradcam", "imagenet/gradcam"]["adjusted_p"] > 0.05
    for pair in (("in_domain/gradcam", "in_domain/lime"), ("imagenet/lime", "imagenet/random")):
        assert by[pair]["difference"] == pytest.approx(0.1, abs=0.02)
        assert by[pair]["p_value"] < by[pair]["adjusted_p"] < 0.05 and by[pair]["family"] == quality.FAMILY


def test_few_groups_have_an_interval_and_one_has_none() -> None:
    few = quality.table(frame(np.arange(14), imagenet=0.2), NO_PAIRS, 0)
    assert few.rows[0]["gain"]["low"] is not None
    assert {one["adjusted_p"] for one in few.comparisons} == {None} and few.comparisons[0]["low"] is not None
    single = quality.table(frame(np.zeros(14, int), imagenet=0.2), NO_PAIRS, 0)
    assert single.rows[0]["gain"]["value"] is not None and single.rows[0]["gain"]["low"] is None
    assert {(one["low"], one["p_value"]) for one in single.comparisons} == {(None, None)}


def test_what_an_image_does_not_have_is_left_out() -> None:
    found = frame(np.arange(20), imagenet=0.2)
    found.loc[:9, "stability"] = np.arange(10) / 10
    found.loc[0, "border"] = np.nan
    row = quality.table(found, NO_PAIRS, 0).rows[0]
    assert row["stability"]["value"] == pytest.approx(0.45) and row["stability"]["low"] > 0.2
    assert row["border"] == {"value": 0.4, "low": 0.4, "high": 0.4}
