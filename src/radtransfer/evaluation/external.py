"""A finished run tested on images that it has never seen: another data set, site or body part, without any change.

Every TL source's choices score the images at the thresholds that the run fixed on its own validation images; nothing is
fitted, calibrated or chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import RunConfig, validate
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import schema, verdict
from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.entries import row_id
from radtransfer.evaluation.intervals import Measured, measure, resample
from radtransfer.evaluation.metrics import Floats, check
from radtransfer.fusion import predictor
from radtransfer.fusion.sources import Source, sources
from radtransfer.preprocess.store import Store
from radtransfer.training.inference import batches
from radtransfer.training.network import load_network
from radtransfer.training.runtime import settle

FAMILY = "shift"


@dataclass(frozen=True)
class Run:
    """What a finished run left, as far as it scores images.

    Attributes:
        path: its folder.
        config: its configuration.
        evaluation: its evaluation, every file verified.
        metrics: its ``metrics.json``.
        sources: classifiers and models of each TL source, the ones that were evaluated.
    """

    path: Path
    config: RunConfig
    evaluation: Artifact
    metrics: dict[str, Any]
    sources: dict[str, Source]

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read a finished run.

        Raises:
            RadtransferError: not one, made before runs kept models and classifiers, or changed since.
        """
        if not (path / "run.json").is_file():
            raise RadtransferError(f"{path}: no finished run (no run.json); name the folder of `radtransfer run`")
        if not (path / "classifiers").is_dir() or not (path / "models").is_dir():
            raise RadtransferError(f"{path}: has no folders models and classifiers; make the run again to have them")
        told = artifacts.read_json(path / "run.json")["config"]
        evaluation = artifacts.read(path / "evaluation", "evaluation", verify=True)
        made = evaluation.made["inputs"]
        fitted = [artifacts.read(one, "classifiers", verify=True) for one in sorted((path / "classifiers").iterdir())]
        models = [artifacts.read(one, "model", verify=True) for one in sorted((path / "models").glob("*/*"))]
        for artifact in fitted:
            if made.get(f"classifiers_{artifact.content['tl_source']}") != artifact.digest:
                raise RadtransferError(f"{artifact.path}: not what {evaluation.path} was made of; make the run again")
        return cls(
            path,
            validate(told, str(path / "run.json")),
            evaluation,
            artifacts.read_json(evaluation.path / "metrics.json"),
            sources(made["target_store"], [one.path for one in fitted], [one.path for one in models]),
        )


def external(*, run: Run, store: Path, name: str, bootstrap: int, seed: int, threads: int) -> schema.ExternalFile:
    """Score a store of unseen images by all choices of a run, and measure and compare them.

    Rows are those of the run with ``subgroup`` ``external=NAME``: each source's fused, single and overall choice, with
    intervals by the store's own leakage groups. Comparisons, family ``shift``, are AUROCs of the fused choices of the
    TL sources, pairwise, by the paired group bootstrap and Holm's correction.

    Args:
        run: the finished run.
        store: that :func:`radtransfer.preprocess.external.external_store` made for it; ``scores.parquet`` with the
            scores is written beside it.
        name: what rows call the images.
        bootstrap: replicates behind every interval and p-value.
        seed: of the resamples.
        threads: CPU threads.

    Raises:
        RadtransferError: the store is of another size, or the images lack a class.
    """
    settle(threads, seed)
    images = Store.open(store)
    labels = images.manifest["label"].to_numpy(dtype=bool)
    groups = images.manifest["group_id"].to_numpy()
    own = {row["id"]: row for row in run.metrics["results"]}
    scores = _scores(run, images)
    content = run.evaluation.content
    rows, measured = [], {}
    fewest = verdict.fewest(labels, groups)[0]
    with threadpool_limits(1):  # as in `evaluate`
        resamples = resample(groups, labels, bootstrap, seed)
        for choice, (candidate, its) in scores.items():
            checked, probabilities = check(labels, its, choice)
            threshold = float(candidate["threshold"])
            found = measure(checked, probabilities, threshold, resamples, run.config.prevalence or None)
            measured[f"{choice}/external={name}"] = found
            rows.append(_row(own[choice], found, name, len(labels), int(labels.sum()), fewest))
        fused = {source: f"{choices['fused']}/external={name}" for source, choices in content["choices"].items()}
        pairs = combinations(list(reversed(fused)), 2)
        comparisons = verdict.judged([compare(fused[a], fused[b], "auroc", measured, FAMILY) for a, b in pairs], fewest)
    frame = pd.DataFrame({"image_id": images.manifest["image_id"], "group_id": groups, "label": labels.astype(np.int8)})
    frame.assign(**{choice: its for choice, (_, its) in scores.items()}).to_parquet(
        store.parent / "scores.parquet", index=False
    )
    described = images.content
    return schema.ExternalFile(
        target=f"{described['name']} {described['part']}",
        positive_class=described["positive_class"],
        test=schema.TestSet(images=len(labels), groups=len(set(groups)), positives=int(labels.sum())),
        results=rows,
        comparisons=[schema.ComparisonEntry(**asdict(one)) for one in comparisons],
        name=name,
        run=run.path.resolve().name,
        run_target=run.metrics["target"],
        evaluation=run.evaluation.digest,
        store=images.artifact.digest,
        left_out=dict(sorted(Counter(one["problem"] for one in described["rejected"]).items())),
        bootstrap=bootstrap,
        seed=seed,
        home=[schema.Row.model_validate(own[choice]) for choice in scores],
        warnings=_warnings(run, images),
    )


def write(found: schema.ExternalFile, out: Path) -> Path:
    """Write ``external.json`` and its page into a folder; returns the page's path."""
    from radtransfer import pages
    from radtransfer.evaluation.external_page import render

    content = found.model_dump(mode="json")
    return pages.leave(out, "external", content, render(content))


def _scores(run: Run, images: Store) -> dict[str, tuple[dict[str, Any], Floats]]:
    """Of each choice, by its row's id, the candidate and its scores [N] of the images, each passed once a source."""
    found: dict[str, tuple[dict[str, Any], Floats]] = {}
    for source in run.sources.values():
        networks = {backbone: load_network(model.path) for backbone, model in source.models.items()}
        wanted = set(source.classifiers.content["choice"].values())
        chosen = [one for one in source.candidates if one["id"] in wanted]
        predictors = [predictor.of_candidate(one, source.blocks, networks, source.classifiers.path) for one in chosen]
        scores = np.empty((len(chosen), len(images.images)))
        for rows, passed in batches(list(networks.values()), images.images, what=f"external {source.name}"):
            of = dict(zip(networks, passed, strict=True))
            for number, predict in enumerate(predictors):
                scores[number, rows] = predict.of_passed([of[network.backbone] for network in predict.networks])
        for one, its in zip(chosen, scores, strict=True):
            found[row_id(source.name, one["id"], source.classifiers)] = (one, its)
    return found


def _row(
    own: Mapping[str, Any], found: Measured, name: str, images: int, positives: int, rarer_groups: int
) -> schema.Row:
    """The run's row of a choice with what it comes to on the external images."""
    subgroup = f"external={name}"
    told = {"id": f"{own['id']}/{subgroup}", "subgroup": subgroup, "n": images, "positives": positives}
    values = {metric: one._asdict() for metric, one in found.intervals.items()}
    return schema.Row.model_validate({**own, **told, "rarer_groups": rarer_groups, **values})


def _warnings(run: Run, images: Store) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    content, labels = images.content, images.manifest["label"].to_numpy(dtype=bool)
    if content["synthetic"]:
        found.append(verdict.SYNTHETIC)
    if content["part"] != run.config.target_part:
        found.append(f"The model is for {run.config.target_part}; these images show {content['part']}.")
    if content["positive_class"] != run.metrics["positive_class"]:
        found.append(
            f"Positive means {content['positive_class']!r} here and {run.metrics['positive_class']!r} in the run: part "
            "of a difference may be one of labels."
        )
    if content["name"] == run.config.target_path.rpartition("/")[2] and content["grouping"] != "patient":
        found.append(verdict.NO_PATIENTS)
    return found + verdict.few(labels, images.manifest["group_id"].to_numpy())
