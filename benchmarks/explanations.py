"""What explanations cost: Grad-CAM against predicting, LIME against the library as it comes and against the bare floor.

    python benchmarks/explanations.py --data-root DIR [--gradcam 100] [--images 20] [--timed 2] [--samples 1000]
        [--size 160] [--backbones NAME,NAME,...] [--threads 2] [--quality 0]

The predictor is networks with ImageNet weights (no training) and a classifier on their fused features, fitted to 120
radiographs of the hand of FracAtlas, half of them fractured; the images explained are others.

**Grad-CAM** of the fused decision for so many images, features and score included, against predicting them, by an
exactly differentiable classifier and by a forest, for which the nearest linear function is looked for. Fidelity is that
function's.

**LIME**, on the first ``--timed`` images: ours; the library's own (its default segmentation, perturbation and batches
of 10, its classifier function the same networks and classifier in float32); and the floor: as many images through the
same networks and classifier in full batches. On ``--images`` images: how many of the five superpixels with the greatest
weights ours and the library's have in common on our segmentation (whose padding it takes for a superpixel, left out of
the five), and how many two seeds of ours; as it is, and with perturbations drawn independently as the library's, hidden
superpixels blurred, or both.

**Measuring** both methods (``radtransfer.explain.quality``) on ``--quality`` images, against as many images as that
passes through the same networks and classifier in full batches, each perturbed image once.

Processor time is what other work on the machine does not touch.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from contextlib import redirect_stderr
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray

from radtransfer import limits
from radtransfer.artifacts import Artifact
from radtransfer.errors import RadtransferError
from radtransfer.explain import faithfulness, gradcam, quality, superpixels
from radtransfer.fusion import grid
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.classifiers import pipeline
from radtransfer.fusion.predictor import Predictor
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import Letterbox, letterbox
from radtransfer.preprocess.store import Store
from radtransfer.training.network import Network
from radtransfer.training.runtime import settle
from radtransfer.training.weights import load_imagenet

LEARNT = 120
GRADCAM_AIM, FLOOR_AIM, STOCK_AIM, OVERLAP_AIM = 4.0, 1.25, 5.0, 0.8


def radiographs(data_root: Path, count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int8], list[Letterbox]]:
    """So many hand images, fractured ones and others in turn, each as it is stored and with its place there."""
    folder = data_root / "FracAtlas"
    with (folder / "dataset.csv").open(newline="") as stream:
        hands = [row for row in csv.DictReader(stream) if row["hand"] == "1"]
    images, labels, frames = [], [], []
    for label, kind in enumerate(("Non_fractured", "Fractured")):
        taken = 0
        for name in sorted(row["image_id"] for row in hands if int(row["fractured"]) == label):
            if taken == (count + label) // 2:
                break
            try:
                stored, frame = letterbox(decode(folder / "images" / kind / name).pixels, size)
            except RadtransferError:
                continue
            images.append(stored)
            labels.append(label)
            frames.append(frame)
            taken += 1
    order = np.argsort(np.concatenate([np.arange(labels.count(label)) for label in (0, 1)]), kind="stable")
    return np.stack(images)[order], np.array(labels, np.int8)[order], [frames[place] for place in order]


def now() -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    return time.perf_counter(), time.process_time()


def stock(
    predict: Predictor, image: NDArray[np.uint8], samples: int, segments: NDArray[np.int64] | None = None
) -> dict[int, float]:
    """The library's own weights of its superpixels, or of these."""

    def probabilities(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        score = predict(np.ascontiguousarray(images[..., 0]))
        return np.stack([1 - score, score], axis=1)

    with redirect_stderr(io.StringIO()):  # its progress bar
        found = LimeImageExplainer(random_state=0).explain_instance(
        np.repeat(image[..., None], 3, axis=2), probabilities, labels=(1,), top_labels=None, num_samples=samples,
        random_seed=0, segmentation_fn=None if segments is None else lambda _: segments,
    )  # fmt: skip
    return {int(superpixel): float(weight) for superpixel, weight in found.local_exp[1]}


def cost_of_gradcam(name: str, predict: Predictor, images: NDArray[np.uint8]) -> None:
    """Print what Grad-CAM costs."""
    predict(images[:1])
    moments = [now()]
    predict(images)
    moments.append(now())
    heat = gradcam.gradcam(predict, images, predict.passed(images))
    moments.append(now())
    (predicting, worked), (explaining, working) = np.diff(moments, axis=0)
    print(
        f"Grad-CAM, {name}: {len(images)} images predicted in {predicting:.1f} s, explained in {explaining:.1f} s, "
        f"ratio {explaining / predicting:.2f}, of processor time {working / worked:.2f} (aim: at most "
        f"{GRADCAM_AIM:g}); fidelity {heat.fidelity.mean():.2f}",
        flush=True,
    )


def cost_of_lime(predict: Predictor, images: NDArray[np.uint8], frames: list[Letterbox], samples: int) -> None:
    """Print what LIME costs."""
    spent = np.zeros((3, 2))
    for image, frame in zip(images, frames, strict=True):
        box = frame.box(0, 0, frame.width, frame.height)
        moments = [now()]
        superpixels.lime(predict, image, box, samples=samples, seed=0)
        moments.append(now())
        stock(predict, image, samples)
        moments.append(now())
        predict(np.repeat(image[None], samples, axis=0))
        moments.append(now())
        spent += np.diff(moments, axis=0) / len(images)
    (own, library, floor), (worked, library_worked, floor_worked) = spent.T
    print(
        f"LIME, {samples} perturbations, {len(images)} images: ours {own:.1f} s an image, the library as it comes "
        f"{library:.1f}, floor {floor:.1f}; {library / own:.2f} times as fast (aim: {STOCK_AIM:g}; at the floor "
        f"{library / floor:.2f}), {own / floor:.2f} of the floor (aim: {FLOOR_AIM}); by processor time "
        f"{library_worked / worked:.2f} and {worked / floor_worked:.2f}",
        flush=True,
    )


def cost_of_quality(predict: Predictor, images: NDArray[np.uint8], frames: list[Letterbox], samples: int) -> None:
    """Print what measuring both methods costs."""
    told = [
        {"image_id": str(place), "group_id": str(place), "width": frame.width, "height": frame.height}
        | {"shown": [0, 0, frame.width, frame.height], "boxes": []}
        for place, frame in enumerate(frames)
    ]
    store = Store(Artifact(Path(), "image-store", "", {}, {}, {}), images, pd.DataFrame(told))
    passes = 2 * samples + 2 + 2 * 3 * (faithfulness.STEPS - 1)
    predict(images[:1])
    moments = [now()]
    quality.measured(store, np.arange(len(images)), "imagenet", predict, samples=samples, seed=0)
    moments.append(now())
    predict(np.repeat(images, passes, axis=0))
    moments.append(now())
    (own, worked), (floor, floor_worked) = np.diff(moments, axis=0)
    print(
        f"measuring both methods, {samples} perturbations, {len(images)} images: {own / len(images):.1f} s an image, "
        f"its {passes} passes {floor / len(images):.1f} s, ratio {own / floor:.2f}, of processor time "
        f"{worked / floor_worked:.2f}",
        flush=True,
    )


def independent(samples: int, superpixels: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Which superpixels are shown, as the library draws it."""
    shown = random.randint(0, 2, (samples, superpixels))
    shown[0] = 1
    return shown


def agreement(predict: Predictor, images: NDArray[np.uint8], frames: list[Letterbox], samples: int) -> None:
    """Print how far LIME agrees with the library's and with itself, as it is and otherwise."""
    shared: dict[str, list[float]] = {}
    steady: dict[str, list[superpixels.Steadiness]] = {}
    fidelity: dict[str, list[float]] = {}
    for done, (image, frame) in enumerate(zip(images, frames, strict=True), start=1):
        box = frame.box(0, 0, frame.width, frame.height)
        segments = superpixels.segment(image, box)
        count = int(segments.max()) + 1
        library = stock(predict, image, samples, np.where(segments < 0, count, segments))
        theirs = np.array([library.get(superpixel, 0.0) for superpixel in range(count)])
        blur = superpixels.blurred(image, box)
        for name, changed in (
            ("as it is", {"design": superpixels.design}),
            ("independent draws", {"design": independent}),
            ("hidden superpixels blurred", {"averaged": lambda *_, blur=blur: blur}),
            ("both", {"design": independent, "averaged": lambda *_, blur=blur: blur}),
        ):
            with patch.multiple(superpixels, **changed):
                own, other = (superpixels.lime(predict, image, box, samples=samples, seed=seed) for seed in (0, 1))
            common = superpixels.greatest(own.weights) & superpixels.greatest(theirs)
            shared.setdefault(name, []).append(len(common) / superpixels.TOP)
            steady.setdefault(name, []).append(superpixels.steadiness(own, other))
            fidelity.setdefault(name, []).append(own.fidelity)
        print(f"image {done} of {len(images)}: {count} superpixels", flush=True)
    print(f"{samples} perturbations, {len(images)} images; of the five greatest superpixels")
    for name, found in steady.items():
        tops = np.mean([one.top for one in found if one.top is not None])
        ranks = np.mean([one.spearman for one in found if one.spearman is not None])
        print(
            f"{name}: {np.mean(shared[name]):.2f} are the library's too (aim: {OVERLAP_AIM}), {tops:.2f} another "
            f"seed's; rank correlation of all weights with another seed's {ranks:.2f}; R2 {np.mean(fidelity[name]):.2f}"
        )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--gradcam", type=int, default=100)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--timed", type=int, default=2)
    parser.add_argument("--quality", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--backbones", default="tf_efficientnet_lite2,tf_efficientnet_lite1,tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    settle(given.threads, 0)
    networks = tuple(Network(name, given.size).eval() for name in given.backbones.split(","))
    for network in networks:
        load_imagenet(network, "")
    most = max(given.gradcam, given.images, given.timed, given.quality)
    images, labels, frames = radiographs(given.data_root, LEARNT + most, given.size)
    bare = Predictor(networks, None, Calibration(1.0, 0.0), 0.5)
    features = np.concatenate([block for block, _ in bare.passed(images[:LEARNT])], axis=1)
    widths = [network.feature_dim for network in networks]
    print(f"{len(networks)} networks, {given.size} px, {limits.cpus()} cores, {given.threads} threads")
    predictors = {}
    for name in ("random_forest", "logistic_regression"):
        fitted = pipeline(name, grid.space(name, {}, 1, 0)[0], widths, 256, 0).fit(features, labels[:LEARNT])
        predictors[name] = Predictor(networks, fitted, Calibration(1.0, 0.0), 0.5)
    images, frames = images[LEARNT:], frames[LEARNT:]
    if given.gradcam:
        for name, predict in predictors.items():
            cost_of_gradcam(name, predict, images[: given.gradcam])
    predict = predictors["logistic_regression"]
    if given.timed:
        cost_of_lime(predict, images[: given.timed], frames[: given.timed], given.samples)
    if given.quality:
        cost_of_quality(predict, images[: given.quality], frames[: given.quality], given.samples)
    if given.images:
        agreement(predict, images[: given.images], frames[: given.images], given.samples)


if __name__ == "__main__":
    main()
