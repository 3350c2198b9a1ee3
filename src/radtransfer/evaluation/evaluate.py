"""The step that measures everything on the test images: rows, curves, paired comparisons, and the plain answer.

The one candidate that counts is selected by validation AUROC before a test label is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import TL_SOURCES, TlSource
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics, schema
from radtransfer.evaluation.compare import ALPHA, Comparison, at_floor, compare, holm, smallest_p
from radtransfer.evaluation.intervals import Measured, measure, resample
from radtransfer.evaluation.metrics import Floats, Metric
from radtransfer.evaluation.shortcuts import shortcuts
from radtransfer.preprocess.store import Store
from radtransfer.progress import track

HISTOGRAM = "shortcut/grey_level_histogram"
FEW = 30  # leakage groups with a class in the test split, below which a bootstrap interval is a rough guide only
TOO_FEW = 15
"""Below that there are no p-values. Five to thirty clusters are few for tests that resample them, the fewer the worse
(Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008); where to draw the line is a choice."""
STRONG_SHORTCUT = 0.75  # AUROC of the histogram from which it is named as a shortcut in its own right
NAMES: dict[str, str] = {
    "scratch": "training from scratch",
    "imagenet": "ImageNet transfer",
    "in_domain": "in-domain pre-training",
}


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
    """The units that are counted, images or studies: label, leakage group and weights of each."""

    name: str
    labels: NDArray[np.bool_]
    groups: NDArray[np.object_]
    weights: Floats
    unit: NDArray[np.intp]
    """[T] the unit of each test image."""

    def scores(self, per_image: Floats) -> Floats:
        """Mean score per unit."""
        return np.bincount(self.unit, weights=per_image) / np.bincount(self.unit)


def evaluate(*, target_store: Path, classifiers: list[Path], bootstrap: int, seed: int, out: Path) -> None:
    """Measure all candidates of all TL sources and the shortcuts on the test images; write an **evaluation**.

    Levels: ``image``, and ``study`` (mean score of a study's images at the same threshold; a study is positive when
    one of its images is) where every test image has a study id. Comparisons are made on images, with the resamples
    that the intervals use, and corrected by Holm within each family: ``tl_source`` (fused choices of the TL sources,
    pairwise; AUROC, accuracy, kappa), ``fusion`` (fused less single choice of each TL source; AUROC), ``shortcut``
    (selected less grey-level histogram; AUROC).

    Args:
        target_store: image store of the target.
        classifiers: one **classifiers** artifact per TL source, in any order.
        bootstrap: replicates behind every interval and p-value.
        seed: of the resamples and of the shortcut's folds.
        out: folder to write: ``metrics.json`` (:class:`radtransfer.evaluation.schema.MetricsFile`), ``curves.json``,
            ``test_scores.parquet``, ``evaluation.json``.

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
            row_id = entry.id if level.name == "image" else f"{entry.id}/{level.name}"
            labels, scores = metrics.check(level.labels, level.scores(entry.scores), row_id)
            measured[row_id] = measure(labels, scores, entry.threshold, level.weights)
            rows.append(_row(row_id, entry, run_seed, level, row_id == selected, measured[row_id]))
            curves[row_id] = {
                "roc": metrics.roc(labels, scores),
                "confusion": metrics.confusion(labels, scores, entry.threshold),
                "reliability": metrics.reliability(labels, scores),
                "threshold": entry.threshold,
            }

    comparisons = _comparisons(selected, choices, measured)
    if (few := _fewest(levels[0])[0]) < TOO_FEW:
        comparisons = [replace(one, p_value=None, adjusted_p=None) for one in comparisons]
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
    settings = {"bootstrap": bootstrap, "seed": seed}
    with artifacts.writing(out, "evaluation", step="evaluate", settings=settings, inputs=inputs) as (folder, content):
        artifacts.write_json(folder / "metrics.json", described.model_dump(mode="json"))
        artifacts.write_json(folder / "curves.json", curves)
        scores_table.to_parquet(folder / "test_scores.parquet", index=False)
        content |= {
            "selected": selected,
            "choices": choices,
            "answer": _answer(choices, comparisons, measured, len(test), few, bootstrap),
            "warnings": warnings,
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
    weights = resample(groups, labels, bootstrap, seed)
    levels = [Level("image", labels, groups, weights, np.arange(len(test)))]
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
    study_weights = resample(study_groups, study_labels, bootstrap, seed)
    return [*levels, Level("study", study_labels, study_groups, study_weights, unit)], []


def _row(row_id: str, entry: Entry, seed: int, level: Level, selected: bool, measured: Measured) -> schema.Row:
    values = {name: schema.IntervalEntry(**one._asdict()) for name, one in measured.intervals.items()}
    described = {
        "id": row_id,
        "tl_source": entry.tl_source,
        "features": entry.features,
        "classifier": entry.classifier,
        "seed": seed,
        "level": level.name,
        "selected": selected,
        "n": len(level.labels),
    }
    return schema.Row.model_validate(described | values)


def _comparisons(selected: str, choices: dict[str, dict[str, str]], measured: dict[str, Measured]) -> list[Comparison]:
    best_first = [name for name in reversed(TL_SOURCES) if name in choices]
    among: tuple[Metric, ...] = ("auroc", "accuracy", "kappa")
    found = [
        compare(choices[a]["fused"], choices[b]["fused"], metric, measured, "tl_source")
        for a, b in combinations(best_first, 2)
        for metric in among
    ]
    found += [
        compare(choices[name]["fused"], choices[name]["single"], "auroc", measured, "fusion") for name in best_first
    ]
    found.append(compare(selected, HISTOGRAM, "auroc", measured, "shortcut"))
    return holm(found)


def _find(comparisons: list[Comparison], a: str, b: str, metric: Metric) -> Comparison:
    return next(one for one in comparisons if (one.a, one.b, one.metric) == (a, b, metric))


def _answer(
    choices: dict[str, dict[str, str]],
    comparisons: list[Comparison],
    measured: dict[str, Measured],
    images: int,
    few: int,
    bootstrap: int,
) -> dict[str, Any]:
    """Which TL source won, if one did: in-domain against ImageNet, AUROC of the fused choices, after Holm."""
    if not {"imagenet", "in_domain"} <= set(choices):
        missing = " and ".join(NAMES[name] for name in ("imagenet", "in_domain") if name not in choices)
        return {
            "winner": None,
            "significant": False,
            "text": f"There is no answer to whether in-domain pre-training beats ImageNet transfer: this evaluation "
            f"was not given {missing}.",
        }
    fused = {name: choice["fused"] for name, choice in choices.items()}
    main = _find(comparisons, fused["in_domain"], fused["imagenet"], "auroc")
    values = [cast(float, measured[fused[name]].intervals["auroc"].value) for name in ("in_domain", "imagenet")]
    figures = (
        f"AUROC {values[0]:.3f} against {values[1]:.3f}, difference {main.difference:+.3f} "
        f"(95 % interval {main.low:+.3f} to {main.high:+.3f}{_p(main, bootstrap)}, {images} test images)"
    )
    if main.adjusted_p is None:
        text = (
            "There is no verdict on in-domain pre-training against ImageNet transfer: a class lies in only "
            f"{few} leakage groups of the test images, and below {TOO_FEW} no test can be trusted. {figures}."
        )
        return {"winner": None, "significant": False, "text": text}
    if not main.significant:
        text = f"No significant difference between in-domain pre-training and ImageNet transfer: {figures}."
        return {"winner": None, "significant": False, "text": text}
    winner, verb = ("in_domain", "better") if cast(float, main.difference) > 0 else ("imagenet", "worse")
    text = f"In-domain pre-training is significantly {verb} than ImageNet transfer: {figures}."
    if "scratch" in fused:
        control = _find(comparisons, fused[winner], fused["scratch"], "auroc")
        if control.significant and cast(float, control.difference) < 0:
            text += f" But training from scratch is significantly better still than {NAMES[winner]}: neither wins."
            return {"winner": None, "significant": True, "text": text}
        if not control.significant:
            text += f" Over training from scratch, {NAMES[winner]} shows no significant gain."
    return {"winner": winner, "significant": True, "text": text}


def _fewest(images: Level) -> tuple[int, str]:
    """How many leakage groups hold the class that the fewest hold, and which class that is."""
    held = {"positive": images.groups[images.labels], "negative": images.groups[~images.labels]}
    return min((len(set(groups)), name) for name, groups in held.items())


def _warnings(
    store: Store, rows: list[schema.Row], comparisons: list[Comparison], images: Level, bootstrap: int
) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    if store.content["synthetic"]:
        found.append("The images are synthetic: the figures show that the pipeline works, nothing about real patients.")
    if store.content["grouping"] != "patient":
        found.append(
            "The data have no patient ids: groups are exact and near duplicates, so other images of a test patient may "
            "be among the training images, which would flatter every figure."
        )
    groups, name = _fewest(images)
    if groups < FEW:
        guide = "are a rough guide" if groups >= TOO_FEW else "cannot be trusted, and there is no verdict"
        found.append(
            f"The {name} test images lie in only {groups} leakage groups (fewer than {FEW}): intervals {guide}. "
            "Use more images, or another split."
        )
    largest = max(Counter(one.family for one in comparisons).values())
    if smallest_p(bootstrap, largest) >= ALPHA:
        found.append(
            f"With bootstrap = {bootstrap} no difference between TL sources can be shown: the smallest p-value after "
            f"Holm is {smallest_p(bootstrap, largest):.3f}. Set bootstrap to {ceil(2 * largest / ALPHA)} or more."
        )
    against = next(one for one in comparisons if one.family == "shortcut")
    if against.low is None or against.low <= 0:
        found.append(
            f"The selected model ({against.a}) does not clear the shortcut: its AUROC less that of a grey-level "
            f"histogram is {_signed(against.difference)} (95 % interval {_signed(against.low)} to "
            f"{_signed(against.high)})."
        )
    histogram = next(row for row in rows if row.id == HISTOGRAM)
    if histogram.auroc.value is not None and histogram.auroc.value >= STRONG_SHORTCUT:
        found.append(
            f"A grey-level histogram alone reaches AUROC {histogram.auroc.value:.3f}: exposure, windowing or framing "
            "tell much of the label."
        )
    for one in comparisons:
        if one.family == "tl_source" and one.significant and cast(float, one.difference) < 0:
            a, b = one.a.split("/")[0], one.b.split("/")[0]
            metric = "AUROC" if one.metric == "auroc" else one.metric
            found.append(
                f"Negative transfer: {NAMES[a]} is significantly worse than {NAMES[b]} ({metric} "
                f"{_signed(one.difference)}, 95 % interval {_signed(one.low)} to {_signed(one.high)}"
                f"{_p(one, bootstrap)})."
            )
    return found


def _target(store: Store) -> str:
    name, part = store.content["name"], store.content["part"]
    return name if part == name else f"{name} {part}".strip()


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.3f}"


def _p(comparison: Comparison, bootstrap: int) -> str:
    if comparison.p_value is None or comparison.adjusted_p is None:
        return ""
    relation = "≤" if at_floor(comparison.p_value, bootstrap) else "="
    return f", p {relation} {comparison.adjusted_p:.3f} after Holm"
