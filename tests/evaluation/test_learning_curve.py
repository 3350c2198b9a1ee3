"""The learning curve over label fractions: its comparisons, what it says, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from finished_runs import images, write_crossfit, write_run

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.learning_curve import first_reaches, measure_curve, write

TEST = images(count=300, positives=120)
SHARES = (0.1, 0.5, 1.0)


def runs(folder: Path, boosts: dict[float, dict[str, float]], **config: Any) -> list[Path]:
    """A run for each label fraction, whose sources are stronger by so much, all with the same noise."""
    return [
        write_run(folder / f"fraction-{share:g}", TEST, noise=1, boost=boost, label_fraction=share, **config)
        for share, boost in boosts.items()
    ]


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """ImageNet transfer needs labels, in-domain pre-training hardly any."""
    boosts = {
        0.1: {"in_domain": -0.1, "imagenet": -1.2},
        0.5: {"in_domain": 0.0, "imagenet": -0.2},
        1.0: {"in_domain": 0.1, "imagenet": 0.4},
    }
    return runs(tmp_path_factory.mktemp("helps"), boosts)


def test_a_gain_with_few_labels_is_said_and_how_many_labels_it_is_worth(helps: list[Path], tmp_path: Path) -> None:
    curve = measure_curve(helps[::-1], bootstrap=400, seed=0)
    assert [(point.fraction, point.images) for point in curve.points] == [(0.1, 20), (0.5, 100), (1.0, 200)]
    families = {family: [one for one in curve.comparisons if one.family == family] for family in ("label_fraction",)}
    main = families["label_fraction"]
    assert [(one.a, one.b) for one in main] == [(f"{run}/in_domain/fused", f"{run}/imagenet/fused") for run in "ABC"]
    assert main[0].adjusted_p == pytest.approx(min(1, 3 * main[0].p_value)) and main[0].adjusted_p < 0.05
    assert curve.answers[0].startswith(
        "In-domain pre-training is significantly better than ImageNet transfer with 10 %"
    )
    trend = next(one for one in curve.comparisons if one.family == "trend")
    assert trend.difference == pytest.approx(main[0].difference - main[-1].difference) and trend.adjusted_p < 0.05
    assert "larger with 20 labelled images than with 200" in curve.answers[1]
    first = curve.needed[0]
    assert (first.run, first.images) == ("A", 20) and 20 < first.needed <= 200
    assert (first.low or 0) < first.needed < (first.high or 1000)
    assert f"ImageNet transfer needs about {first.needed} for that (95 % interval" in curve.answers[2]
    sizes = {"label_fraction": 3, "over_scratch": 6, "trend": 1, "shortcut": 6}
    assert {one.family for one in curve.comparisons} == set(sizes)
    assert all(sum(one.family == family for one in curve.comparisons) == size for family, size in sizes.items())

    page = write(curve, tmp_path)
    html, stored = page.read_text("utf-8"), json.loads((tmp_path / "learning_curve.json").read_text("utf-8"))
    assert curve.answers[0] in html and "nan" not in html.lower().replace("finance", "")
    assert html.count('class="band"') == 6 and "<script" not in html
    assert [row["id"] for row in stored["results"]] == [row.id for row in curve.results]


def test_negative_transfer_is_called_by_its_name(tmp_path: Path) -> None:
    boosts: dict[float, dict[str, float]] = {share: {"in_domain": -1.8, "scratch": 0.6} for share in SHARES}
    curve = measure_curve(runs(tmp_path, boosts), bootstrap=400, seed=0)
    assert curve.answers[0].startswith("Negative transfer: in-domain pre-training is significantly worse")
    named = [one for one in curve.warnings if one.startswith("Negative transfer with")]
    assert "Negative transfer with 10 % of the labels (20 images): in-domain pre-training is" in named[0]
    assert any("worse than training from scratch" in one for one in named)


def test_where_nothing_differs_nothing_is_said(tmp_path: Path) -> None:
    boosts: dict[float, dict[str, float]] = {share: {"imagenet": 0.35} for share in SHARES}
    curve = measure_curve(runs(tmp_path, boosts), bootstrap=400, seed=0)
    assert curve.answers[0].startswith("At none of the 3 label fractions is a difference")
    assert "is not shown" in curve.answers[1]


def test_folds_are_pooled(tmp_path: Path) -> None:
    folders = [
        write_crossfit(tmp_path / f"fraction-{share:g}", TEST, 3, seeds=(0, 1), label_fraction=share)
        for share in (0.25, 1.0)
    ]
    curve = measure_curve(folders, bootstrap=100, seed=0)
    assert curve.test.images == len(TEST) and [one.folds for one in curve.subjects] == [3, 3]
    assert not any("one training with one seed" in warning for warning in curve.warnings)
    assert "cross" not in write(curve, tmp_path / "page").read_text("utf-8").split("Method, and limits")[0].lower()


def test_too_few_groups_give_no_verdict(tmp_path: Path) -> None:
    test = images(count=60, positives=10)
    folders = [write_run(tmp_path / str(share), test, label_fraction=share) for share in (0.5, 1.0)]
    curve = measure_curve(folders, bootstrap=100, seed=0)
    assert curve.answers[0].startswith("There is no verdict") and all(one.p_value is None for one in curve.comparisons)
    assert "no verdict" in write(curve, tmp_path / "page").read_text("utf-8")


def test_what_is_no_curve_is_refused(helps: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="two label fractions or more"):
        measure_curve(helps[:1], bootstrap=100, seed=0)
    again = write_run(tmp_path / "again", TEST, noise=1, label_fraction=0.5)
    with pytest.raises(RadtransferError, match="each once"):
        measure_curve([*helps, again], bootstrap=100, seed=0)
    other = write_run(tmp_path / "other", TEST, noise=1, label_fraction=0.3, batch_size=4)
    with pytest.raises(RadtransferError, match=r"not of one learning curve with fraction-0\.1: batch_size is 8 there"):
        measure_curve([*helps, other], bootstrap=100, seed=0)


def test_where_a_curve_first_reaches_a_level() -> None:
    x = np.array([0.0, 1.0, 3.0])
    curves = np.array([[0.5, 0.7, 0.8]] * 5 + [[0.5, 0.9, 0.6]])
    levels = np.array([0.6, 0.75, 0.5, 0.4, 0.9, 0.6])
    assert first_reaches(x, curves, levels) == pytest.approx([0.5, 2.0, 0.0, -np.inf, np.inf, 0.25])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
def test_a_level_that_is_reached_is_the_value_there(values: list[float], level: float) -> None:
    x = np.arange(len(values), dtype=float)
    found = first_reaches(x, np.array([values]), np.array([level]))[0]
    if np.isfinite(found):
        assert np.interp(found, x, values) == pytest.approx(level, abs=1e-9)
        assert max(np.interp(np.linspace(0, found, 50), x, values)) <= level + 1e-9
    else:
        assert found < 0 if values[0] > level else max(values) < level
