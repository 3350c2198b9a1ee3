"""Finished runs held against each other: what is refused, what is compared, and the page that shows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from finished_runs import images, write_crossfit, write_run
from sklearn.metrics import roc_auc_score

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import report_text, verdict
from radtransfer.evaluation.comparison import compare_runs, write
from radtransfer.evaluation.comparison_page import render, show

BOOTSTRAP = 400


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two cross-fittings of three folds and two seeds, the second with stronger networks and another batch size."""
    folder = tmp_path_factory.mktemp("compared")
    test = images(per_group=2)
    runs = [
        write_crossfit(folder / "before", test, 3, (0, 1)),
        write_crossfit(folder / "after<b>", test, 3, (0, 1), boost=0.8, batch_size=16),
    ]
    page = write(compare_runs(runs, bootstrap=BOOTSTRAP, seed=0), folder / "out")
    return page, json.loads((folder / "out" / "comparison.json").read_text())


def test_a_cross_fitting_is_pooled_and_its_sources_compared(tmp_path: Path) -> None:
    folder = write_crossfit(tmp_path / "cf", images(), 4, (3, 4))
    found = compare_runs([folder], bootstrap=BOOTSTRAP, seed=0).model_dump(mode="json")
    assert found["test"] == {"images": 120, "groups": 120, "positives": 40}
    (subject,) = found["subjects"]
    assert (subject["label"], subject["name"], subject["folds"], subject["seeds"]) == ("A", "cf", 4, [3, 4])
    families = [(row["family"], row["a"], row["b"]) for row in found["comparisons"] if row["metric"] == "auroc"]
    assert families == [
        ("tl_source", "A/in_domain/fused", "A/imagenet/fused"),
        ("tl_source", "A/in_domain/fused", "A/scratch/fused"),
        ("tl_source", "A/imagenet/fused", "A/scratch/fused"),
        *(("fusion", f"A/{source}/fused", f"A/{source}/single") for source in ("in_domain", "imagenet", "scratch")),
        ("shortcut", "A/selected", "A/shortcut/grey_level_histogram"),
        ("shortcut", "A/selected", "A/shortcut/image_metadata"),
    ]
    rows = {row["id"]: row for row in found["results"]}
    assert rows["A/selected"]["auroc"] == rows["A/in_domain/fused"]["auroc"]
    majority = rows["A/shortcut/majority_class"]
    assert majority["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}

    row = rows["A/imagenet/single"]
    assert row["seed"] == "pooled" and row["n"] == 120 and len(row["folds"]) == 8
    repeats = []
    for seed in (3, 4):
        wins = pairs = 0.0
        for fold in range(1, 5):
            table = pd.read_parquet(folder / f"seed{seed}-fold{fold}" / "evaluation" / "test_scores.parquet")
            value = roc_auc_score(table["label"], table[f"imagenet/lite0-head/seed{seed}"])
            told = row["folds"][4 * (seed - 3) + fold - 1]
            assert (told["seed"], told["fold"], told["images"]) == (seed, fold, len(table))
            assert told["auroc"] == pytest.approx(value)
            count = int(table["label"].sum()) * int((1 - table["label"]).sum())
            wins, pairs = wins + count * value, pairs + count
        repeats.append(wins / pairs)
    assert row["auroc"]["value"] == pytest.approx(np.mean(repeats))
    assert row["seed_spread"]["sd"] == pytest.approx(np.std(repeats, ddof=1))
    assert (row["seed_spread"]["lowest"], row["seed_spread"]["highest"]) == pytest.approx(tuple(sorted(repeats)))


def test_runs_with_other_settings_are_compared_choice_by_choice(compared: tuple[Path, dict[str, Any]]) -> None:
    found = compared[1]
    between = [row for row in found["comparisons"] if row["family"] == "run"]
    assert [(row["a"], row["b"]) for row in between] == [
        (f"B/{choice}", f"A/{choice}") for choice in ("in_domain/fused", "imagenet/fused", "scratch/fused", "selected")
    ]
    rows = {row["id"]: row for row in found["results"]}
    for row in between:
        assert row["difference"] == pytest.approx(rows[row["a"]]["auroc"]["value"] - rows[row["b"]]["auroc"]["value"])
        assert row["adjusted_p"] >= row["p_value"] and row["difference"] > 0
    assert found["settings"] == [{"key": "batch_size", "values": {"A": 8, "B": 16}}]
    assert {row["family"] for row in found["comparisons"]} == {
        "run", *(f"{label}: {name}" for label in "AB" for name in ("tl_source", "fusion", "shortcut"))
    }  # fmt: skip


def test_single_runs_are_compared_by_the_same_statistics(tmp_path: Path) -> None:
    test = images()
    runs = [write_run(tmp_path / name, test, noise=1, in_domain_init=name) for name in ("scratch", "imagenet")]
    found = compare_runs(runs, bootstrap=BOOTSTRAP, seed=0)
    between = [row for row in found.comparisons if row.family == "run"]
    assert len(between) == 4 and all(
        (row.difference, row.low, row.high, row.p_value) == (0, 0, 0, 1) for row in between
    )
    table = pd.read_parquet(runs[0] / "evaluation" / "test_scores.parquet")
    expected = roc_auc_score(table["label"], table["scratch/fused-svm_linear/seed0"])
    row = next(row for row in found.results if row.id == "A/scratch/fused")
    assert row.auroc.value == pytest.approx(expected) and row.seed == 0 and row.fold_spread is None
    assert found.answers[0].startswith("None of the 4 differences")


def test_few_groups_leave_no_verdict(tmp_path: Path) -> None:
    test = images(count=80, positives=12)
    runs = [write_run(tmp_path / name, test, boost=boost) for name, boost in (("a", 0), ("b", 3))]
    found = compare_runs(runs, bootstrap=BOOTSTRAP, seed=0)
    assert all(row.p_value is row.adjusted_p is None for row in found.comparisons)
    assert found.answers[0].startswith("There is no verdict") and "12 leakage groups" in found.warnings[0]


def other_images(folder: Path) -> list[Path]:
    test = images()
    return [write_run(folder / "a", test[:100]), write_run(folder / "b", test[40:])]


def renamed_images(folder: Path) -> list[Path]:
    test = images()
    return [write_run(folder / "a", test), write_run(folder / "b", test.assign(image_id="x" + test["image_id"]))]


def other_content(folder: Path) -> list[Path]:
    test = images()
    other = test.assign(sha256=["0" * 64, *test["sha256"][1:]])
    return [write_run(folder / "a", test), write_run(folder / "b", other)]


def other_groups(folder: Path) -> list[Path]:
    return [write_run(folder / "a", images()), write_run(folder / "b", images(per_group=2))]


def other_labels(folder: Path) -> list[Path]:
    return [write_run(folder / "a", images()), write_run(folder / "b", images(positives=41))]


def a_run_and_a_cross_fitting_of_more(folder: Path) -> list[Path]:
    test = images()
    return [write_run(folder / "a", test[::3]), write_crossfit(folder / "b", test, 3)]


def one_alone(folder: Path) -> list[Path]:
    return [write_run(folder / "a", images())]


def one_twice(folder: Path) -> list[Path]:
    return [write_run(folder / "a", images())] * 2


def nothing(folder: Path) -> list[Path]:
    return [folder / "none"]


def unfinished(folder: Path) -> list[Path]:
    made = write_crossfit(folder / "a", images(), 3)
    (made / "seed0-fold2" / "run.json").unlink()
    return [made]


def a_fold_missing(folder: Path) -> list[Path]:
    made = write_crossfit(folder / "a", images(), 3)
    shutil.rmtree(made / "seed0-fold3")
    return [made]


def mixed_settings(folder: Path) -> list[Path]:
    test = images()
    made = write_crossfit(folder / "a", test, 2)
    write_crossfit(folder / "a", test, 2, (1,), batch_size=16)
    return [made]


def repeats_of_other_images(folder: Path) -> list[Path]:
    made = write_crossfit(folder / "a", images(), 2)
    write_crossfit(folder / "a", images(count=119), 2, (1,))
    return [made]


def a_group_in_two_folds(folder: Path) -> list[Path]:
    test = images(per_group=2)
    for fold in (1, 2):
        write_run(folder / "a" / f"seed0-fold{fold}", test[fold - 1 :: 2], test_fold=[fold, 2])
    return [folder / "a"]


def tampered(folder: Path) -> list[Path]:
    runs = [write_run(folder / name, images()) for name in "ab"]
    path = runs[1] / "evaluation" / "test_scores.parquet"
    table = pd.read_parquet(path)
    table.assign(**{"scratch/lite0-head/seed0": 0.5}).to_parquet(path)
    return runs


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other_images, "a and b were not tested on the same images: 60 are shared, of 100 and 80"),
        (renamed_images, r"0 are shared \(120 by content alone: .*\), of 120 and 120"),
        (other_content, "119 are shared, of 120 and 120"),
        (other_groups, "the same 120 images with other leakage groups"),
        (other_labels, "the same 120 images with other labels"),
        (a_run_and_a_cross_fitting_of_more, "40 are shared, of 40 and 120"),
        (one_alone, "one run alone"),
        (one_twice, "named twice"),
        (nothing, "neither a finished run .* nor a cross-fitting"),
        (unfinished, r"1 of 3 runs are not finished \(seed0-fold2\)"),
        (a_fold_missing, r"of seed 0 the folds \[\[1, 3\], \[2, 3\]\] are there, expected 1 to 3 of 3"),
        (mixed_settings, "seed1-fold1: not of one cross-fitting with seed0-fold1: batch_size is 8 there and 16 here"),
        (repeats_of_other_images, r"do not test the images of seed 0, each once \(119 against 120\)"),
        (a_group_in_two_folds, "leakage group 'image-0000' is tested in folds 1 and 2"),
        (tampered, "sha256 is not the recorded one"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Callable[[Path], list[Path]], said: str, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match=said):
        compare_runs(make(tmp_path), bootstrap=100, seed=0)


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_images_are_called_so_on_top(compared: tuple[Path, dict[str, Any]], synthetic: bool) -> None:
    warnings = [one for one in compared[1]["warnings"] if one != verdict.SYNTHETIC]
    page = render(compared[1] | {"warnings": warnings + [verdict.SYNTHETIC] * synthetic})
    banner = f'<aside class="banner" aria-label="Kind of images">{report_text.SYNTHETIC}'
    assert (banner in page.partition("<main>")[0]) is synthetic


def test_the_page_holds_every_figure_and_loads_nothing(compared: tuple[Path, dict[str, Any]]) -> None:
    page = compared[0].read_text("utf-8")
    assert "after<b>" not in page and "after&lt;b&gt;" in page
    assert not re.search(r"<script|<img|https?:|@import|url\(", page)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for row in compared[1]["results"]:
        assert f'data-id="{row["id"]}"' in page
    assert all(answer in text for answer in compared[1]["answers"][:1])
    assert "do not cover the variance of training" in text and "batch_size" in text


def test_the_table_on_the_terminal(compared: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    show(compared[1])
    printed = capsys.readouterr().out
    assert "B: Selected model" in printed and "In-domain, fused choice: B \u2212 A" in printed
    assert "AUROC of seeds" in printed and "\u2026" not in printed


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_in_a_real_browser(chromium: Any, compared: tuple[Path, dict[str, Any]], width: int, scheme: str) -> None:
    told: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url))
    page.goto(compared[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator("table.results tbody tr").count() == 20
    assert page.locator(".strip .dot").count() == 20 * 6
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.click("text=A: the single folds")
    assert page.locator("details[open] tbody tr").count() == 6
    page.click("nav a[href='#limits']")
    assert page.evaluate("document.querySelector('#limits').getBoundingClientRect().top < innerHeight")
    page.close()
    assert {one.split("#")[0] for one in told} == {compared[0].as_uri()}
