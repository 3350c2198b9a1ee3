"""How near training and extraction come to what the arithmetic alone costs, and to timm's own way of feeding images.

    python benchmarks/training.py [--backbone tf_efficientnet_lite0] [--side 160] [--images 128] [--repeat 3]

One epoch of training, ours (uint8 images from the memory-mapped store, augmented as a batch), in turn with

* the same steps fed one batch of random tensors that lies in memory: the bare limit;
* timm's data path, ``create_dataset`` and ``create_loader`` with two workers and its own augmentation for training, on
  JPEG files of 512 px, and the same step;

and extraction, image and mirror image, against as many bare forward passes over a resident tensor. Images per second,
and the median ratio over the repeats, each in one run on one machine: 1 is as fast as the other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader  # type: ignore[attr-defined]
from torch.nn import functional

from radtransfer.datasets import phantoms
from radtransfer.preprocess.store import taken
from radtransfer.training.augment import augment
from radtransfer.training.inference import infer
from radtransfer.training.loop import Recipe, Training
from radtransfer.training.network import Network
from radtransfer.training.runtime import device, settle

FILE_SIDE = 512
FORWARD_BATCH = 32


def drawn(folder: Path, count: int, side: int) -> Path:
    """JPEG files in class folders, as timm reads them, and the same images as our store has them: path of the array."""
    stored = np.lib.format.open_memmap(folder / "store.npy", mode="w+", dtype=np.uint8, shape=(count, side, side))
    for number in range(count):
        pixels, _ = phantoms.draw(
            "hand", bool(number % 2), 0.2, FILE_SIDE, anatomy_seed=(1, number), view_seed=(1, number, 0)
        )
        place = folder / "files" / ("normal", "abnormal")[number % 2] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        image.save(place, quality=90)
        stored[number] = np.asarray(image.resize((side, side)))
    stored.flush()
    return folder / "store.npy"


def timed(work: Callable[[], int]) -> float:
    """Images per second; ``work`` returns how many it did."""
    started = time.perf_counter()
    count = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print images per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--side", type=int, default=160, help="side of the images fed to the network, px")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    settle(given.threads, 0, tf32=True)
    with tempfile.TemporaryDirectory(prefix="radtransfer-bench-") as temporary:
        folder = Path(temporary)
        store = np.load(drawn(folder, given.images, given.side), mmap_mode="r")
        training = Training(Network(given.backbone, given.side), Recipe(1, given.batch_size, 1e-4, 0.02, 0))
        network, size, count = training.network, int(given.batch_size), int(given.images)
        steps = count // size
        target = torch.arange(size, device=device()) % 2.0
        resident = torch.rand(size, given.side, given.side, device=device()) * 255
        generator = torch.Generator().manual_seed(0)
        loader = create_loader(
            create_dataset("", str(folder / "files")),
            input_size=(3, given.side, given.side),
            batch_size=size,
            is_training=True,
            num_workers=2,
            auto_augment="rand-m9-mstd0.5",
            re_prob=0.25,
            use_prefetcher=torch.cuda.is_available(),
            device=device(),
            persistent_workers=True,
        )

        def learn(logits: torch.Tensor, labels: torch.Tensor) -> None:
            training.learn(functional.binary_cross_entropy_with_logits(logits, labels), 1.0)

        def ours() -> int:
            network.train()
            order = np.random.default_rng(0).permutation(count)
            for step in range(steps):
                batch = taken(store, np.sort(order[step * size : (step + 1) * size]))
                learn(network(augment(torch.from_numpy(batch).to(device()), generator)[0]), target)
            return steps * size

        def bare() -> int:
            network.train()
            for _ in range(steps):
                learn(network(resident), target)
            return steps * size

        def timms() -> int:
            network.train()
            seen = 0
            for images, labels in loader:
                learn(network.body(images.contiguous(memory_format=torch.channels_last)).squeeze(1), labels.float())
                seen += len(labels)
            return seen

        def extraction() -> int:
            infer(network.eval(), store)
            return count

        held = torch.rand(FORWARD_BATCH, given.side, given.side, device=device()) * 255

        def forward() -> int:
            network.eval()
            with torch.inference_mode():
                prepared = network.prepare(held)
                for _ in range(2 * count // FORWARD_BATCH):
                    network.body(prepared)
            return count // FORWARD_BATCH * FORWARD_BATCH

        rates: dict[str, list[float]] = {}
        for _ in range(given.repeat + 1):
            for work in (ours, bare, timms, extraction, forward):
                rates.setdefault(work.__name__, []).append(timed(work))
        for name, seen in rates.items():
            print(f"{name}: {statistics.median(seen[1:]):.1f} images/s")
        for one, other, text in (
            ("ours", "bare", "training against the same step on resident tensors"),
            ("ours", "timms", "training against timm's data path"),
            ("extraction", "forward", "extraction against the bare forward pass"),
        ):
            ratios = [first / second for first, second in zip(rates[one][1:], rates[other][1:], strict=True)]
            print(f"{text}: median ratio {statistics.median(ratios):.2f} of {', '.join(f'{r:.2f}' for r in ratios)}")
        print(f"{given.backbone}, {given.side} px, batches of {size}, {given.threads} threads, {device().type}")


if __name__ == "__main__":
    main()
