"""The step that measures everything on the test images: rows, curves, paired comparisons, and the plain answer.

The one candidate that counts is selected by validation AUROC before a test label is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import TL_SOURCES, TlSource
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics, schema, verdict
from radtransfer.evaluation.compare import Comparison
from radtransfer.evaluation.intervals import Measured, Resamples, measure, resample
from radtransfer.evaluation.metrics import Floats
from radtransfer.evaluation.shortcuts import shortcuts
from radtransfer.preprocess.store import Store
from radtransfer.progress import track


@dataclass(frozen=True)
class Entry:
    """A classifier to be measured: where it comes from, and its scores for the test images in the store's order."""

    id: str
    tl_source: str
    features: str
    classifier: str
    threshold: float
    scores: Floats


class Level(NamedTuple):
    """The units that are counted, images or studies: label and leakage group of each, and their resamples."""

    name: Literal["image", "study"]
    labels: NDArray[np.bool_]
    groups: NDArray[np.object_]
    resamples: Resamples
    unit: NDArray[np.intp]
    """[T] the unit of each test image."""

    pooling: Literal["none", "mean", "max"] = "none"

    @property
    def suffix(self) -> str:
        """What a row's id ends with."""
        return {"none": "", "mean": "/study", "max": "/study-max"}[self.pooling]

    def scores(self, per_image: Floats) -> Floats:
        """Mean, or highest, score per unit."""
        if self.pooling == "max":
            highest = np.zeros(len(self.labels))
            np.maximum.at(highest, self.unit, per_image)
            return highest
        return np.bincount(self.unit, weights=per_image) / np.bincount(self.unit)


def evaluate(
    *, target_store: Path, classifiers: list[Path], bootstrap: int, seed: int, out: Path, prevalence: float = 0.0
) -> None:
    """Measure all candidates of all TL sources and the shortcuts on the test images; write an **evaluation**.

    Levels: ``image``, and ``study`` where every test image has a study id: once the mean, once the highest score of a
    study's images, at the same threshold; a study is positive when one of its images is. Comparisons are made on
    images, with the resamples that the intervals use, and corrected by Holm within each family: ``tl_source`` (fused
    choices of the TL sources, pairwise; AUROC, accuracy, kappa), ``fusion`` (fused less single choice of each TL
    source; AUROC), ``shortcut`` (selected less histogram and less metadata; AUROC).

    Args:
        target_store: image store of the target.
        classifiers: one **classifiers** artifact per TL source, in any order.
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
    sources = _sources(classifiers)
    selected, choices = _choose(sources)
    store = Store.open(target_store)
    entries = _entries(sources, store)
    run_seed = int(next(iter(sources.values())).content["seed"])
    rows: list[schema.Row] = []
    curves: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    with threadpool_limits(1):  # the order of sums in linear algebra depends on the number of threads
        for one in shortcuts(store, seed):
            row_id = f"shortcut/{one.name}"
            entries.append(Entry(row_id, "shortcut", one.name, one.classifier, one.threshold, one.scores))
        test = store.manifest.iloc[store.rows("test")]
        levels, warnings = _levels(test, store, bootstrap, seed)
        work = [(level, entry) for level in levels for entry in entries]
        for level, entry in track(work, "evaluate", len(work)):
            row_id = entry.id + level.suffix
            labels, scores = metrics.check(level.labels, level.scores(entry.scores), row_id)
            measured[row_id] = measure(labels, scores, entry.threshold, level.resamples, prevalence or None)
            rows.append(_row(row_id, entry, run_seed, level, row_id == selected, measured[row_id], store))
            curves[row_id] = {
                "roc": metrics.roc(labels, scores),
                "confusion": metrics.confusion(labels, scores, entry.threshold),
                "reliability": metrics.reliability(labels, scores),
                "threshold": entry.threshold,
            }

    few, _ = verdict.fewest(levels[0].labels, levels[0].groups)
    comparisons = verdict.judged(verdict.within(selected, choices, measured), few)
    warnings += _warnings(store, rows, comparisons, levels[0], bootstrap)
    described = schema.MetricsFile(
        target=_target(store),
        positive_class=str(store.content["positive_class"]),
        test=schema.TestSet(
            images=len(test), groups=int(test["group_id"].nunique()), positives=int(levels[0].labels.sum())
        ),
        results=rows,
        comparisons=[schema.ComparisonEntry(**asdict(one)) for one in comparisons],
    )
    scores_table = pd.DataFrame(
        {"image_id": test["image_id"].to_numpy(), "group_id": test["group_id"].to_numpy()}
        | {"label": test["label"].to_numpy(dtype=np.int8)}
        | {entry.id: entry.scores for entry in entries}
    )
    inputs = {"target_store": store.artifact} | {f"classifiers_{name}": one for name, one in sources.items()}
    settings = {"bootstrap": bootstrap, "seed": seed, "prevalence": prevalence}
    with artifacts.writing(out, "evaluation", step="evaluate", settings=settings, inputs=inputs) as (folder, content):
        artifacts.write_json(folder / "metrics.json", described.model_dump(mode="json"))
        artifacts.write_json(folder / "curves.json", curves)
        scores_table.to_parquet(folder / "test_scores.parquet", index=False)
        content |= {
            "selected": selected,
            "choices": choices,
            "answer": verdict.answer(choices, comparisons, measured, len(test), few, bootstrap),
            "warnings": warnings,
            "learnt_from": {split: _count(store, split) for split in ("train", "validation")},
        }


def _sources(paths: Sequence[Path]) -> dict[TlSource, Artifact]:
    """The classifiers of each TL source, in the order scratch, imagenet, in_domain, made under equal conditions."""
    found: dict[TlSource, Artifact] = {}
    for path in paths:
        artifact = artifacts.read(path, "classifiers")
        name = artifact.content["tl_source"]
        if name not in TL_SOURCES:
            raise RadtransferError(f"{path}: unknown TL source {name!r}, expected one of {', '.join(TL_SOURCES)}")
        if name in found:
            raise RadtransferError(f"{path}: TL source {name!r} was handed over already as {found[name].path}")
        found[name] = artifact
    if not found:
        raise RadtransferError("no classifiers to evaluate; hand over one classifiers artifact per TL source")
    first = next(iter(found.values()))
    for artifact in found.values():
        for what, one, other in (
            ("image store", first.content["store_digest"], artifact.content["store_digest"]),
            ("seed", first.content["seed"], artifact.content["seed"]),
            ("backbones", _backbones(first), _backbones(artifact)),
        ):
            if one != other:
                raise RadtransferError(
                    f"{artifact.path}: made with another {what} than {first.path} ({other} against {one}); "
                    "TL sources are compared under equal conditions only: make both again with the same configuration"
                )
    return {name: found[name] for name in TL_SOURCES if name in found}


def _backbones(classifiers: Artifact) -> list[str]:
    return [str(block["backbone"]) for block in classifiers.content["blocks"]]


def _choose(sources: dict[TlSource, Artifact]) -> tuple[str, dict[str, dict[str, str]]]:
    """Row id of the candidate with the highest validation AUROC (the first of equals), and each source's choices."""
    candidates = [(name, one) for name, artifact in sources.items() for one in artifact.content["candidates"]]
    if not candidates:
        raise RadtransferError("the classifiers artifacts hold no candidates; make them again")
    name, best = max(candidates, key=lambda pair: pair[1]["validation_auroc"])
    choices: dict[str, dict[str, str]] = {}
    for source, artifact in sources.items():
        known = {one["id"] for one in artifact.content["candidates"]}
        choice = artifact.content["choice"]
        if set(choice) != {"fused", "single", "overall"} or not set(choice.values()) <= known:
            raise RadtransferError(f"{artifact.path}: its choices {choice} are not among its candidates; make it again")
        choices[source] = {kind: _row_id(source, choice[kind], artifact) for kind in ("fused", "single", "overall")}
    return _row_id(name, best["id"], sources[name]), choices


def _row_id(source: str, candidate: str, artifact: Artifact) -> str:
    return f"{source}/{candidate}/seed{artifact.content['seed']}"


def _entries(sources: dict[TlSource, Artifact], store: Store) -> list[Entry]:
    """All candidates with their scores for the store's test images."""
    wanted = store.manifest["image_id"].iloc[store.rows("test")].to_numpy()
    if not len(wanted):
        raise RadtransferError(f"{store.artifact.path}: no test images; evaluation needs the target's store")
    entries = []
    for source, artifact in sources.items():
        if artifact.content["store_digest"] != store.artifact.digest:
            raise RadtransferError(
                f"{artifact.path}: made from another image store than {store.artifact.path} "
                f"({artifact.content['store_digest'][:12]} against {store.artifact.digest[:12]}); make it from this one"
            )
        path = artifact.path / "scores.parquet"
        table = pd.read_parquet(path)
        table = table[table["split"] == "test"].set_index("image_id")
        if not table.index.is_unique or set(table.index) != set(wanted):
            odd = sorted(set(table.index) ^ set(wanted)) or sorted(table.index[table.index.duplicated()])
            raise RadtransferError(f"{path}: its test images are not the store's, see {odd[0]}; make it again")
        for one in artifact.content["candidates"]:
            if one["id"] not in table:
                raise RadtransferError(f"{path}: no scores of candidate {one['id']!r}; make it again")
            scores = table.loc[wanted, one["id"]].to_numpy(dtype=np.float64)
            row_id = _row_id(source, one["id"], artifact)
            entries.append(Entry(row_id, source, one["features"], one["classifier"], float(one["threshold"]), scores))
    return entries


def _levels(test: pd.DataFrame, store: Store, bootstrap: int, seed: int) -> tuple[list[Level], list[str]]:
    """Images, and studies where every test image has a study id; here the test labels are read."""
    labels = test["label"].to_numpy(dtype=bool)
    groups = test["group_id"].to_numpy()
    if labels.all() or not labels.any():
        raise RadtransferError(
            f"{store.artifact.path}: its {len(test)} test images are all of class {int(labels[0])}; "
            "raise test_fraction or use more images"
        )
    resamples = resample(groups, labels, bootstrap, seed)
    levels = [Level("image", labels, groups, resamples, np.arange(len(test)))]
    studies = test["study_id"]
    if studies.isna().all():
        return levels, []
    if studies.isna().any():
        few = f"{int(studies.isna().sum())} of {len(test)} test images have no study id: no results per study."
        return levels, [few]
    unit, names = pd.factorize(studies, sort=True)
    frame = pd.DataFrame({"unit": unit, "label": labels, "group": groups}).groupby("unit")
    if (frame["group"].nunique() > 1).any():
        odd = names[int(frame["group"].nunique().to_numpy().argmax())]
        raise RadtransferError(f"{store.artifact.path}: study {odd} lies in two leakage groups; make the store again")
    study_labels = frame["label"].any().to_numpy(dtype=bool)
    study_groups = frame["group"].first().to_numpy()
    study_resamples = resample(study_groups, study_labels, bootstrap, seed)
    mean = Level("study", study_labels, study_groups, study_resamples, unit, "mean")
    return [*levels, mean, mean._replace(pooling="max")], []


def _row(
    row_id: str, entry: Entry, seed: int, level: Level, selected: bool, measured: Measured, store: Store
) -> schema.Row:
    values = {name: schema.IntervalEntry(**one._asdict()) for name, one in measured.intervals.items()}
    described = {
        "id": row_id,
        "tl_source": entry.tl_source,
        "features": entry.features,
        "classifier": entry.classifier,
        "seed": seed,
        "label_fraction": store.content.get("label_fraction", 1.0),
        "level": level.name,
        "pooling": level.pooling,
        "selected": selected,
        "n": len(level.labels),
    }
    return schema.Row.model_validate(described | values)


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
