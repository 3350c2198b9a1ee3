"""How well and how fast near duplicates are found.

    python benchmarks/duplicates.py --data-root DIR [--copies 300] [--sizes 1000,5000,10000,20000,40000]

For FracAtlas and IQ-OTH/NCCD: whether the candidates miss pairs that comparing all with all finds; and, with copies of
some images that were altered in a known way, which share of the copies lands in the group of its image (recall), and
which share of the pairs that they bring is right (precision). For FracAtlas also the pairs of ``pairs.csv``, which were
looked at: all 107 that seem one exposure, and of those that do not the 30 with the lowest likeness that file numbers
join and the 39 that came nearest to being joined; and how far apart likeness and agreement keep what is and is not one
exposure, which is what the limits of :mod:`radtransfer.preprocess.grouping` were set by. Then the cost against the
number of images, on images made from the real ones by turning, cropping and mirroring: seconds of CPU and memory.
"""

from __future__ import annotations

import argparse
import csv
import io
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from radtransfer.errors import RadtransferError
from radtransfer.preprocess import fingerprint, grouping
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.pixels import Grey
from radtransfer.progress import track

SETS = {"FracAtlas": grouping.RADIOGRAPHS, "IQ-OTHNCCD": grouping.SLICES}
FAR = 1000  # file numbers of copies lie so far apart that only their content can join them


def jpeg(image: Grey, quality: int) -> Grey:
    """The image after lossy compression."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image: Grey, factor: float) -> Grey:
    """The image at another size."""
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((round(width * factor), round(height * factor))))


def marked(image: Grey) -> Grey:
    """The image with a bright marker and a dark label burnt in."""
    copy = image.copy()
    height, width = copy.shape
    copy[height // 12 : height // 6, width // 12 : width // 5] = 255
    copy[-height // 8 : -height // 16, -width // 4 : -width // 16] = 0
    return copy


def cut(image: Grey) -> Grey:
    """The image without its last tenth, as a truncated file shows it."""
    copy = image.copy()
    copy[int(len(copy) * 0.9) :] = 0
    return copy


EDITS: dict[str, Callable[[Grey], Grey]] = {
    "JPEG, quality 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: resized(image, 0.5),
    "marker burnt in": marked,
    "last tenth lost": cut,
    "gamma 0.6": lambda image: np.asarray(255 * (image / 255) ** 0.6, dtype=np.uint8),
    "window halved": lambda image: np.asarray(np.clip(image * 0.5 + 30, 0, 255), dtype=np.uint8),
    "blurred, 1 px": lambda image: np.asarray(gaussian_filter(image, 1.0)),
    "3 % cropped off each side": lambda image: image[
        len(image) * 3 // 100 : len(image) * 97 // 100, image.shape[1] * 3 // 100 : image.shape[1] * 97 // 100
    ],
    "mirrored": lambda image: image[:, ::-1],
}


def decoded(folder: Path) -> Iterator[tuple[str, Grey]]:
    """Name and pixels of each image that can be read."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in track(paths, f"decode {folder.name}", len(paths)):
        try:
            yield path.relative_to(folder).as_posix(), decode(path).pixels
        except RadtransferError:
            continue


def described(images: list[Grey]) -> np.ndarray:
    """Descriptors of thumbnails."""
    return np.stack([fingerprint.descriptor(image) for image in images])


def missed(descriptors: np.ndarray, limit: float) -> tuple[int, int]:
    """Pairs above the limit that the search misses, and all of them."""
    unit = grouping._unit(descriptors)
    every = {(i, j) for i, j in np.argwhere(unit @ unit.T > limit).tolist() if i < j}
    return len(every - {(i, j) for i, j, _ in grouping._alike(descriptors, limit)}), len(every)


def looked_at(files: list[str], descriptors: np.ndarray, thumbnails: list[Grey], limits: grouping.Limits) -> str:
    """What becomes of the pairs that a person judged."""
    with (Path(__file__).parent / "pairs.csv").open(newline="") as stream:
        judged = {(row["file"], row["other"]): row["one_exposure"] == "yes" for row in csv.DictReader(stream)}
    by_content = replace(limits, numbered=1.0)
    said = []
    for what, its in (("content and file number", limits), ("content alone", by_content)):
        joined = {
            (min(files[i], files[j]), max(files[i], files[j]))
            for i, j in grouping.near_duplicates(descriptors, files, thumbnails, its)
        }
        for verdict, name in ((True, "one exposure"), (False, "not one exposure")):
            pairs = {pair for pair, same in judged.items() if same is verdict}
            said.append(f"  {len(pairs & joined)} of {len(pairs)} pairs, by eye {name}, are joined by {what}")
    return "\n".join(said)


def apart(files: list[str], descriptors: np.ndarray, thumbnails: list[Grey], limits: grouping.Limits) -> str:
    """Where the limits lie among the pairs of FracAtlas."""
    alike = {(i, j): value for i, j, value in grouping._alike(descriptors, limits.likeness)}
    agreement = {pair: grouping._agreement(thumbnails[pair[0]], thumbnails[pair[1]]) for pair in alike}
    said = []
    bounds = [np.inf, *(above for above, _ in limits.agreement)]
    for (above, least), below in zip(limits.agreement, bounds, strict=False):
        found = np.sort([agreement[pair] for pair, value in alike.items() if above < value <= below])
        near = ", ".join(f"{value:.2f}" for value in found[(found > 0.3) & (found < 0.8)][::-1][:6])
        where = f"above {above}" + (f" to {below}" if below < 1 else "")
        said.append(
            f"  {len(found)} pairs of likeness {where}, {np.sum(found >= 0.8)} of agreement .8 or more; next {near}; "
            f"limit {least}"
        )
    numbered = list(grouping._numbered(files, ["all"] * len(files)))
    joined = sum(grouping._turned_likeness(descriptors, *pair) > limits.numbered for pair in numbered)
    said.append(f"  {joined} of {len(numbered)} pairs with neighbouring file numbers have a likeness above the limit")
    return "\n".join(said)


def across(files: list[str], descriptors: np.ndarray) -> str:
    """The highest likeness of slices that are never of one case: normal and malignant ones of IQ-OTH/NCCD."""
    unit = grouping._unit(descriptors)
    normal, malignant = (np.array([file.startswith(name) for file in files]) for name in ("Normal", "Malignant"))
    return f"  normal against malignant: likeness {(unit[normal] @ unit[malignant].T).max():.2f} at most"


def quality(name: str, folder: Path, copies: int) -> list[Grey]:
    """Print recall and precision on one set; returns its thumbnails."""
    limits = SETS[name]
    rng = np.random.default_rng(0)
    pixels = list(decoded(folder))
    files = [file for file, _ in pixels]
    thumbnails = [fingerprint.thumbnail(image) for _, image in pixels]
    descriptors = described(thumbnails)
    joined = grouping.near_duplicates(descriptors, files, thumbnails, limits)
    alone = grouping.groups(len(files), joined, [[] for _ in files])
    sizes = np.bincount(alone)
    lost, pairs = missed(descriptors, limits.likeness)
    print(
        f"{name}: {len(files)} images, {len(sizes)} groups, {np.sum(sizes > 1)} of several images ({sizes.max()} at "
        f"most) by {len(joined)} pairs; of {pairs} alike pairs {lost} are missed"
    )
    if name == "FracAtlas":
        print(looked_at(files, descriptors, thumbnails, limits))
        print(apart(files, descriptors, thumbnails, limits))
    else:
        print(across(files, descriptors))
    chosen = rng.choice(len(files), min(copies, len(files)), replace=False)
    print(f"  {'copies, ' + str(len(chosen)) + ' of each':28s} recall  precision")
    for edit, change in EDITS.items():
        small = [fingerprint.thumbnail(np.ascontiguousarray(change(pixels[i][1]))) for i in chosen]
        names = [f"copy/{FAR * number}.png" for number in range(len(chosen))]
        both = np.concatenate([descriptors, described(small)])
        found = grouping.near_duplicates(both, files + names, thumbnails + small, limits)
        new = [(i, j - len(files)) for i, j in found if i < len(files) <= j]
        together = grouping.groups(len(both), found, [[] for _ in both])
        hits = np.mean([together[i] == together[len(files) + k] for k, i in enumerate(chosen)])
        right = np.mean([alone[i] == alone[chosen[k]] for i, k in new]) if new else float("nan")
        print(f"  {edit:28s} {hits:6.3f}  {right:9.3f}", flush=True)
    return thumbnails


def varied(thumbnails: list[Grey], count: int) -> Iterator[Grey]:
    """The thumbnails, then variations of them that are no duplicates."""
    rng = np.random.default_rng(1)
    side = fingerprint.THUMBNAIL
    for number in range(count):
        image = thumbnails[number % len(thumbnails)]
        if number >= len(thumbnails):
            width = rng.uniform(0.5, 0.65) * side
            left, top = rng.uniform(0, side - width, 2)
            turned = Image.fromarray(image).rotate(rng.uniform(-40, 40), Image.Resampling.BILINEAR)
            image = np.asarray(turned.resize((side, side), box=(left, top, left + width, top + width)))
            image = image[:, ::-1] if rng.random() < 0.5 else image
        yield image


def main() -> None:
    """Print quality, then cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--sizes", default="1000,5000,10000,20000,40000")
    given = parser.parse_args()
    thumbnails = [image for name in SETS for image in quality(name, given.data_root / name, given.copies)]
    print("images  CPU s  CPU ms an image  peak MiB")
    for count in map(int, given.sizes.split(",")):
        descriptors = np.empty((count, len(fingerprint.descriptor(thumbnails[0]))), dtype=np.int8)
        for number, image in enumerate(varied(thumbnails, count)):
            descriptors[number] = fingerprint.descriptor(image)
        started = time.process_time()
        found = list(grouping._alike(descriptors, grouping.RADIOGRAPHS.likeness))
        spent = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count:6d} {spent:6.1f} {1000 * spent / count:16.2f} {peak:9.0f}   {len(found)} alike pairs", flush=True
        )


if __name__ == "__main__":
    main()
