"""Whether the memory of a training grows with the data set: the same number of steps on a small and on a large store.

    python benchmarks/scale.py [--images 1000,40000] [--side 128] [--backbone NAME] [--input-size 64] [--steps 300]

Synthetic image stores, written as `preprocess` writes them (a sixteenth of the images for validation, one for test),
then `finetune` on each in a process of its own, which ends its epoch early so that both take the same number of steps.
Every 50 ms the parent reads what the kernel says of the child. Printed are the peaks of

* anonymous memory (``RssAnon``), which is the process's own;
* resident memory (``VmHWM``), which adds the mapped pages of the store, of libraries and of weights: clean pages that
  the kernel takes back when it needs room.

Exit code 1 if either is larger by more than 5 % on the largest store than on the smallest.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from radtransfer import artifacts
from radtransfer.preprocess import store
from radtransfer.preprocess.pixels import Grey

ALLOWED = 1.05
BATCH = 16
SPLITS = ("train",) * 14 + ("validation", "test")


def written(path: Path, count: int, side: int) -> None:
    """A store of noise whose manifest is as wordy as that of radiographs with patients, studies and boxes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, side, side), dtype=np.uint8)

    def pixels() -> Iterator[Grey]:
        for number in range(count):
            yield np.roll(noise[number % 64], number, axis=1)

    rows = [
        {
            "image_id": f"XR_HAND/patient{number:05d}/study1_{('negative', 'positive')[number % 2]}/image1.png",
            "label": number % 2,
            "label_name": ("normal", "abnormal")[number % 2],
            "body_part": "hand",
            "patient_id": digest[:16],
            "study_id": digest[16:32],
            "group_id": digest[:16],
            "split": SPLITS[number // 2 % len(SPLITS)],
            "boxes": [[10.0, 12.0, 40.0, 50.0]] if number % 2 else [],
            "source_file": f"XR_HAND/patient{number:05d}/study1_{('negative', 'positive')[number % 2]}/image1.png",
            "sha256": digest,
            "flags": [],
            "width": 512,
            "height": 406,
            "shown": [0, 0, 512, 406],
        }
        for number in range(count)
        for digest in [hashlib.sha256(str(number).encode()).hexdigest()]
    ]
    with artifacts.writing(path, "image-store", step="preprocess", settings={}) as (folder, content):
        store.write(folder, rows, pixels(), side, [], count)
        content.update(role="target", images=count, size=side, positive_class="abnormal")


def train(path: Path, backbone: str, side: int, steps: int, out: Path) -> None:
    """Fine-tune in this process for about so many steps."""
    from radtransfer.training import loop, schedule
    from radtransfer.training.steps import finetune

    whole = schedule.steps_per_epoch
    per_epoch = min(steps, whole(len(store.Store.open(path).rows("train")), BATCH))
    vars(loop)["steps_per_epoch"] = lambda images, batch_size: min(steps, whole(images, batch_size))
    finetune(
        target_store=path, backbone=backbone, tl_source="scratch", pretrained=None, epochs=max(1, steps // per_epoch),
        batch_size=BATCH, learning_rate=1e-4, weight_decay=0.0, layer_decay=1.0, freeze_epochs=0, patience=0,
        input_size=side, weights_mirror="", seed=0, threads=1, checkpoints=str(out.parent), checkpoint_minutes=5,
        out=out,
    )  # fmt: skip


def watched(command: list[str]) -> dict[str, float]:
    """Peak MiB of a process by the names that the kernel has for them."""
    peaks = dict.fromkeys(("RssAnon", "RssFile", "VmHWM"), 0.0)
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            said = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for name, *value in map(str.split, said.splitlines()):
            if (key := name.rstrip(":")) in peaks:
                peaks[key] = max(peaks[key], int(value[0]) / 1024)
        time.sleep(0.05)
    if process.wait():
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
    return peaks


def main() -> None:
    """Print the peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,40000")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument(
        "--input-size", type=int, default=64, help="side fed to the network, px; the smaller, the harder"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train", type=Path, help="train on this store here")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.train:
        train(given.train, given.backbone, given.input_size, given.steps, given.out)
        return
    peaks = []
    counts = sorted(map(int, given.images.split(",")))
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="radtransfer-bench-") as temporary:
            folder = Path(temporary)
            written(folder / "store", count, given.side)
            command = [sys.executable, __file__, "--train", str(folder / "store"), "--out", str(folder / "model")]
            command += [
                "--backbone",
                given.backbone,
                "--steps",
                str(given.steps),
                "--input-size",
                str(given.input_size),
            ]
            peaks.append(watched(command))
        print(f"{count} images: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in peaks[-1].items()), flush=True)
    ratios = {name: peaks[-1][name] / peaks[0][name] for name in ("RssAnon", "VmHWM")}
    for name, ratio in ratios.items():
        print(f"{name}: ratio {ratio:.3f} of {counts[-1]} images to {counts[0]}")
    print(f"{given.backbone}, {given.side} px stored, {given.input_size} px fed, {given.steps} steps of {BATCH} images")
    if max(ratios.values()) > ALLOWED:
        sys.exit(1)


if __name__ == "__main__":
    main()
