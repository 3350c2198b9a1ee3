"""How fast images get into the store, against the least that could be done, and how much memory that takes.

    python benchmarks/preprocess.py [--images 4000] [--side 512] [--repeat 3] [--sizes 1000,10000,40000]

The peer is a bare loop in two processes: Pillow opens, decodes and resizes each file, and nothing is kept. Ours, in as
many processes as there are CPUs, also hashes the file and its pixels, makes the thumbnail and the descriptor of the
search for duplicates, and writes the square. Both are run in turn on the same files, synthetic radiographs stored as
PNG; the ratio of images per second is printed, 1 being as fast as the peer. Then taking up what an unfinished run has
decoded, against decoding it, and reading: shuffled batches from the store's array against decoding them. Last, seconds
and peak memory of :func:`~radtransfer.preprocess.ingest.ingest` by the number of images.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from radtransfer.datasets import phantoms
from radtransfer.preprocess.ingest import ingest
from radtransfer.preprocess.scratch import Scratch, entry_name
from radtransfer.progress import track

DIFFERENT = 64
BATCH = 32


def bare(path: Path, side: int) -> int:
    """Decode and resize one file, as plainly as can be."""
    with Image.open(path) as image:
        return image.convert("L").resize((side, side), Image.Resampling.BICUBIC).size[0]


def drawn(folder: Path, count: int, side: int) -> list[Path]:
    """Files of radiographs, each a little different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    originals = [
        phantoms.draw("hand", False, 0.2, side, anatomy_seed=(1, case), view_seed=(1, case, 0))[0]
        for case in track(range(DIFFERENT), "draw", DIFFERENT)
    ]
    paths = [folder / f"IMG{10 * number:07d}.png" for number in range(count)]
    for number, path in enumerate(track(paths, "write", count)):
        turned = np.roll(originals[number % DIFFERENT], tuple(rng.integers(-40, 40, 2)), axis=(0, 1))
        Image.fromarray(turned).save(path, compress_level=1)
    return paths


def empty(scratch: Scratch) -> None:
    """So that every file is decoded."""
    shutil.rmtree(scratch.folder, ignore_errors=True)
    scratch.folder.mkdir()


def ours(paths: list[Path], scratch: Scratch) -> tuple[float, float]:
    """Seconds, and the most memory that this process and its workers held (MiB, shared pages once)."""
    this, peak = psutil.Process(), 0.0
    started = time.perf_counter()
    for number, _ in enumerate(ingest(paths, scratch)):
        if number % 500 == 0:
            held = [process.memory_full_info().pss for process in (this, *this.children(recursive=True))]
            peak = max(peak, sum(held) / 2**20)
    return time.perf_counter() - started, peak


def main() -> None:
    """Print both ratios, then cost by number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=512, help="longer side of the files, px")
    parser.add_argument("--store-side", type=int, default=256, help="side of the stored squares, px")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sizes", default="1000,10000,40000")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radtransfer-bench-") as temporary:
        folder = Path(temporary)
        paths = drawn(folder / "images", given.images, given.side)
        scratch = Scratch(folder / "scratch", given.store_side)
        ratios = []
        for _ in range(given.repeat):
            started = time.perf_counter()
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(bare, paths, [given.store_side] * len(paths), chunksize=32))
            peer = time.perf_counter() - started
            empty(scratch)
            spent, _ = ours(paths, scratch)
            ratios.append(peer / spent)
            print(f"bare loop {len(paths) / peer:.0f} images/s, ours {len(paths) / spent:.0f}, ratio {ratios[-1]:.2f}")
        print(f"into the store: median ratio {statistics.median(ratios):.2f}")

        again, _ = ours(paths, scratch)
        print(f"taken up: {len(paths) / again:.0f} images/s, {spent / again:.1f} times as fast as decoding them")

        places = scratch.places()
        with (folder / "squares").open("wb") as stream:
            for path in paths:
                stream.write(scratch.square(places[entry_name(path)]).tobytes())
        shape = (len(paths), given.store_side, given.store_side)
        stored = np.memmap(folder / "squares", dtype=np.uint8, mode="r", shape=shape)
        order = np.random.default_rng(0).permutation(len(paths) // BATCH * BATCH)[: 20 * BATCH].reshape(-1, BATCH)
        started = time.perf_counter()
        for batch in order:
            stored[np.sort(batch)].mean()
        read = time.perf_counter() - started
        started = time.perf_counter()
        for batch in order:
            for position in batch:
                bare(paths[position], given.store_side)
        ratio = (time.perf_counter() - started) / read
        print(f"out of the store, shuffled batches of {BATCH}: {ratio:.0f} times as fast as a decode loop")

        print("images  seconds  ms an image  peak MiB")
        for count in map(int, given.sizes.split(",")):
            repeated = [paths[position % len(paths)] for position in range(count)]
            empty(scratch)
            spent, peak = ours(repeated, scratch)
            print(f"{count:6d} {spent:8.1f} {1000 * spent / count:12.2f} {peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
