"""Explaining what a bundle says of image files: overlays in original size, a table and a page to look at them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radtransfer import artifacts, pages
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.charts import number
from radtransfer.evaluation.report_text import RESEARCH_USE
from radtransfer.explain import draw, gradcam, superpixels
from radtransfer.preprocess.letterbox import Letterbox
from radtransfer.progress import track
from radtransfer.registry.judge import Judge, Prediction, Seen, check_files
from radtransfer.training.runtime import settle

METHODS = {"gradcam": gradcam.DESCRIPTION, "lime": superpixels.DESCRIPTION}
LIME_SAMPLES = 200
"""Perturbed images per LIME explanation unless told otherwise."""


@dataclass(frozen=True)
class Explained:
    """A row of ``index.csv``; what does not apply to an image is empty.

    Attributes:
        image: the file as it was named.
        score, label, unfit, distance: as :class:`radtransfer.registry.judge.Prediction` has them.
        gradcam, lime: files of the overlays.
        gradcam_empty: ``yes`` where nothing in the image speaks for the positive class, so that the overlay is the
            plain image.
        gradcam_fidelity: of the gradient of the decision; 1 where it is exact.
        lime_r2: weighted R² of LIME's linear function on the perturbed images that it was fitted to.
        lime_spearman, lime_top5: agreement with another seed, see :class:`radtransfer.explain.superpixels.Steadiness`.
    """

    image: str
    score: float | None
    label: str | None
    unfit: str
    distance: float | None
    gradcam: str = ""
    lime: str = ""
    gradcam_empty: str = ""
    gradcam_fidelity: float | None = None
    lime_r2: float | None = None
    lime_spearman: float | None = None
    lime_top5: float | None = None


def explain_files(
    *,
    bundle: Path,
    images: list[Path],
    lime_samples: int = LIME_SAMPLES,
    with_gradcam: bool = True,
    seed: int = 0,
    threads: int,
    out: Path,
) -> None:
    """Explain what a bundle says of image files: a Grad-CAM and a LIME overlay each, upright and in original size.

    ``out`` becomes an explanations artifact: ``index.csv`` with a row of :class:`Explained` per file in the order
    given, ``index.html`` that shows the same, and the overlays as PNG, whose names are a running number and what is
    safe of the file's name. An image that no network is to see (blank, coloured, of another modality) has its row and
    no overlays; one that is unlike the training images has them, as it has a score.

    Args:
        bundle: folder of the bundle; every file of it is hashed first.
        images: PNG, JPEG or DICOM files.
        lime_samples: perturbed images per LIME explanation, of which two are made for each image.
        with_gradcam: whether Grad-CAM is made beside LIME.
        seed: of LIME's perturbations; the next one is the other that it is held against.
        threads: CPU threads.
        out: folder to write.

    Raises:
        RadtransferError: an image file that is not there, is a folder, is named twice or cannot be read; a bundle that
            was tampered with or is not one; ``out`` exists and is not empty; all before any network saw an image. A
            backbone that Grad-CAM does not know. Nothing is written then.
    """
    check_files(images)
    check_distinct(images)
    artifacts.check_free(out)
    settle(threads, seed)
    judge = Judge.of(bundle)
    for path in track(images, "read", len(images)):
        _read(judge, path)
    explain_judged(
        judge, images, lime_samples=lime_samples, with_gradcam=with_gradcam, seed=seed, threads=threads, out=out
    )


def explain_judged(
    judge: Judge,
    images: Sequence[Path],
    *,
    lime_samples: int,
    with_gradcam: bool = True,
    seed: int,
    threads: int,
    out: Path,
) -> None:
    """The same for a bundle that is open and files that were found readable; see :func:`explain_files`."""
    settings = {"lime_samples": lime_samples, "gradcam": with_gradcam, "seed": seed, "threads": threads}
    methods = METHODS if with_gradcam else {"lime": METHODS["lime"]}
    with artifacts.writing(
        out, "explanations", step="explain_files", settings=settings, inputs={"bundle": judge.bundle}
    ) as (staging, content):
        rows: list[Explained] = []
        shown: list[dict[str, str]] = []
        for number, path in enumerate(track(images, "explain", len(images)), start=1):
            seen = _read(judge, path)
            if isinstance(seen, Prediction):
                rows.append(_row(seen))
                shown.append({})
                continue
            stem = f"{number:04d}-{_safe(path.stem)}"
            row, pictures = _explained(judge, path, seen, stem, lime_samples, with_gradcam, seed)
            rows.append(row)
            for file, picture in pictures.items():
                draw.save(staging / file, picture)
            drawn = {"": seen.pixels} | pictures
            shown.append({file: pages.embedded(Image.fromarray(picture)) for file, picture in drawn.items()})
        with (staging / "index.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            index = csv.DictWriter(stream, list(Explained.__dataclass_fields__))
            index.writeheader()
            index.writerows(vars(row) for row in rows)
        page = _page(judge, rows, shown, methods, lime_samples)
        (staging / "index.html").write_text(page, encoding="utf-8", errors="replace")
        content |= {"images": len(images), "methods": methods, "notes": [draw.COLOURS]}


def check_distinct(images: Sequence[Path]) -> None:
    """See that no file is named twice.

    Raises:
        RadtransferError: names the first that is.
    """
    counts = Counter(path.resolve() for path in images)
    for path in images:
        if counts[path.resolve()] > 1:
            raise RadtransferError(f"{path}: is named {counts[path.resolve()]} times; name each image file once")


def _read(judge: Judge, path: Path) -> Seen | Prediction:
    read = judge.read(path)
    if isinstance(read, Prediction) and read.reason:
        raise RadtransferError(f"{path}: {read.reason}; leave it out to explain the others")
    return read


def _explained(
    judge: Judge, path: Path, seen: Seen, stem: str, samples: int, with_gradcam: bool, seed: int
) -> tuple[Explained, dict[str, draw.RGB]]:
    """The row of an image that the networks may see, and its overlays by the names of their files."""
    passed = judge.predictor.passed(seen.stored[None])
    (prediction,) = judge.judge([path], passed)
    pictures = {}
    told: dict[str, object] = {}
    if with_gradcam:
        try:
            heat = gradcam.gradcam(judge.predictor, seen.stored[None], passed)
        except RadtransferError as error:
            raise RadtransferError(
                f"{error}; what a finished bundle says is explained by LIME alone with "
                "`radtransfer explain --no-gradcam`"
            ) from None
        found = seen.frame.restore(heat.maps[0]).clip(0, 1)
        file = f"{stem}-gradcam.png"
        pictures[file] = draw.heat_overlay(seen.pixels, found)
        told |= {"gradcam": file, "gradcam_empty": "no" if found.any() else "yes"}
        told["gradcam_fidelity"] = _finite(float(heat.fidelity[0]))
    height, width = seen.pixels.shape
    region = seen.frame.box(0, 0, width, height)
    lime, other = (
        superpixels.lime(judge.predictor, seen.stored, region, samples=samples, seed=each) for each in (seed, seed + 1)
    )
    file = f"{stem}-lime.png"
    pictures[file] = draw.lime_overlay(seen.pixels, _nearest(lime.segments, seen.frame), lime.weights)
    steady = superpixels.steadiness(lime, other)
    told |= {"lime": file, "lime_r2": _finite(lime.fidelity), "lime_spearman": steady.spearman, "lime_top5": steady.top}
    return _row(prediction, **told), pictures


def _row(prediction: Prediction, **told: object) -> Explained:
    """What was told of an image before it was explained, and by it."""
    said = {name: getattr(prediction, name) for name in ("score", "label", "unfit", "distance")}
    return Explained(str(prediction.image), **said, **told)  # type: ignore[arg-type]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _page(
    judge: Judge, rows: Sequence[Explained], shown: Sequence[dict[str, str]], methods: dict[str, str], samples: int
) -> str:
    """``index.html``; ``shown`` holds each image's pictures by file as ``data:`` URIs, its own under the empty name."""
    made = pages.environment()
    made.filters["number"] = lambda value, digits=2: number(value, digits)
    return made.get_template("explain/index.html").render(
        rows=list(zip(rows, shown, strict=True)),
        methods=methods,
        samples=samples,
        positive=judge.bundle.content.get("positive_class", "abnormal"),
        name=judge.bundle.content.get("name", ""),
        digest=judge.bundle.digest,
        threshold=judge.predictor.threshold,
        heat_scale=draw.heat_scale(),
        lime_colours=draw.lime_colours(),
        research_use=RESEARCH_USE,
    )


def _nearest(segments: NDArray[np.int64], frame: Letterbox) -> NDArray[np.int64]:
    """Superpixels [S, S] of the stored square as [height, width] of the original image; -1 where it is not shown."""
    wide, high = frame.content
    across, down = frame.x1 - frame.x0, frame.y1 - frame.y0
    columns = frame.left + (np.arange(across) + 0.5) * wide / across
    lines = frame.top + (np.arange(down) + 0.5) * high / down
    found = np.full((frame.height, frame.width), -1, np.int64)
    shown = segments[lines.astype(np.intp)[:, None], columns.astype(np.intp)[None, :]]
    found[frame.y0 : frame.y1, frame.x0 : frame.x1] = shown
    return found


def _safe(stem: str) -> str:
    """What of a file's stem may stand in a file name anywhere; the running number before it keeps it unique."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60].strip("_") or "image"
