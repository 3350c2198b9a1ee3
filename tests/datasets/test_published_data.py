"""The published data themselves, by what their publishers and their readers say of them."""

from __future__ import annotations

import os
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radtransfer import datasets
from radtransfer.preprocess.data_report import DataReport
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store

pytestmark = pytest.mark.data
LEAKAGE = Path(__file__).resolve().parents[2] / "benchmarks" / "leakage.py"


@pytest.fixture(scope="module")
def root() -> Path:
    name = os.environ.get("RADTRANSFER_DATA", "")
    if not name:
        pytest.skip("RADTRANSFER_DATA does not name a data root")
    return Path(name)


@pytest.fixture(scope="module")
def hand(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    return stores(root, tmp_path_factory.mktemp("hand"), "fracatlas", "FracAtlas", "hand")


@pytest.fixture(scope="module")
def chest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """CT target with radiographs as the source (of one body part, since only the target is looked at)."""
    return stores(root, tmp_path_factory.mktemp("chest"), "iqothnccd", "IQ-OTHNCCD", "normal-benign", ["shoulder"])


def stores(
    root: Path, out: Path, layout: str, path: str, part: str, source_parts: list[str] | None = None
) -> tuple[Store, Store]:
    preprocess(
        data_root=root,
        target_layout=layout,
        target_path=path,
        target_part=part,
        source_layout="fracatlas",
        source_path="FracAtlas",
        source_parts=source_parts or [],
        image_size=128,
        test_fraction=0.2,
        validation_fraction=0.2,
        max_images=0,
        seed=0,
        target_out=out / "target",
        source_out=out / "source",
    )
    return Store.open(out / "target"), Store.open(out / "source")


def test_fracatlas_counts(root: Path) -> None:
    """Counts of the part of FracAtlas that is on disk; 717 fractured in the whole of it."""
    read = datasets.read("fracatlas", root, "FracAtlas")
    whole = len(read.records) == 4083
    assert whole or len(read.records) == 3066
    assert read.rejected == [] and read.parts == ["hand", "hip", "leg", "shoulder"]
    labels = Counter(record.label for record in read.records)
    assert labels[1] == (717 if whole else 539)
    by_file = {record.file.rpartition("/")[2]: record for record in read.records}
    assert by_file["IMG0003298.jpg"].label == 1 and len(by_file["IMG0003298.jpg"].boxes) == 1
    assert any("IMG0003298.jpg" in note for note in read.notes)
    if not whole:
        counts = Counter(part for record in read.records for part in record.parts)
        assert counts == {"hand": 1161, "leg": 1709, "hip": 257, "shoulder": 265}
        assert sum(record.label for record in read.records if "hand" in record.parts) == 329
    assert all(record.boxes for record in read.records if record.label)


def test_fracatlas_hand_stores(hand: tuple[Store, Store]) -> None:
    target, source = hand
    assert target.content["files_found"] == 1161 and source.content["files_found"] == 1905
    assert target.content["counts"]["test"]["fractured"] == 66
    reasons = Counter(
        entry["reason"].split(",")[0].split(" the target")[0] for store in hand for entry in store.content["rejected"]
    )
    assert reasons == {"truncated JPEG": 27, "duplicate or near duplicate of": 4}
    flags = Counter(flag for store in hand for own in store.manifest["flags"] for flag in own)
    assert flags["truncated"] == 17 and flags["exif_rotated"] == 20
    assert not source.manifest["body_part"].str.contains("hand").any()
    assert not set(source.manifest["sha256"]) & set(target.manifest["sha256"])


def test_the_data_report_of_fracatlas_lists_what_is_known_of_it(hand: tuple[Store, Store]) -> None:
    report = DataReport.of(*(store.artifact.path for store in hand))
    for store in report.stores:
        assert store["files_found"] == store["images"] + sum(store["left_out"].values())
    (conflict,) = report.of_problem("label_conflict")
    assert conflict.file == "FracAtlas/images/Fractured/IMG0003298.jpg" and conflict.label == "fractured"
    truncated = Counter(one.outcome for one in report.of_problem("truncated"))
    assert truncated == {"kept": 17, "left out": 27}
    assert len(report.of_problem("exif_rotated")) == 20 and len(report.of_problem("leak")) == 4
    assert not report.of_problem("unreadable") and not report.of_problem("colour")
    page = report.html()
    assert all(one.file in page for one in report.findings)


def test_fracatlas_known_duplicates_are_together(hand: tuple[Store, Store]) -> None:
    """Pairs found by eye: with and without markers, processed anew, turned, cut off and whole."""
    group = {
        image.rpartition("/")[2][3:10]: group
        for store in hand
        for image, group in zip(store.manifest["image_id"], store.manifest["group_id"], strict=True)
    }
    for known in (
        "0000002 0001295 0002296",
        "0000004 0001414 0002297",
        "0000239 0000240",
        "0000236 0000237",
        "0002304 0002306",
        "0002323 0002325",
        "0002783 0004155",
        "0002904 0004232",
    ):
        there = [group[number] for number in known.split() if number in group]
        assert len(there) > 1 and len(set(there)) == 1, known


def test_no_duplicate_crosses_a_split_by_another_measure(hand: tuple[Store, Store]) -> None:
    """Plain correlation of 32 x 32 reductions, which the grouping does not use, above 0.985: by eye, all duplicates."""
    target, source = hand
    images = np.concatenate([target.images, source.images])
    small = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)) for image in images])
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    where = np.array([*target.manifest["split"], *("source " + source.manifest["split"])])
    first, second = np.nonzero(np.triu(flat @ flat.T, 1) > 0.985)
    # The letterbox's black bars, common to all, raise the correlation; the content alone must agree as well.
    rows = np.concatenate([target.manifest["group_id"], source.manifest["group_id"]])
    crossing = [
        (i, j)
        for i, j in zip(first, second, strict=True)
        if where[i] != where[j] and core(images[i], images[j]) > 0.985
    ]
    assert len(first) >= 60
    assert crossing == [], [(rows[i], rows[j]) for i, j in crossing]


def core(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation over the middle of the square, which no letterbox bar touches."""
    middle = slice(len(one) // 8, -len(one) // 8)
    return float(np.corrcoef(one[middle, middle].ravel(), other[middle, middle].ravel())[0, 1])


def test_cases_do_not_leak_in_ct(chest: tuple[Store, Store]) -> None:
    """Neighbours in pixel space tell normal from benign by recognising the case; groups take that away.

    n = 392 slices, five folds, three seeds: AUROC 0.98 where slices are split at random. By groups it is near chance
    (0.41 to 0.52 over the limits tried); the bound of 0.65 is far from both. Deterministic.
    """
    target, source = chest
    assert target.content["files_found"] == 392 and target.content["modality"] == "CT"
    assert source.content["part"] == "shoulder"
    assert 25 <= target.manifest["group_id"].nunique() <= 60
    by_slice, by_group = runpy.run_path(str(LEAKAGE))["aurocs"](target)
    assert by_slice > 0.93
    assert by_group < 0.65
