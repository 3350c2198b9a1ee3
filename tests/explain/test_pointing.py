"""Whether maps lie on lesions, over all images that have boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from radtransfer.explain import pointing
from radtransfer.preprocess.store import Store
from tests.explain.conftest import by_heads

RNG = np.random.default_rng(5)


def rows(source: str, energy: np.ndarray, groups: np.ndarray, empty: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "tl_source": source, "image_id": f"{place}.png", "group_id": str(group), "energy": float(value),
            "pointing": float(value > 0.5), "chance": 0.1, "empty": empty, "fidelity": 1.0,
            "survives": 0.1 * value,
        }
        for place, (value, group) in enumerate(zip(energy, groups, strict=True))
    ]  # fmt: skip


def test_what_is_better_is_shown_and_what_is_alike_is_not() -> None:
    base, groups = RNG.uniform(0.2, 0.6, 60), np.arange(60) // 2
    better, alike = base + RNG.uniform(0.1, 0.2, 60), base + RNG.normal(0, 0.05, 60)
    found = pd.DataFrame(
        rows("imagenet", base, groups) + rows("in_domain", better, groups) + rows("scratch", alike, groups)
    )
    table, comparisons = pointing.table(found, 0)
    assert [(row["n"], row["groups"], row["chance"], row["empty"]) for row in table] == [
        (60, 30, pytest.approx(0.1), 0)
    ] * 3
    assert table[0]["energy"]["value"] == pytest.approx(base.mean())
    assert table[0]["energy"]["low"] < base.mean() < table[0]["energy"]["high"]
    by = {(one["a"], one["b"], one["metric"]): one for one in comparisons}
    assert len(by) == 6 and {one["family"] for one in comparisons} == {pointing.FAMILY}
    gain = by["in_domain", "imagenet", "energy"]
    assert gain["difference"] == pytest.approx((better - base).mean()) and gain["low"] > 0
    assert gain["p_value"] < gain["adjusted_p"] < 0.05
    assert by["imagenet", "scratch", "energy"]["adjusted_p"] > 0.05


def test_images_of_one_group_are_no_sample() -> None:
    """The interval of a mean over pairs of equal images is that of half as many."""
    values = RNG.uniform(size=40)
    single, _ = pointing.table(pd.DataFrame(rows("imagenet", values, np.arange(40))), 0)
    double, _ = pointing.table(pd.DataFrame(rows("imagenet", np.repeat(values, 2), np.arange(80) // 2)), 0)
    width = [found[0]["energy"]["high"] - found[0]["energy"]["low"] for found in (single, double)]
    assert width[1] == pytest.approx(width[0], rel=0.1)


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_groups_say_nothing(count: int) -> None:
    given = rows("imagenet", np.full(2 * count, 0.5), np.zeros(2 * count))
    assert pointing.table(pd.DataFrame(given, columns=pointing.COLUMNS), 0) == ([], [])


def test_maps_are_held_against_the_boxes(mini_run: Any, region_network: Any) -> None:
    store = Store.open(mini_run.store)
    told = store.manifest.iloc[store.rows("test")]
    on_it = region_network(slice(3, 5), slice(2, 4))  # the lesion is at x 20 to 28, y 30 to 38
    on_it.mirror = False
    beside = region_network(slice(0, 2), slice(5, 7))
    beside.mirror = False
    blind_network = region_network(slice(0, 0), slice(0, 0))
    hits = {}
    for name, network in {"on": on_it, "beside": beside, "empty": blind_network}.items():
        found = pd.DataFrame(pointing.measured(store, "imagenet", by_heads(network), 0))
        assert found["image_id"].tolist() == told.loc[told["label"] == 1, "image_id"].tolist()
        assert found["empty"].all() == (name == "empty")
        hits[name] = found[["energy", "pointing"]].mean().tolist()
    assert hits["empty"] == [0, 0] and hits["beside"] == [0, 0]
    assert hits["on"][0] > 5 * 64 / (48 * 64) and hits["on"][1] > 0


def test_a_box_that_is_not_shown_is_none(mini_run: Any) -> None:
    store = Store.open(mini_run.store)
    first, *others = pointing.boxed(store)
    places = store.manifest["boxes"].tolist()
    places[first] = [[8.0, 30.0, 8.0, 38.0]]
    store.manifest["boxes"] = pd.Series(places, index=store.manifest.index)
    assert pointing.boxed(store).tolist() == others and others


def test_the_blind_map_lies_in_the_middle_of_what_is_shown(mini_run: Any) -> None:
    store = Store.open(mini_run.store)
    central = np.array([[[28.0, 28.0, 36.0, 36.0]]] * len(store.manifest), dtype=float).tolist()
    moved = Store.open(mini_run.store)
    moved.manifest["boxes"] = pd.Series(central, index=moved.manifest.index)
    assert {row["pointing"] for row in pointing.blind(moved)} == {1.0}
    assert {row["pointing"] for row in pointing.blind(store)} == {0.0}
    energies = [row["energy"] for row in pointing.blind(moved)]
    assert min(energies) == max(energies) > 2 * 64 / (48 * 64)
