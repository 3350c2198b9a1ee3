"""The step that measures everything on the test images: rows, curves, paired comparisons, and the plain answer.

The one candidate that counts is selected by validation AUROC before a test label is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.evaluation import degradation, entries, levels, metrics, schema, subgroups, verdict
from radtransfer.evaluation.bands import curves as bands
from radtransfer.evaluation.compare import Comparison, compare
from radtransfer.evaluation.entries import Entry
from radtransfer.evaluation.intervals import Interval, Measured, measure
from radtransfer.evaluation.levels import Level, Units
from radtransfer.evaluation.metrics import Metric
from radtransfer.evaluation.shortcuts import shortcuts
from radtransfer.fusion.threshold import Rule
from radtransfer.preprocess.store import Store
from radtransfer.progress import track
from radtransfer.robustness import CONTROL, MASKED
from radtransfer.robustness.kinds import graded


def evaluate(
    *,
    target_store: Path,
    classifiers: list[Path],
    stress: Path,
    bootstrap: int,
    seed: int,
    out: Path,
    prevalence: float = 0.0,
) -> None:
    """Measure all candidates of all TL sources and the shortcuts on the test images; write an **evaluation**.

    Levels: ``image``, and ``study`` where every test image has a study id: once the mean, once the highest score of a
    study's images, at the same threshold; a study is positive when one of its images is. Rows of changed images have
    the name of the change as ``corruption``, e.g. ``blur-3``; the area under a degradation curve has that of the kind
    alone, ``blur``, and the mean area over kinds :data:`radtransfer.robustness.kinds.EVERY`. The selected and the fused
    choices have a row for each subgroup of the test images too, see :mod:`radtransfer.evaluation.subgroups`.

    Comparisons are made on images, with the resamples that the intervals use, and corrected by Holm within each family:

    - ``tl_source``: fused choices of the TL sources, pairwise; AUROC, accuracy, kappa.
    - ``fusion``: fused less single choice of each TL source; AUROC.
    - ``block``: fused choice of each TL source less the same without one backbone, for every backbone; AUROC.
    - ``shortcut``: selected candidate less each learnt shortcut; AUROC.
    - ``lesion``: selected candidate with as much hidden elsewhere less the same with the lesions hidden; AUROC, on the
      images that were changed.
    - ``robustness``: mean areas under degradation curves, fused choices of the TL sources pairwise, and fused less
      single choice of each; AUROC.

    Args:
        target_store: image store of the target.
        classifiers: one **classifiers** artifact per TL source, in any order.
        stress: the **stress** artifact made of them.
        bootstrap: replicates behind every interval and p-value.
        seed: of the resamples and of the shortcut's folds.
        out: folder to write: ``metrics.json`` (:class:`radtransfer.evaluation.schema.MetricsFile`), ``curves.json``,
            ``test_scores.parquet``, ``evaluation.json``.
        prevalence: share of positives where the model would be used, for which PPV and NPV are given; 0: that of the
            test images.

    Raises:
        RadtransferError: the inputs do not belong together (store, TL sources, backbones, seeds, images), or the test
            split lacks a class.
    """
    stressed = artifacts.read(stress, "stress")
    sources = entries.sources(classifiers)
    selected, choices = entries.choose(sources)
    store = Store.open(target_store)
    measurable = entries.entries(sources, store)
    drawn = {selected, verdict.HISTOGRAM, *(choice["fused"] for choice in choices.values())}
    run_seed = int(next(iter(sources.values())).content["seed"])
    rows: list[schema.Row] = []
    curves: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    with threadpool_limits(1):  # the order of sums in linear algebra depends on the number of threads
        made = next(iter(sources.values())).content
        for one in shortcuts(store, seed, made["calibration"], Rule.read(made["threshold_rule"])):
            row_id = f"shortcut/{one.name}"
            measurable.append(Entry(row_id, "shortcut", one.name, one.classifier, one.threshold, one.scores))
        test = store.manifest.iloc[store.rows("test")]
        counted, warnings = levels.levels(test, store, bootstrap, seed)
        left_out = {without for _, without in entries.blocks(sources)}
        usable = [one for one in measurable if one.id not in left_out]
        work = [(level, one) for level in counted for one in (measurable if level.name == "image" else usable)]
        work += levels.changed(stressed, measurable, test, counted[0], bootstrap, seed)
        for level, entry in track(work, "evaluate", len(work)):
            row_id = entry.id + level.suffix
            labels, scores = metrics.check(level.labels, level.scores(entry.scores), row_id)
            measured[row_id] = measure(labels, scores, entry.threshold, level.resamples, prevalence or None)
            intervals = measured[row_id].intervals
            rows.append(_row(row_id, entry, run_seed, level, row_id == selected, intervals, store))
            if level.corruption == "none":
                curves[row_id] = _curves(labels, scores, entry.threshold, level if row_id in drawn else None)
        chosen = [one for one in measurable if one.id in drawn - {verdict.HISTOGRAM}]
        for units, entry, intervals in subgroups.measured(test, chosen, bootstrap, seed, prevalence or None):
            rows.append(_row(entry.id + units.suffix, entry, run_seed, units, False, intervals, store))

    kinds = degradation.kinds(stressed.content["corruptions"])
    for entry in [entry for level, entry in work if kinds and level.corruption == graded(kinds[0], 1)]:
        for name, area in degradation.areas(entry.id, kinds, measured).items():
            level = replace(counted[0], corruption=name)
            measured[entry.id + level.suffix] = area
            rows.append(_row(entry.id + level.suffix, entry, run_seed, level, False, area.intervals, store))

    few, _ = verdict.fewest(counted[0].labels, counted[0].groups)
    within = verdict.within(selected, choices, measured)
    within += [compare(fused, without, "auroc", measured, "block") for fused, without in entries.blocks(sources)]
    within += degradation.compared(choices, measured) if kinds else []
    comparisons = verdict.judged(within, few) + _lesions(selected, work, measured)
    warnings += _warnings(store, rows, comparisons, counted[0], bootstrap)
    described = schema.MetricsFile(
        target=_target(store),
        positive_class=str(store.content["positive_class"]),
        test=schema.TestSet(
            images=len(test), groups=int(test["group_id"].nunique()), positives=int(counted[0].labels.sum())
        ),
        results=rows,
        comparisons=[schema.ComparisonEntry(**asdict(one)) for one in comparisons],
    )
    scores_table = pd.DataFrame(
        {"image_id": test["image_id"].to_numpy(), "group_id": test["group_id"].to_numpy()}
        | {"label": test["label"].to_numpy(dtype=np.int8)}
        | {entry.id: entry.scores for entry in measurable}
    )
    inputs = {"target_store": store.artifact, "stress": stressed} | {
        f"classifiers_{name}": one for name, one in sources.items()
    }
    settings = {"bootstrap": bootstrap, "seed": seed, "prevalence": prevalence}
    with artifacts.writing(out, "evaluation", step="evaluate", settings=settings, inputs=inputs) as (folder, content):
        artifacts.write_json(folder / "metrics.json", described.model_dump(mode="json"))
        artifacts.write_json(folder / "curves.json", curves)
        scores_table.to_parquet(folder / "test_scores.parquet", index=False)
        content |= {
            "selected": selected,
            "choices": choices,
            "answer": verdict.answer(choices, comparisons, measured, len(test), few, bootstrap, trainings=1),
            "warnings": warnings,
            "robustness": degradation.told(choices, comparisons, measured, kinds, bootstrap) if kinds else {},
            "learnt_from": {split: _count(store, split) for split in ("train", "validation")},
        }


def _curves(
    labels: NDArray[np.bool_], scores: metrics.Floats, threshold: float, banded: Level | None
) -> dict[str, Any]:
    """What is drawn of a row; with bands where its level is given."""
    found: dict[str, Any] = {
        "roc": metrics.roc(labels, scores),
        "confusion": metrics.confusion(labels, scores, threshold),
        "reliability": metrics.reliability(labels, scores),
        "threshold": threshold,
    }
    if banded:
        around = bands(labels, scores, banded.resamples.weights)
        found["bands"] = {name: curve._asdict() for name, curve in around.items()}
    return found


def _row(
    row_id: str,
    entry: Entry,
    seed: int,
    level: Units,
    selected: bool,
    intervals: Mapping[Metric, Interval],
    store: Store,
) -> schema.Row:
    values = {str(name): schema.IntervalEntry(**one._asdict()) for name, one in intervals.items()}
    described = {
        "id": row_id,
        "tl_source": entry.tl_source,
        "features": entry.features,
        "classifier": entry.classifier,
        "seed": seed,
        "subgroup": level.subgroup,
        "corruption": level.corruption,
        "label_fraction": store.content.get("label_fraction", 1.0),
        "level": level.name,
        "pooling": level.pooling,
        "selected": selected,
        "n": len(level.labels),
        "positives": int(level.labels.sum()),
        "rarer_groups": verdict.fewest(level.labels, level.groups)[0],
    }
    return schema.Row.model_validate(described | values)


def _lesions(selected: str, work: Sequence[tuple[Level, Entry]], measured: dict[str, Measured]) -> list[Comparison]:
    """What hiding the lesions costs the selected candidate beyond hiding as much elsewhere; none without boxes."""
    masked = next((level for level, _ in work if level.corruption == MASKED), None)
    if masked is None:
        return []
    found = compare(f"{selected}/{CONTROL}", f"{selected}/{MASKED}", "auroc", measured, "lesion")
    return verdict.judged([found], verdict.fewest(masked.labels, masked.groups)[0])


def _warnings(
    store: Store, rows: list[schema.Row], comparisons: list[Comparison], images: Level, bootstrap: int
) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    if store.content["synthetic"]:
        found.append(verdict.SYNTHETIC)
    if store.content["grouping"] != "patient":
        found.append(verdict.NO_PATIENTS)
    shortcuts = {row.id: row.auroc.value for row in rows if row.id in verdict.LEARNT}
    found += verdict.few(images.labels, images.groups)
    return found + verdict.warnings(comparisons, shortcuts, bootstrap)


def _count(store: Store, split: str) -> dict[str, int]:
    labels = store.manifest["label"].iloc[store.rows(split)]
    return {"images": len(labels), "positives": int((labels == 1).sum())}


def _target(store: Store) -> str:
    name, part = store.content["name"], store.content["part"]
    return name if part == name else f"{name} {part}".strip()
