"""What an afternoon's plain timm script scores on the same images, to hold a run's result against.

    python benchmarks/plain.py --store STORE [--run RUN] [--backbone NAME] [--side PX] [--epochs N]

Timm backbone from ImageNet weights, AdamW at one-cycle rates, flips and affine transforms of torchvision; no averaging
of weights or views, no choice of epoch, no fusion. STORE is the target store of ``radtransfer preprocess`` with the
configuration of the run. Prints AUROC on the validation split. With ``--run``, the folder of a finished run on the same
images, it learns from the images that the run's models learnt from (a run with ``refit``: from the validation split
too) and prints AUROC on the run's **test** images and the difference of the run's selected model to it, with the paired
95 % interval (bootstrap over leakage groups). That is a look at test results: log it in docs/results.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torchvision.transforms import v2

from radtransfer import artifacts, limits
from radtransfer.artifacts import read_json
from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.intervals import measure, resample
from radtransfer.preprocess.store import Store
from radtransfer.training.network import Network
from radtransfer.training.runtime import settle
from radtransfer.training.weights import load_imagenet

REPLICATES = 2000
BATCH = 16
RATE = 1e-3


def trained(store: Store, splits: tuple[str, ...], backbone: str, side: int, epochs: int) -> Network:
    """The plain script's network."""
    network = Network(backbone, side)
    load_imagenet(network, "")
    network.to(memory_format=torch.channels_last)
    rows = store.rows(*splits)
    labels = torch.from_numpy(store.manifest["label"].to_numpy(np.float32))
    images = torch.from_numpy(np.asarray(store.images[rows])).unsqueeze(1)
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(
                15, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR
            ),
        ]
    )
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    for _ in range(epochs):
        network.train()
        order = torch.randperm(len(rows))
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            seen = torch.stack([change(image) for image in images[batch]]).squeeze(1)
            loss = functional.binary_cross_entropy_with_logits(network(seen), labels[rows][batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def scored(network: Network, store: Store, split: str) -> pd.DataFrame:
    """Image, group, label and probability of a split's images."""
    rows = store.rows(split)
    parts = [network(torch.from_numpy(np.asarray(store.images[rows[at : at + 32]]))) for at in range(0, len(rows), 32)]
    found = store.manifest.iloc[rows][["image_id", "group_id", "label"]].reset_index(drop=True)
    return found.assign(plain=torch.sigmoid(torch.cat(parts)).double().numpy())


def main() -> None:
    """Train, and say what it scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    settle(limits.cpus(), 0)
    store = Store.open(given.store)
    started = time.monotonic()
    refit = bool(given.run) and artifacts.read(given.run / "bundle", "bundle").content.get("refit", False)
    learnt = ("train", "validation") if refit else ("train",)
    network = trained(store, learnt, given.backbone, given.side, given.epochs)
    spent = time.monotonic() - started
    for split in [*({"validation"} - set(learnt)), *(["test"] if given.run else [])]:
        found = scored(network, store, split)
        chosen = ["plain"]
        if split == "test":
            selected = next(row["id"] for row in read_json(given.run / "metrics.json")["results"] if row["selected"])
            of_run = pd.read_parquet(given.run / "evaluation" / "test_scores.parquet")[["image_id", selected]]
            count = len(found)
            found = found.merge(of_run, on="image_id", validate="one_to_one")
            if not len(found) == count == len(of_run):
                parser.error(f"{given.run}: has other test images than {given.store}")
            chosen.append(selected)
        labels = found["label"].to_numpy(dtype=bool)
        weights = resample(found["group_id"].to_numpy(), labels, REPLICATES, 0)
        measured = {name: measure(labels, found[name].to_numpy(), 0.5, weights) for name in chosen}
        for name in chosen:
            auroc = measured[name].intervals["auroc"]
            print(f"{split}, {name}: AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})")
        if split == "test":
            gap = compare(chosen[1], "plain", "auroc", measured, "plain")
            print(f"{chosen[1]} less plain: {gap.difference:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})")
    print(
        f"{given.backbone}, {given.side} px, {given.epochs} epochs on {' and '.join(learnt)}, {spent:.0f} s, "
        f"{limits.cpus()} cores"
    )


if __name__ == "__main__":
    main()
