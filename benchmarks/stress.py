"""What scoring graded corruptions costs, against the bare forward passes that it needs.

    python benchmarks/stress.py [--images 16] [--size 224] [--backbones NAME,NAME,...] [--threads 2]

The suite is what the step ``stress`` does: make every image at every kind and grade, once for all sources, pass it
through the networks of three TL sources, and score it by a classifier on the fused and one on single features of each.
Bare are the forward passes alone, of batches of as many images that lie ready in memory, by the same networks (mirrored
images included). The two take turns kind by kind, so that what else the machine does meets both; which goes first
alternates. In brackets: the ratio of processor time, which other work on the machine does not touch. Images are
synthetic radiographs, networks have random weights: neither has to do with the time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from radtransfer import limits
from radtransfer.datasets import phantoms
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.predictor import Choices, Predictor
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.store import Store
from radtransfer.robustness.kinds import KINDS
from radtransfer.robustness.stress import BATCH, graded_changes, scored
from radtransfer.training.network import Network
from radtransfer.training.runtime import device, settle

AIM = 1.3
SOURCES = ("scratch", "imagenet", "in_domain")


def drawn(count: int, size: int) -> Store:
    """What :func:`graded_changes` and :func:`scored` take of a store of test images."""
    images, rows = [], []
    for case in range(count):
        pixels = phantoms.draw("hand", False, 0.2, 2 * size, anatomy_seed=(1, case), view_seed=(1, case, 0))[0]
        height, width = pixels.shape
        images.append(letterbox(pixels, size)[0])
        rows.append({"sha256": f"{case:064x}", "width": width, "height": height, "shown": [0, 0, width, height]})
    told = {"images": np.stack(images), "manifest": pd.DataFrame(rows), "size": size}
    return cast(Store, SimpleNamespace(**told, rows=lambda split: np.arange(count)))


def choices(backbones: list[str]) -> Choices:
    """Of each source one on fused and one on single features, fitted to noise."""
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], Predictor] = {}
    labels = np.arange(64) % 2
    for source in SOURCES:
        networks = tuple(Network(name).to(device()).to(memory_format=torch.channels_last).eval() for name in backbones)
        for features, used in (("fused", networks), ("single", networks[:1])):
            columns = rng.normal(size=(64, sum(network.feature_dim for network in used)))
            classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(columns, labels)
            found[source, features] = Predictor(used, classifier, Calibration(1.0, 0.0), 0.5)
    return Choices(found)


def bare(networks: list[Network], images: NDArray[np.uint8], passes: int) -> None:
    """The forward passes of so many images."""
    ready = torch.from_numpy(np.resize(images, (passes, *images.shape[1:])))
    with torch.inference_mode():
        for start in range(0, passes, BATCH):
            batch = ready[start : start + BATCH].to(device())
            for network in networks:
                network.features(batch)
                network.features(batch.flip(-1)).cpu()


def timed(work: Callable[[], object]) -> NDArray[np.float64]:
    """Seconds of wall and of processor time."""
    started, worked = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - started, time.process_time() - worked])


def main() -> None:
    """Print the ratios of every kind, and of all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="side of the stored images, px")
    parser.add_argument("--backbones", default="tf_efficientnet_lite2,tf_efficientnet_lite1,tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    settle(given.threads, 0)
    store, chosen = drawn(given.images, given.size), choices(given.backbones.split(","))
    networks = chosen.networks
    spent = np.zeros((2, 2))
    bare(networks, store.images, BATCH)  # the first pass allocates
    for number, kind in enumerate(KINDS):
        changes = graded_changes(store, [kind], 0)
        passes = sum(len(change.rows) for change in changes.values())
        work: list[Callable[[], object]] = [
            partial(bare, networks, store.images, passes),
            partial(scored, chosen, store.images, changes),
        ]
        its = np.zeros((2, 2))
        for which in (0, 1) if number % 2 else (1, 0):
            its[which] = timed(work[which])
        spent += its
        wall, worked = its[1] / its[0]
        print(f"{kind:10s} {passes} images: bare {its[0, 0]:.1f} s, ratio {wall:.3f} ({worked:.3f})", flush=True)
    wall, worked = spent[1] / spent[0]
    print(
        f"{len(networks)} networks, {limits.cpus()} cores, {given.threads} threads: bare {spent[0, 0]:.0f} s, suite "
        f"{spent[1, 0]:.0f} s, ratio {wall:.3f} (of processor time {worked:.3f}; aim: at most {AIM})"
    )


if __name__ == "__main__":
    main()
