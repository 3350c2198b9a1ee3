from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.explain.cases import Case, box_mask, choose, energy_inside, pointing_hit


def test_confident_and_uncertain_in_turn() -> None:
    scores = np.array([0.9, 0.5, 0.7, 0.99, 0.6, 0.49, 0.1, 0.3])
    labels = np.array([1, 1, 1, 1, 0, 1, 0, 0])
    chosen = choose(list("abcdefgh"), labels, scores, 0.5, 3)
    assert chosen == [
        Case("d", "TP"), Case("b", "TP"), Case("a", "TP"),
        Case("e", "FP"), Case("f", "FN"), Case("g", "TN"), Case("h", "TN"),
    ]  # fmt: skip


def test_ties_go_by_id_whatever_the_order() -> None:
    for ids in (["b", "a", "c"], ["c", "b", "a"]):
        chosen = choose(ids, np.ones(3, int), np.full(3, 0.8), 0.5, 2)
        assert [case.image_id for case in chosen] == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=20), st.floats(0, 1), st.integers(0, 4))
def test_every_case_has_its_outcome_and_comes_once(
    images: list[tuple[int, float]], threshold: float, wanted: int
) -> None:
    ids = [f"i{n}" for n in range(len(images))]
    labels = np.array([label for label, _ in images], int)
    scores = np.array([score for _, score in images], float)
    chosen = choose(ids, labels, scores, threshold, wanted)
    assert len({case.image_id for case in chosen}) == len(chosen)
    for case in chosen:
        n = ids.index(case.image_id)
        right = (scores[n] >= threshold) == bool(labels[n])
        assert case.outcome == ("T" if right else "F") + ("P" if scores[n] >= threshold else "N")
    for outcome in ("TP", "FP", "FN", "TN"):
        called, positive = outcome[1] == "P", outcome in ("TP", "FN")
        there = sum((score >= threshold) == called and bool(label) == positive for label, score in images)
        assert sum(case.outcome == outcome for case in chosen) == min(wanted, there)


def test_energy_and_pointing() -> None:
    heat = np.zeros((10, 10), np.float32)
    heat[2, 3], heat[8, 8], heat[5, 5] = 3.0, 1.0, -7.0
    inside = box_mask([[3, 2, 4, 3]], 10)
    assert inside.sum() == 1
    assert energy_inside(heat, inside) == pytest.approx(0.75)
    assert pointing_hit(heat, inside) == 1
    assert pointing_hit(heat, box_mask([[8, 8, 9, 9]], 10)) == 0
    heat[8, 8] = 3.0
    assert pointing_hit(heat, inside) == pytest.approx(0.5)


def test_a_uniform_map_scores_chance() -> None:
    mask = box_mask([[0, 0, 5, 4], [2.5, 2.5, 6.2, 6]], 20)
    heat = np.ones((20, 20), np.float32)
    assert energy_inside(heat, mask) == pytest.approx(mask.mean())
    assert pointing_hit(heat, mask) == pytest.approx(mask.mean())


def test_an_empty_map_counts_for_nothing() -> None:
    heat, mask = np.zeros((4, 4), np.float32), np.ones((4, 4), bool)
    assert math.isnan(energy_inside(heat, mask)) and math.isnan(pointing_hit(heat, mask))


def test_boxes_thinner_than_a_pixel_and_over_the_edge() -> None:
    assert box_mask([[1.2, 1.2, 1.4, 1.4]], 4).sum() == 1
    assert box_mask([[-3, -3, 99, 99]], 4).all()
    assert not box_mask([], 4).any()
