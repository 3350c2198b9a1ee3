"""The explain step: chosen test images, seen through every transfer-learning source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from radtransfer import artifacts
from radtransfer.explain import cases, draw, gradcam, pointing, quality, superpixels
from radtransfer.fusion import predictor
from radtransfer.fusion.sources import sources
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.store import Store
from radtransfer.progress import track
from radtransfer.training.runtime import settle

METHODS = {"gradcam": gradcam.DESCRIPTION, "lime": superpixels.DESCRIPTION}
SCORE_TOLERANCE = 1e-3


def explain(
    *,
    target_store: Path,
    evaluation: Path,
    classifiers: list[Path],
    models: list[Path],
    images_per_outcome: int,
    lime_samples: int,
    quality_images: int,
    seed: int,
    threads: int,
    out: Path,
) -> None:
    """Explain chosen test images with Grad-CAM and LIME, for every TL source with the candidate that it would use.

    That is its choice on validation: of the source that the selected candidate is of, the selected candidate itself.
    Both methods are measured too, on a random sample of test images (:mod:`radtransfer.explain.quality`).

    Args:
        target_store: image store of the target.
        evaluation: what was evaluated on it; its selected row says which outcome an image had.
        classifiers: one artifact per TL source.
        models: the fine-tuned models of all TL sources.
        images_per_outcome: images for each of TP, FP, FN, TN (fewer where there are fewer).
        lime_samples: perturbed images per LIME explanation.
        quality_images: images that both methods are measured on; 0: none.
        seed: of LIME's perturbations and of the sample.
        threads: CPU threads.
        out: the explanations artifact to write.

    Raises:
        RadtransferError: inputs do not belong together, or a backbone that Grad-CAM does not know.
    """
    settle(threads, seed)
    store = Store.open(target_store)
    judged = artifacts.read(evaluation, "evaluation")
    choices: dict[str, dict[str, str]] = judged.content["choices"]
    given = sources(store.artifact.digest, classifiers, models, choices)
    scores = pd.read_parquet(evaluation / "test_scores.parquet").set_index("image_id")
    selected: str = judged.content["selected"]
    explained = {tl_source: choices[tl_source]["overall"] for tl_source in given}
    curves = artifacts.read_json(evaluation / "curves.json")
    thresholds = {row_id: float(curves[row_id]["threshold"]) for row_id in (selected, *explained.values())}
    chosen = cases.choose(
        scores.index.tolist(),
        scores["label"].to_numpy(np.int_),
        scores[selected].to_numpy(np.float64),
        thresholds[selected],
        images_per_outcome,
    )
    shown = _look_up(store, chosen)
    sampled = quality.sample(store, quality_images, seed)

    inputs = {"target_store": store.artifact, "evaluation": judged}
    for source in given.values():
        inputs |= source.inputs
    settings = {"images_per_outcome": images_per_outcome, "lime_samples": lime_samples, "seed": seed}
    settings |= {"quality_images": quality_images, "threads": threads}
    with artifacts.writing(out, "explanations", step="explain", settings=settings, inputs=inputs) as (staging, content):
        notes = [cases.RULE, draw.COLOURS, *_shortfalls(chosen, images_per_outcome)]
        gallery = [_entry(case, staging) for case in shown]
        met: list[dict[str, Any]] = []
        measured: dict[str, quality.Measured] = {}
        for tl_source, row_id in explained.items() if shown or len(sampled) else ():
            predict = predictor.of_source(given[tl_source], row_id)
            if len(sampled):
                measured[tl_source] = quality.measured(
                    store, sampled, tl_source, predict, samples=lime_samples, seed=seed
                )
            if not shown:
                continue
            met += pointing.measured(store, tl_source, predict, seed)
            for case, entry, drawn in zip(
                shown, gallery, _explained(shown, predict, tl_source, lime_samples, seed, staging), strict=True
            ):
                entry["scores"][tl_source] = drawn.score
                entry["maps"][tl_source], entry["fidelity"][tl_source] = drawn.files, drawn.fidelity
                entry["empty"][tl_source] = drawn.empty
                label = bool(scores["label"][case.image_id])
                entry["outcomes"][tl_source] = cases.outcome(label, drawn.score >= thresholds[row_id])
                drift = abs(drawn.score - float(scores[row_id][case.image_id]))
                if drift > SCORE_TOLERANCE:
                    notes.append(f"{row_id}: {case.image_id} scores {drift:.4f} away from its evaluated score.")
        artifacts.write_json(staging / "gallery.json", gallery)
        if met:
            met += pointing.blind(store)
        boxed = pd.DataFrame(met, columns=pointing.COLUMNS)
        boxed.to_csv(staging / "lesions.csv", index=False)
        rows, comparisons = pointing.table(boxed, seed)
        content |= {"images": len(shown), "methods": METHODS, "notes": notes, "explained": explained}
        content |= {"lesions": rows, "lesion_comparisons": comparisons, "lesions_about": pointing.ABOUT}
        content["quality"] = quality.write(store, sampled, measured, seed, staging)


@dataclass(frozen=True)
class _Shown:
    """A chosen test image as it is stored."""

    image_id: str
    outcome: cases.Outcome
    label_name: str
    pixels: NDArray[np.uint8]
    boxes: list[list[float]]
    region: superpixels.Box
    stem: str

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the image inside its padding, px."""
        return superpixels.pixels_of(self.region, self.pixels.shape)

    def within(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What of a picture of the stored square is no padding."""
        left, top, right, bottom = self.edges
        return picture[top:bottom, left:right]


def _look_up(store: Store, chosen: list[cases.Case]) -> list[_Shown]:
    positions = {image_id: row for row, image_id in enumerate(store.manifest["image_id"])}
    shown = []
    for number, case in enumerate(chosen, start=1):
        position = positions[case.image_id]
        row = store.manifest.iloc[position]
        boxes = [[float(edge) for edge in box] for box in row["boxes"]]
        pixels = np.asarray(store.images[position])
        stem = f"{number:03d}-{case.outcome}"
        shown.append(
            _Shown(case.image_id, case.outcome, str(row["label_name"]), pixels, boxes, region(store, position), stem)
        )
    return shown


def _entry(case: _Shown, staging: Path) -> dict[str, Any]:
    """The case in ``gallery.json``, its pictures without maps written: ``image`` and, with the boxes, ``boxed``.

    Pictures show the image without its padding; ``boxes`` lie in it, ``size`` is its width and height, in stored px.
    """
    left, top, right, bottom = case.edges
    boxes = [[x0 - left, y0 - top, x1 - left, y1 - top] for x0, y0, x1, y1 in case.boxes]
    draw.save(staging / f"{case.stem}.png", draw.plain(case.within(case.pixels)))
    boxed = f"{case.stem}-boxes.png" if boxes else None
    if boxed:
        draw.save(staging / boxed, draw.plain(case.within(case.pixels), boxes))
    return {
        "image_id": case.image_id,
        "outcome": case.outcome,
        "label_name": case.label_name,
        "boxes": boxes,
        "size": [right - left, bottom - top],
        "image": f"{case.stem}.png",
        "boxed": boxed,
        "scores": {},
        "outcomes": {},
        "maps": {},
        "fidelity": {},
        "empty": {},
    }


class _Drawn(NamedTuple):
    """A case as one source sees it: score, overlay and fidelity by method, and the methods with nothing positive."""

    score: float
    files: dict[str, str]
    fidelity: dict[str, float]
    empty: list[str]


def _explained(
    shown: list[_Shown], predict: predictor.Predictor, tl_source: str, samples: int, seed: int, staging: Path
) -> Iterator[_Drawn]:
    """Write each case's overlays."""
    images = np.stack([case.pixels for case in shown])
    passed = predict.passed(images)
    scores, heats = predict.of_passed(passed), gradcam.gradcam(predict, images, passed)
    for place, case in enumerate(track(shown, f"explain {tl_source}", len(shown))):
        lime = superpixels.lime(predict, case.pixels, case.region, samples=samples, seed=seed)
        pictures = {
            "gradcam": draw.heat_overlay(case.pixels, heats.maps[place]),
            "lime": draw.lime_overlay(case.pixels, lime.segments, lime.weights),
        }
        files = {method: f"{case.stem}-{tl_source}-{method}.png" for method in pictures}
        for method, picture in pictures.items():
            draw.save(staging / files[method], draw.legible(case.within(picture)))
        maps = {"gradcam": heats.maps[place], "lime": lime.map}
        yield _Drawn(
            score=float(scores[place]),
            files=files,
            fidelity={"gradcam": float(heats.fidelity[place]), "lime": lime.fidelity},
            empty=[method for method, heat in maps.items() if not (heat > 0).any()],
        )


def _shortfalls(chosen: list[cases.Case], wanted: int) -> list[str]:
    counts = {outcome: sum(case.outcome == outcome for case in chosen) for outcome in cases.OUTCOMES}
    return [
        f"Only {count} of {wanted} wanted images are shown for {outcome}: the test set has no more."
        for outcome, count in counts.items()
        if count < wanted
    ]
