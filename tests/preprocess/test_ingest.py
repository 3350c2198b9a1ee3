"""Files to squares: the same whatever the number of processes."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

from radtransfer.preprocess import grouping
from radtransfer.preprocess.decode import decode, letterbox
from radtransfer.preprocess.ingest import IMAGES_PER_WORKER, Ingested, Levels, Refused, Scratch, ingest


def scratch(folder: Path, name: str) -> tuple[Scratch, Scratch]:
    side = grouping.THUMBNAIL
    return Scratch(folder / f"{name}-squares", (32, 32)), Scratch(folder / f"{name}-thumbnails", (side, side))


def test_scratch_gives_back_by_position(tmp_path: Path) -> None:
    kept = Scratch(tmp_path / "x", (3, 5))
    kept.path.touch()
    images = np.random.default_rng(0).integers(0, 255, (6, 3, 5)).astype(np.uint8)
    for position in (4, 0, 5, 2):
        kept.write(position, images[position])
    for position in (0, 2, 4, 5):
        np.testing.assert_array_equal(kept[position], images[position])
    with pytest.raises(IndexError):
        kept[6]
    with pytest.raises(ValueError, match="expected shape"):
        kept.write(0, images[0].T)


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    count = 2 * IMAGES_PER_WORKER
    paths = [tmp_path / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (24, 40)).astype(np.uint8)).save(path, compress_level=0)
    paths[3].write_bytes(b"not an image")
    paths[700].unlink()

    results: list[list[Ingested | Refused]] = []
    for workers in (1, 2):
        monkeypatch.setattr(joblib, "cpu_count", lambda workers=workers: workers)
        results.append(list(ingest(paths, *scratch(tmp_path, str(workers)))))
    for one, other in zip(*results, strict=True):
        if isinstance(one, Refused):
            assert one == other
        else:
            assert isinstance(other, Ingested)
            assert (one.sha256, one.pixel_sha256, one.box, one.flags, one.levels) == (
                other.sha256,
                other.pixel_sha256,
                other.box,
                other.flags,
                other.levels,
            )
            np.testing.assert_array_equal(one.descriptor, other.descriptor)
    assert [i for i, result in enumerate(results[0]) if isinstance(result, Refused)] == [3, 700]
    assert results[0][700] == Refused("unreadable", "no such file")
    for one, other in zip(scratch(tmp_path, "1"), scratch(tmp_path, "2"), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    square, _ = letterbox(decode(paths[-1]).pixels, 32)
    np.testing.assert_array_equal(scratch(tmp_path, "2")[0][count - 1], square)


def test_grey_levels_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(90, 90, (37, 53)), 0, 255).astype(np.uint8)
    levels = Levels.of(pixels)
    assert levels == pytest.approx((pixels.mean(), pixels.std(), (pixels == 0).mean(), (pixels == 255).mean()))
    assert levels.black > 0.1 and levels.saturated > 0.01
