"""Whether prediction tells images that a model must not judge: photographs, CT slices, blank images.

    python benchmarks/unfit.py --data-root DIR [--run RUN] [--seed 0]

With the bundle of a small run for fractures of the hand (one backbone from ImageNet, small images, two epochs and
refitted, no other TL source), or of a finished run of the hand (``--run``, its output folder), `predict` is given 100
test images of the run, 20 photographs (of scikit-image and scikit-learn, whole and cropped), the same in grey, 20 CT
slices of IQ-OTH/NCCD, 5 blank images; and radiographs of other body parts, 30 each, that hold no hand.

Prints for each kind how many are refused, why, and the AUROC of fit against unfit; by the distance alone, but where
an image is refused before it reaches a network, which counts as the greatest distance. Exit code 1 where the AUROC of
all unfit images together, of the grey photographs, or of the CT slices is below .95. Other body parts are near: their
AUROC is told and has no bound.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
import sklearn.datasets
from PIL import Image
from sklearn.metrics import roc_auc_score

from radtransfer.artifacts import read
from radtransfer.evaluation.evaluate import evaluate
from radtransfer.evaluation.proportions import wilson
from radtransfer.fusion.classify import classify
from radtransfer.fusion.extract import extract
from radtransfer.fusion.fuse import fuse
from radtransfer.preprocess.run import preprocess
from radtransfer.registry.bundle import register
from radtransfer.registry.judge import Prediction
from radtransfer.registry.predict import predict
from radtransfer.robustness.stress import stress
from radtransfer.training.steps import finetune

LEAST = 0.95
BACKBONE = "tf_efficientnet_lite0"
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png",
               "coins.png", "china.jpg", "flower.jpg")  # fmt: skip
CT = ("Malignant cases", "Bengin cases")
PARTS = ("leg", "hip", "shoulder")
FLAGS = ("hand", *PARTS, "mixed")
THREADS = 1  # the figures hang on it a little


def small_run(data_root: Path, out: Path, seed: int) -> None:
    """Bundle and evaluation of a small run for the hand."""
    preprocess(
        data_root=data_root, target_layout="fracatlas", target_path="FracAtlas", target_part="hand",
        source_layout="fracatlas", source_path="FracAtlas", source_parts=["shoulder"], image_size=144,
        test_fraction=0.25, validation_fraction=0.25, max_images=480, seed=seed, target_out=out / "target",
        source_out=out / "source",
    )  # fmt: skip
    finetune(
        target_store=out / "target", backbone=BACKBONE, tl_source="imagenet", pretrained=None, epochs=2, batch_size=8,
        learning_rate=3e-4, weight_decay=0.02, layer_decay=1.0, freeze_epochs=0, patience=0, input_size=128,
        weights_mirror="", seed=seed, threads=THREADS, checkpoints="", checkpoint_minutes=5, refit=True,
        out=out / "model",
    )  # fmt: skip
    extract(store=out / "target", models=[out / "model"], threads=THREADS, out=out / "features")
    fuse(features=out / "features", out=out / "fused")
    classify(fused=out / "fused", classifiers=["logistic_regression"], cv_folds=3, seed=seed, out=out / "classifiers")
    stress(
        target_store=out / "target", classifiers=[out / "classifiers"], models=[out / "model"], corruptions=[],
        seed=seed, threads=THREADS, out=out / "stress",
    )  # fmt: skip
    evaluate(
        target_store=out / "target", classifiers=[out / "classifiers"], stress=out / "stress", bootstrap=100,
        seed=seed, out=out / "evaluation",
    )  # fmt: skip
    register(
        name="unfit", target_store=out / "target", evaluation=out / "evaluation", classifiers=[out / "classifiers"],
        models=[out / "model"], pretrained=[], config={}, registry="", out=out / "bundle",
    )  # fmt: skip


def photographs() -> Iterator[Image.Image]:
    """Twenty: each whole and its middle, and of two their upper left quarter."""
    folders = [Path(str(module.__file__)).parent for module in (skimage.data, sklearn.datasets)]
    places = [folders[0], folders[1] / "images"]
    for name in PHOTOGRAPHS:
        image = Image.open(next(place / name for place in places if (place / name).is_file()))
        wide, high = image.size
        yield image
        yield image.crop((wide // 4, high // 4, 3 * wide // 4, 3 * high // 4))
        if name in ("astronaut.png", "china.jpg"):
            yield image.crop((0, 0, wide // 2, high // 2))


def unfit_images(data_root: Path, out: Path, seed: int) -> dict[str, list[Path]]:
    """Files of each kind."""
    draw = np.random.default_rng(seed)
    kinds: dict[str, list[Path]] = {"photographs": [], "grey photographs": [], "blank": []}
    for number, image in enumerate(photographs()):
        for kind, shown in (("photographs", image), ("grey photographs", image.convert("RGB").convert("L"))):
            kinds[kind].append(out / f"{kind.partition(' ')[0]}-{number}.png")
            shown.save(kinds[kind][-1])
    for level in (0, 64, 128, 200, 255):
        kinds["blank"].append(out / f"blank-{level}.png")
        noise = draw.normal(level, 1.5 if level == 128 else 0, (300, 240))
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(kinds["blank"][-1])
    slices = [sorted(path for path in (data_root / "IQ-OTHNCCD" / name).iterdir()) for name in CT]
    kinds["CT slices"] = [its[place] for its in slices for place in np.linspace(0, len(its) - 1, 10).astype(int)]
    with (data_root / "FracAtlas" / "dataset.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = {path.name: path for path in (data_root / "FracAtlas" / "images").rglob("*.jpg")}
    for part in PARTS:
        names = [row["image_id"] for row in rows if [flag for flag in FLAGS if row[flag] == "1"] == [part]]
        kinds[part] = [files[name] for name in draw.permutation(names)[:30].tolist()]
    return kinds


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or take the bundle, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="output folder of a finished run of the hand")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="radtransfer-unfit-") as name:
        place = Path(name)
        run = given.run or place / "run"
        if given.run is None:
            small_run(given.data_root, run, given.seed)
        names = pd.read_parquet(run / "evaluation" / "test_scores.parquet", columns=["image_id"])["image_id"]
        drawn = np.random.default_rng(given.seed).permutation(names.to_numpy())[:100]
        kinds = {"test images": [given.data_root / one for one in drawn.tolist()]}
        (place / "images").mkdir()
        kinds |= unfit_images(given.data_root, place / "images", given.seed)
        bundle = read(run / "bundle", "bundle").content
        found = iter(predict(bundle=run / "bundle", images=[*chain.from_iterable(kinds.values())], threads=THREADS))
        said = {kind: [next(found) for _ in files] for kind, files in kinds.items()}
    return 0 if table(said, bundle["unfit"]["limit"], bundle["unfit"]["false_alarms"]) else 1


def table(said: dict[str, list[Prediction]], limit: float, alarms: dict[str, float]) -> bool:
    """Print what was found; whether it will do."""
    readable = {kind: [one for one in its if not one.reason] for kind, its in said.items()}
    distances = {
        kind: [np.inf if one.distance is None else one.distance for one in its] for kind, its in readable.items()
    }
    fit = distances["test images"]

    def auroc(unfit: list[float]) -> float:
        largest = max(one for its in distances.values() for one in its if np.isfinite(one)) + 1
        scores = np.minimum([*fit, *unfit], largest)
        return float(roc_auc_score(np.repeat([0, 1], [len(fit), len(unfit)]), scores))

    far = [kind for kind in said if kind not in ("test images", *PARTS)]
    aurocs = {kind: auroc(its) for kind, its in distances.items() if kind != "test images"}
    together = auroc([*chain.from_iterable(distances[kind] for kind in far)])
    print(f"limit {limit:.2f}; of the run's {alarms['images']} test images {alarms['unfit']} are beyond it")
    print(f"{'kind':18}{'n':>4}  {'refused (95 % interval)':26}{'AUROC':>7}  median distance; reasons")
    for kind, its in readable.items():
        refused = np.array([bool(one.unfit) for one in its], np.float64)
        share = wilson(refused, np.ones(len(its)), np.arange(len(its)))
        assert share is not None
        reasons = Counter(one.unfit.partition(" (")[0] for one in its if one.unfit)
        print(
            f"{kind:18}{len(its):4}  {share.value:6.1%} ({share.low:.1%} to {share.high:.1%})".ljust(50)
            + (f"{aurocs[kind]:7.3f}" if kind in aurocs else " " * 7)
            + f"  {np.median(distances[kind]):.2f}; {dict(reasons)}"
        )
    print(f"all of {', '.join(far)}: AUROC {together:.3f}; at least {LEAST} asked")
    return min(together, aurocs["grey photographs"], aurocs["CT slices"]) >= LEAST


if __name__ == "__main__":
    sys.exit(main())
