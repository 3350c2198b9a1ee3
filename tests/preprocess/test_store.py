from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.split import SPLITS, Splits
from radtransfer.preprocess.store import Store, taken
from radtransfer.problems import Rejected


def row(i: int, **other: Any) -> dict[str, Any]:
    return {
        "image_id": f"d/{i}.png",
        "label": i % 2,
        "label_name": ("normal", "abnormal")[i % 2],
        "body_part": "hand",
        "patient_id": None,
        "study_id": None,
        "group_id": f"g{i}",
        "split": SPLITS[i % 3],
        "boxes": [[1.0, 2.0, 3.0, 4.5]] if i % 2 else [],
        "source_file": f"d/{i}.png",
        "sha256": "0" * 64,
        "flags": ["colour"] if i % 2 else [],
        "attributes": ["sex=male"] if i % 3 else [],
        "width": 20,
        "height": 30,
        "shown": [0, 0, 20, 30],
    } | other


def made(path: Path, rows: list[dict[str, Any]], rejected: int = 1, found: int | None = None, size: int = 8) -> Path:
    images = (np.full((size, size), i % 256, dtype=np.uint8) for i in range(len(rows)))
    turned_away = [Rejected(f"d/bad{i}.png", "empty", "no, bytes") for i in range(rejected)]
    with artifacts.writing(path, "image-store", step="preprocess", settings={}) as (folder, content):
        content["images"] = len(rows)
        store.write(folder, rows, images, size, turned_away, len(rows) + rejected if found is None else found)
    return path


def test_a_store_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [row(i) for i in range(9)]
    opened = Store.open(made(tmp_path / "s", rows))
    assert opened.size == 8 and isinstance(opened.images, np.memmap) and not opened.images.flags.writeable
    assert [int(image[0, 0]) for image in opened.images] == list(range(9))
    assert opened.content == {"images": 9}
    table = opened.manifest
    assert list(table.columns) == store.SCHEMA.names
    assert table["patient_id"].isna().all()
    assert [[list(box) for box in boxes] for boxes in table["boxes"]] == [own["boxes"] for own in rows]
    for name in ("flags", "attributes"):
        assert [list(its) for its in table[name]] == [own[name] for own in rows]
    assert opened.rows("train", "test").tolist() == [0, 2, 3, 5, 6, 8]
    assert opened.rows("validation").tolist() == [1, 4, 7]
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        opened.rows("valid")
    assert (tmp_path / "s" / "rejected.csv").read_text() == 'file,problem,reason\nd/bad0.png,empty,"no, bytes"\n'


def test_a_group_in_two_splits_is_neither_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(0, group_id="twin"), row(1, group_id="twin")]
    with pytest.raises(RadtransferError, match="leakage group 'twin' lies in the splits 'train' and 'validation'"):
        made(tmp_path / "s", rows)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patched:
        patched.setattr(Splits, "of_images", lambda *_: None)
        made(tmp_path / "s", rows)
    with pytest.raises(RadtransferError, match="twin"):
        Store.open(tmp_path / "s")


def test_no_file_gets_lost_or_counted_twice(tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="12 files found, but 9 stored and 1 rejected"):
        made(tmp_path / "s", [row(i) for i in range(9)], found=12)
    with pytest.raises(RadtransferError, match=r"d/0\.png is there twice"):
        made(tmp_path / "s", [row(0), row(0)])


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "s", [row(i) for i in range(9)])
    (path / "images.npy").write_bytes((path / "images.npy").read_bytes()[:-100])
    with pytest.raises(RadtransferError, match="damaged image store"):
        Store.open(path)
    path = made(tmp_path / "t", [row(i) for i in range(9)])
    np.save(path / "images.npy", np.zeros((4, 8, 8), dtype=np.uint8))
    with pytest.raises(RadtransferError, match="4 images but 9 rows"):
        Store.open(path)
    np.save(path / "images.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(RadtransferError, match="damaged image store"):
        Store.open(path)


def test_images_are_streamed(tmp_path: Path) -> None:
    """Writing 400 images of 64 KiB takes far less than their 25 MiB."""
    rows = [row(i) for i in range(400)]
    tracemalloc.start()
    made(tmp_path / "s", rows, size=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20


def test_copies_leave_no_pages_of_the_map(tmp_path: Path) -> None:
    """Else a training's memory would grow with the images that it has seen."""
    np.save(tmp_path / "images.npy", np.arange(64 * 256 * 256, dtype=np.uint8).reshape(64, 256, 256))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")

    def mapped() -> int:
        after = Path("/proc/self/smaps").read_text().split("images.npy")[1]
        return int(after.split("Rss:")[1].split()[0])

    for rows in (slice(3, 40), np.array([5, 63])):
        copy = taken(images, rows)
        assert np.array_equal(copy, images[rows]) and not isinstance(copy, np.memmap)
        assert mapped() > 0  # the comparison has read them
        taken(images, rows)
        assert mapped() == 0
    assert np.array_equal(taken(np.array(images), slice(2)), images[:2])
