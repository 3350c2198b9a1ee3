"""Files to squares: the same whatever the number of processes, and whatever was decoded before."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radtransfer import limits
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.ingest import BYTES_PER_WORKER, IMAGES_PER_WORKER, Ingested, Levels, Refused, ingest, shares
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.scratch import Scratch


def scratch(folder: Path, name: str) -> Scratch:
    (folder / name).mkdir(exist_ok=True)
    return Scratch(folder / name, 32)


def test_two_processes_and_one_that_was_stopped_give_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    count = 2 * IMAGES_PER_WORKER
    paths = [tmp_path / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (24, 40)).astype(np.uint8)).save(path, compress_level=0)
    paths[3].write_bytes(b"not an image")
    paths[700].unlink()

    list(ingest(paths[: count // 2], scratch(tmp_path, "half")))
    results: list[list[Ingested | Refused]] = []
    for workers, folder in ((1, "one"), (2, "two"), (2, "half")):
        monkeypatch.setattr(limits, "cpus", lambda workers=workers: workers)
        results.append(list(ingest(paths, scratch(tmp_path, folder))))
        assert multiprocessing.active_children() == []
    for one, *others in zip(*results, strict=True):
        if isinstance(one, Refused):
            assert others == [one, one]
            continue
        for folder, other in zip(("two", "half"), others, strict=True):
            assert isinstance(other, Ingested)
            assert (one.sha256, one.pixel_digest, one.box, one.flags, one.levels) == (
                other.sha256,
                other.pixel_digest,
                other.box,
                other.flags,
                other.levels,
            )
            np.testing.assert_array_equal(one.descriptor, other.descriptor)
            for part in (Scratch.square, Scratch.thumbnail):
                kept = part(scratch(tmp_path, "one"), one.place), part(scratch(tmp_path, folder), other.place)
                np.testing.assert_array_equal(*kept)
    assert [i for i, result in enumerate(results[0]) if isinstance(result, Refused)] == [3, 700]
    assert results[0][700] == Refused("unreadable", "no such file")
    last = results[1][-1]
    assert isinstance(last, Ingested)
    square, _ = letterbox(decode(paths[-1]).pixels, 32)
    np.testing.assert_array_equal(scratch(tmp_path, "two").square(last.place), square)


def test_grey_levels_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(90, 90, (37, 53)), 0, 255).astype(np.uint8)
    levels = Levels.of(pixels)
    assert levels == pytest.approx((pixels.mean(), pixels.std(), (pixels == 0).mean(), (pixels == 255).mean()))
    assert levels.black > 0.1 and levels.saturated > 0.01


def test_a_few_large_files_get_processes_too(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(100)]
    for path in paths[1:]:
        with path.open("wb") as stream:
            stream.truncate(4 * BYTES_PER_WORKER // len(paths))
    assert 3 <= shares(paths) <= 4
    assert shares([]) == shares(paths[:1]) == 1
