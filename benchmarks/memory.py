"""What keeping freed memory gains a network on the CPU: seconds with and without, and the ratio.

    python benchmarks/memory.py [--backbone NAME] [--side PX] [--images N] [--repeat N]

A forward pass over stored images and a training step, each in processes of their own, since the C library cannot be
told to forget what it was told; the features of both must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from radtransfer.training import runtime
from radtransfer.training.inference import infer
from radtransfer.training.network import Network

BATCH = 8


def measured(backbone: str, side: int, count: int, keep: bool) -> dict[str, Any]:
    """Seconds of this process, whose memory is kept or not."""
    if not keep:
        runtime._keep_memory = lambda: None
    runtime.settle(2, 0)
    network = Network(backbone, side).eval()
    images = np.random.default_rng(0).integers(0, 255, (count, side, side)).astype(np.uint8)
    infer(network, images[:BATCH])
    started = time.perf_counter()
    features, _ = infer(network, images)
    forward = time.perf_counter() - started
    network.train()
    optimizer = torch.optim.AdamW(network.parameters())
    started = time.perf_counter()
    for start in range(0, count, BATCH):
        loss = network(torch.from_numpy(images[start : start + BATCH])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    training = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    digest = hashlib.sha256(features.tobytes()).hexdigest()
    return {"forward": forward, "training": training, "peak_mib": peak, "digest": digest}


def main() -> None:
    """Measure both in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite1")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", choices=("keep", "plain"), help="measure this one here and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.backbone, given.side, given.images, given.one == "keep")))
        return
    command = [sys.executable, __file__, "--backbone", given.backbone, "--side", str(given.side)]
    command += ["--images", str(given.images), "--one"]
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "keep": []}
    for _ in range(given.repeat):
        for one, results in runs.items():
            done = subprocess.run([*command, one], check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
    if len({run["digest"] for results in runs.values() for run in results}) != 1:
        sys.exit("the features differ: keeping memory must not change a bit")
    for what in ("forward", "training"):
        plain, keep = (statistics.median(run[what] for run in runs[one]) for one in ("plain", "keep"))
        print(f"{what}: {plain:.2f} s as it comes, {keep:.2f} s with memory kept, ratio {plain / keep:.2f}")
    peaks = {one: max(run["peak_mib"] for run in results) for one, results in runs.items()}
    print(f"peak {peaks['plain']:.0f} MiB as it comes, {peaks['keep']:.0f} MiB with memory kept")


if __name__ == "__main__":
    main()
