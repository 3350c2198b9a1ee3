"""A finished run tested on images that it has never seen: another data set, site or body part, without any change.

Every TL source's choices score the images at the thresholds that the run fixed on its own validation images; nothing is
fitted, calibrated or chosen, but where light fine-tuning on some of the images is asked for.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from radtransfer import artifacts, pages
from radtransfer.artifacts import Artifact
from radtransfer.config import TL_SOURCES, ExternalSet
from radtransfer.configfile import validate
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import external_page, schema, verdict
from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.entries import row_id
from radtransfer.evaluation.intervals import Measured, measure, resample
from radtransfer.evaluation.metrics import Floats, check
from radtransfer.evaluation.tuned import CANDIDATE, EPOCHS, RATE, Tuned, tune
from radtransfer.fusion.predictor import Choices
from radtransfer.fusion.sources import Source, sources
from radtransfer.preprocess.external import Learnt, external_store
from radtransfer.preprocess.store import Store
from radtransfer.training.inference import batches
from radtransfer.training.runtime import settle

FAMILY, TUNED = "shift", "tuned"
PATIENTS_ELSEWHERE = (
    "Patient ids hold within one data set: whether a patient of these images is among those of the run, with images "
    "that are not alike, cannot be seen."
)


@dataclass(frozen=True)
class Run:
    """What a run made, as far as it scores images.

    Attributes:
        name: what it is called.
        learnt: the data that it has seen.
        evaluation: its evaluation, every file verified.
        metrics: its ``metrics.json``.
        sources: classifiers and models of each TL source, the ones that were evaluated.
    """

    name: str
    learnt: Learnt
    evaluation: Artifact
    metrics: dict[str, Any]
    sources: dict[str, Source]

    @classmethod
    def of(
        cls, name: str, learnt: Learnt, evaluation: Path, classifiers: Sequence[Path], models: Sequence[Path]
    ) -> Run:
        """By its artifacts.

        Raises:
            RadtransferError: they do not belong together, or were changed since.
        """
        evaluated = artifacts.read(evaluation, "evaluation", verify=True)
        for path in models:
            artifacts.read(path, "model", verify=True)
        made = evaluated.made["inputs"]
        for path in classifiers:
            fitted = artifacts.read(path, "classifiers", verify=True)
            if made.get(f"classifiers_{fitted.content['tl_source']}") != fitted.digest:
                raise RadtransferError(f"{path}: not what {evaluation} was made of; hand over those of one run")
        metrics = artifacts.read_json(evaluation / "metrics.json")
        return cls(name, learnt, evaluated, metrics, sources(made["target_store"], classifiers, models))

    @classmethod
    def open(cls, path: Path) -> Run:
        """By the folder that `radtransfer run` left.

        Raises:
            RadtransferError: not one, made before runs kept models and classifiers, not whole, or changed since.
        """
        if not (path / "run.json").is_file():
            raise RadtransferError(f"{path}: no finished run (no run.json); name the folder of `radtransfer run`")
        if not (path / "classifiers").is_dir() or not (path / "models").is_dir():
            raise RadtransferError(f"{path}: has no folders models and classifiers; make the run again to have them")
        if not (path / "splits.csv").is_file():
            raise RadtransferError(
                f"{path}: has no splits.csv, which names the images that the run has seen; restore it"
            )
        config = validate(artifacts.read_json(path / "run.json")["config"], str(path / "run.json"))
        return cls.of(
            path.resolve().name,
            Learnt.of_config(config, path / "splits.csv"),
            path / "evaluation",
            sorted((path / "classifiers").iterdir()),
            sorted((path / "models").glob("*/*")),
        )


def score_unseen(
    run: Run, *, data_root: str, asked: ExternalSet, bootstrap: int, seed: int, threads: int, out: Path
) -> None:
    """Score images that a run has not seen by all its choices, measure and compare them; write an **external**.

    Rows are those of the run with ``subgroup`` ``external=NAME``: each source's fused, single and overall choice, with
    intervals by the images' own leakage groups. Comparisons, family ``shift``, are AUROCs of the fused choices of the
    TL sources, pairwise, by the paired group bootstrap and Holm's correction.

    Where some of the images are to be fine-tuned on, the others are scored before and after that too
    (:mod:`radtransfer.evaluation.tuned`): rows with the ``subgroup`` ``external=NAME, rest`` and ``external=NAME,
    tuned``, and comparisons, family ``tuned``, of every source after with before, and of the sources after, pairwise.

    Args:
        run: the run.
        data_root: folder of the data sets, the run's among them, or its address.
        asked: the images, see :func:`radtransfer.preprocess.external.external_store`.
        bootstrap: replicates behind every interval and p-value.
        seed: of the resamples.
        threads: CPU threads.
        out: folder to write: ``metrics.json`` (:class:`radtransfer.evaluation.schema.ExternalFile`),
            ``external.html``, ``scores.parquet``, ``external.json``.

    Raises:
        RadtransferError: as of :func:`radtransfer.preprocess.external.external_store`.
    """
    artifacts.check_free(out)
    settings = {"external": asked.model_dump(), "bootstrap": bootstrap, "seed": seed, "threads": threads}
    inputs = {"evaluation": run.evaluation}
    for source in run.sources.values():
        inputs |= source.inputs
    with (
        artifacts.writing(out, "external", step="external", settings=settings, inputs=inputs) as (folder, content),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".external-") as scratch,
    ):
        external_store(data_root=data_root, learnt=run.learnt, asked=asked, out=Path(scratch) / "store")
        images = Store.open(Path(scratch) / "store")
        settle(threads, seed)
        scores = _scores(run, images)
        told = _measured(run, images, scores, asked.name, bootstrap, seed)
        if asked.tune_images:
            made = tune(run.sources, images, asked.tune_images, seed, threads)
            told = told.model_copy(update={"tuned": _tuned(run, images, made, asked.name, bootstrap, seed)})
        found = told.model_dump(mode="json")
        ids = images.manifest[["image_id", "group_id", "label"]]
        ids.assign(**{one: its for one, (_, its) in scores.items()}).to_parquet(folder / "scores.parquet", index=False)
        artifacts.write_json(folder / "metrics.json", found)
        pages.write(folder / "external.html", external_page.render(found))
        content |= {"name": asked.name, "store": images.content, "answer": external_page.answer(found)}


def _tuned(run: Run, images: Store, made: Tuned, name: str, bootstrap: int, seed: int) -> schema.TunedEntry:
    """Rows of all sources, before and after, and the comparisons."""
    manifest = images.manifest.iloc[made.rest]
    own = {row["id"]: row for row in run.metrics["results"]}
    names = {source: row_id(source, CANDIDATE, run.sources[source].classifiers) for source in made.before}
    given = {
        f"{names[source]}/external={name}, {when}": (own[names[source]], made.thresholds[source], its[source])
        for when, its in (("rest", made.before), ("tuned", made.after))
        for source in names
    }
    rows, measured, fewest = _rows(run, manifest, given, bootstrap, seed)
    before, after = list(given)[: len(names)], list(given)[len(names) :]
    pairs = [*zip(after, before, strict=True), *combinations(reversed(after), 2)]
    comparisons = verdict.judged([compare(a, b, "auroc", measured, TUNED) for a, b in pairs], fewest)
    return schema.TunedEntry(
        images=made.trained,
        epochs=EPOCHS,
        rate=RATE,
        before=rows[: len(names)],
        after=rows[len(names) :],
        comparisons=[schema.ComparisonEntry(**asdict(one)) for one in comparisons],
    )


def _measured(
    run: Run, images: Store, scores: Mapping[str, tuple[float, Floats]], name: str, bootstrap: int, seed: int
) -> schema.ExternalFile:
    """Rows of all choices, and the comparisons."""
    own = {row["id"]: row for row in run.metrics["results"]}
    given = {f"{one}/external={name}": (own[one], threshold, its) for one, (threshold, its) in scores.items()}
    rows, measured, fewest = _rows(run, images.manifest, given, bootstrap, seed)
    choices = run.evaluation.content["choices"]
    fused = [f"{choices[source]['fused']}/external={name}" for source in reversed(TL_SOURCES) if source in choices]
    pairs = combinations(fused, 2)
    comparisons = verdict.judged([compare(a, b, "auroc", measured, FAMILY) for a, b in pairs], fewest)
    return schema.ExternalFile(
        target=f"{images.content['name']} {images.content['part']}",
        positive_class=images.content["positive_class"],
        test=schema.TestSet(
            images=len(images.manifest),
            groups=images.manifest["group_id"].nunique(),
            positives=int(images.manifest["label"].sum()),
        ),
        results=rows,
        comparisons=[schema.ComparisonEntry(**asdict(one)) for one in comparisons],
        name=name,
        run=run.name,
        run_target=run.metrics["target"],
        evaluation=run.evaluation.digest,
        left_out=dict(sorted(Counter(one["problem"] for one in images.content["rejected"]).items())),
        bootstrap=bootstrap,
        seed=seed,
        home=[schema.Row.model_validate(own[choice]) for choice in scores],
        warnings=_warnings(run, images),
    )


def _rows(
    run: Run,
    manifest: pd.DataFrame,
    given: Mapping[str, tuple[Mapping[str, Any], float, Floats]],
    bootstrap: int,
    seed: int,
) -> tuple[list[schema.Row], dict[str, Measured], int]:
    """Rows of scores of the same images, what they were measured to be, and how many groups the rarer class lies in.

    Args:
        run: the run.
        manifest: of the images [N].
        given: by id, CHOICE/SUBGROUP: the row of the run that it is of, threshold and scores [N].
        bootstrap, seed: of the resamples.
    """
    labels, groups = manifest["label"].to_numpy(dtype=bool), manifest["group_id"].to_numpy()
    prevalence = run.evaluation.made["settings"]["prevalence"] or None
    fewest = verdict.fewest(labels, groups)[0]
    counts = {"n": len(labels), "positives": int(labels.sum()), "rarer_groups": fewest}
    rows, measured = [], {}
    with threadpool_limits(1):  # as in `evaluate`
        resamples = resample(groups, labels, bootstrap, seed)
        for name, (own, threshold, its) in given.items():
            measured[name] = measure(*check(labels, its, name), threshold, resamples, prevalence)
            values = {metric: one._asdict() for metric, one in measured[name].intervals.items()}
            subgroup = name.removeprefix(f"{own['id']}/")
            rows.append(schema.Row.model_validate({**own, "id": name, "subgroup": subgroup, **counts, **values}))
    return rows, measured, fewest


def _scores(run: Run, images: Store) -> dict[str, tuple[float, Floats]]:
    """Of each choice, by its row's id, the threshold and its scores [N] of the images."""
    choices = Choices.of(run.sources)
    scores = {name: np.empty(len(images.images)) for name in choices.predictors}
    for rows, passed in batches(choices.networks, images.images, what="external"):
        for name, its in choices.scores(passed).items():
            scores[name][rows] = its
    return {
        row_id(source, candidate, run.sources[source].classifiers): (predict.threshold, scores[source, candidate])
        for (source, candidate), predict in choices.predictors.items()
    }


def _warnings(run: Run, images: Store) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    content, labels = images.content, images.manifest["label"].to_numpy(dtype=bool)
    if content["synthetic"]:
        found.append(verdict.SYNTHETIC)
    if content["part"] != run.learnt.part:
        found.append(f"The model is for {run.learnt.part}; these images show {content['part']}.")
    if content["positive_class"] != run.metrics["positive_class"]:
        found.append(
            f"Positive means {content['positive_class']!r} here and {run.metrics['positive_class']!r} in the run: part "
            "of a difference may be one of labels."
        )
    seen = {Path(asked.path).name for asked in (run.learnt.target, run.learnt.source)}
    if content["name"] in seen and content["grouping"] != "patient":
        found.append(verdict.NO_PATIENTS)
    if content["name"] not in seen and images.manifest["patient_id"].notna().any():
        found.append(PATIENTS_ELSEWHERE)
    return found + verdict.few(labels, images.manifest["group_id"].to_numpy())
