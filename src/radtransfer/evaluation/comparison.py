"""Several finished runs measured together: other settings on the same test images, and the folds of a cross-fitting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import schema, verdict
from radtransfer.evaluation.compare import Comparison, compare
from radtransfer.evaluation.finished import OWN, SELECTED, Subject, open_subjects
from radtransfer.evaluation.intervals import DIGITS, Measured, measure_tests, resample
from radtransfer.evaluation.metrics import auroc
from radtransfer.progress import track

BETWEEN = "run"


@dataclass(frozen=True)
class Together:
    """Finished runs and cross-fittings measured on the same images with the same resamples, so that all is paired.

    Attributes:
        subjects: what was measured.
        measured: every choice of every subject, by :func:`row_id`.
        bootstrap, seed: number and seed of the resamples.
        images: test images, of all folds.
        groups, positives: leakage groups among them, and positive ones.
        fewest: leakage groups that hold the class that the fewest hold.
        warnings: what limits all figures.
    """

    subjects: list[Subject]
    measured: dict[str, Measured]
    bootstrap: int
    seed: int
    images: int
    groups: int
    positives: int
    fewest: int
    warnings: list[str]

    def told(self, comparisons: Sequence[Comparison]) -> dict[str, Any]:
        """What every file on subjects measured together says, but for answers and warnings."""
        first = self.subjects[0].runs[0]
        return {
            "target": first.target,
            "positive_class": first.positive_class,
            "test": schema.TestSet(images=self.images, groups=self.groups, positives=self.positives),
            "bootstrap": self.bootstrap,
            "seed": self.seed,
            "subjects": [_described(subject) for subject in self.subjects],
            "results": _pooled_rows(self),
            "comparisons": [schema.ComparisonEntry(**asdict(one)) for one in comparisons],
        }


def measure_together(subjects: list[Subject], bootstrap: int, seed: int) -> Together:
    """Measure every choice of every subject: a TL source's fused and single choice, the selected model, the shortcuts.

    Of a cross-fitting a choice is measured as a procedure: each fold's own choice on that fold's images, see
    :func:`radtransfer.evaluation.intervals.measure_tests`.

    Args:
        subjects: with the same test images, see :func:`radtransfer.evaluation.finished.open_subjects`.
        bootstrap: replicates behind every interval and p-value; all share one set of group resamples.
        seed: of the resamples.

    Raises:
        RadtransferError: the images lack a class.
    """
    images = subjects[0].images
    labels, groups = images["label"].to_numpy(dtype=bool), images["group_id"].to_numpy()
    if labels.all() or not labels.any():
        raise RadtransferError(f"{subjects[0].runs[0].path}: its {len(labels)} test images are all of one class")
    with threadpool_limits(1):  # as in `evaluate`
        resamples = resample(groups, labels, bootstrap, seed)
        work = [(subject, choice) for subject in subjects for choice in subject.choices]
        measured = {
            row_id(subject, choice): measure_tests(
                labels, subject.tests(choice), resamples, subject.runs[0].config.get("prevalence") or None
            )
            for subject, choice in track(work, "compare", len(work))
        }
    warnings = [one for one in (verdict.SYNTHETIC, verdict.NO_PATIENTS) if _warned(subjects, one)]
    return Together(
        subjects,
        measured,
        bootstrap,
        seed,
        images=len(images),
        groups=len(set(groups)),
        positives=int(labels.sum()),
        fewest=verdict.fewest(labels, groups)[0],
        warnings=warnings + verdict.few(labels, groups),
    )


def compare_runs(folders: Sequence[Path], *, bootstrap: int, seed: int) -> schema.ComparisonFile:
    """Measure and compare finished runs that were tested on the same images.

    They are measured as :func:`measure_together` says. Families corrected by Holm: those of
    :func:`radtransfer.evaluation.verdict.within` for each subject (``A: tl_source`` where there are several), and
    ``run``: AUROC of the same choice (fused of each TL source, selected) in two subjects, a later less an earlier one.

    Args:
        folders: output folders of runs and cross-fittings, in the order in which they are labelled A, B, ...
        bootstrap: replicates behind every interval and p-value.
        seed: of the resamples.

    Raises:
        RadtransferError: as of :func:`radtransfer.evaluation.finished.open_subjects`; or there is nothing to compare,
            or the images lack a class.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise RadtransferError(f"runs to compare: one is named twice among {', '.join(map(str, folders))}")
    subjects = open_subjects(folders)
    if len(subjects) == 1 and not subjects[0].crossfit:
        raise RadtransferError(
            f"{folders[0]}: one run alone, which its own report shows; name another one, or a cross-fitting"
        )
    together = measure_together(subjects, bootstrap, seed)
    measured, fewest, warnings = together.measured, together.fewest, list(together.warnings)
    comparisons: list[Comparison] = []
    answers: list[str] = []
    for subject in subjects:
        found, text, against = _within(subject, measured, fewest, bootstrap, together.images)
        before = f"{subject.label} ({subject.name}): " if len(subjects) > 1 else ""
        comparisons += found if len(subjects) > 1 else [replace(one, family=one.family.split(": ")[1]) for one in found]
        answers.append(before + text)
        warnings += [before + one for one in against]
    between = verdict.judged(_between(subjects, measured), fewest)
    if between:
        answers = [_told(between, bootstrap), *answers]
        warnings += [f"Between runs: {one}" for one in verdict.unreachable(between, bootstrap)]
    return schema.ComparisonFile(
        **together.told([*between, *comparisons]), settings=_settings(subjects), answers=answers, warnings=warnings
    )


def write(comparison: schema.ComparisonFile, out: Path) -> Path:
    """Write ``comparison.json`` and its page into a folder, over earlier ones; returns the page's path."""
    from radtransfer import pages
    from radtransfer.evaluation.comparison_page import render

    content = comparison.model_dump(mode="json")
    return pages.leave(out, "comparison", content, render(content))


def row_id(subject: Subject, choice: str) -> str:
    """What a choice of a subject is called."""
    return f"{subject.label}/{choice}"


def _pooled_rows(together: Together) -> list[schema.PooledRow]:
    """A row for every choice of every subject."""
    return [
        _row(subject, choice, together.measured[row_id(subject, choice)])
        for subject in together.subjects
        for choice in subject.choices
    ]


def _within(
    subject: Subject, measured: dict[str, Measured], fewest: int, bootstrap: int, images: int
) -> tuple[list[Comparison], str, list[str]]:
    """The comparisons within a subject, the answer that they give, and the warnings."""
    own = {choice: measured[row_id(subject, choice)] for choice in subject.choices}
    choices: dict[str, dict[str, str]] = {
        source: {kind: f"{source}/{kind}" for kind in ("fused", "single")}
        for source in TL_SOURCES
        if f"{source}/fused" in own
    }
    found = verdict.judged(verdict.within(SELECTED, choices, own), fewest)
    text = verdict.answer(choices, found, own, images, fewest, bootstrap, len(subject.runs))["text"]
    shortcuts = {shortcut: own[shortcut].intervals["auroc"].value for shortcut in verdict.LEARNT}
    warnings = verdict.warnings(found, shortcuts, bootstrap)
    renamed = [
        replace(one, a=row_id(subject, one.a), b=row_id(subject, one.b), family=f"{subject.label}: {one.family}")
        for one in found
    ]
    return renamed, str(text), warnings


def _between(subjects: list[Subject], measured: dict[str, Measured]) -> list[Comparison]:
    return [
        compare(row_id(later, choice), row_id(earlier, choice), "auroc", measured, BETWEEN)
        for earlier, later in combinations(subjects, 2)
        for choice in earlier.choices
        if choice in later.choices and (choice.endswith("/fused") or choice == SELECTED)
    ]


def _told(between: list[Comparison], bootstrap: int) -> str:
    """Which differences between the subjects are shown."""
    if all(one.adjusted_p is None for one in between):
        return (
            "There is no verdict on the differences between the runs: a class lies in fewer than "
            f"{verdict.TOO_FEW} leakage groups of the test images, and no test can be trusted."
        )
    shown = [one for one in between if one.significant]
    if not shown:
        return f"None of the {len(between)} differences in AUROC between the runs is shown after Holm's correction."
    told = "; ".join(
        f"{one.a} less {one.b} {one.difference:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f}"
        f"{verdict.p_text(one, bootstrap)})"
        for one in shown
    )
    return f"{len(shown)} of the {len(between)} differences in AUROC between the runs are shown: {told}."


def _warned(subjects: list[Subject], warning: str) -> bool:
    return any(warning in run.evaluation.content["warnings"] for subject in subjects for run in subject.runs)


def _described(subject: Subject) -> schema.SubjectEntry:
    """Where a subject lies and what it was made with."""
    first = subject.runs[0]
    return schema.SubjectEntry(
        label=subject.label,
        name=subject.name,
        config_name=first.config["name"],
        folds=subject.of,
        seeds=subject.seeds,
        code_version=first.code_version,
        data_version=first.data_version,
        evaluations=[run.evaluation.digest for run in subject.runs],
    )


def _settings(subjects: list[Subject]) -> list[schema.SettingEntry]:
    """In what the configurations of the subjects differ; of cross-fittings their seeds and folds stand elsewhere."""
    own = OWN if any(subject.crossfit for subject in subjects) else ()
    configs = {subject.label: subject.runs[0].config for subject in subjects}
    keys = dict.fromkeys(key for config in configs.values() for key in config if key not in own)
    told = {key: {label: config.get(key) for label, config in configs.items()} for key in keys}
    return [
        schema.SettingEntry(key=key, values=values)
        for key, values in told.items()
        if any(value != values[subjects[0].label] for value in values.values())
    ]


def _row(subject: Subject, choice: str, measured: Measured) -> schema.PooledRow:
    rows = [run.rows[choice] for run in subject.runs]
    chosen = Counter((row["tl_source"], row["features"], row["classifier"]) for row in rows)
    same = [found.pop() if len(found := {row[key] for row in rows}) == 1 else "mixed" for key in _DESCRIBED]
    kind = choice.split("/")[1] if choice.split("/", maxsplit=1)[0] in TL_SOURCES else choice.split("/", maxsplit=1)[0]
    folds = _folds(subject, choice)
    repeats = [
        _auroc(subject.images["label"].to_numpy(dtype=bool), test.scores, test.folds) for test in subject.tests(choice)
    ]
    told = dict(zip(_DESCRIBED, same, strict=True)) | {
        "id": row_id(subject, choice),
        "run": subject.label,
        "choice": kind,
        "seed": "pooled" if len(subject.seeds) > 1 else subject.seeds[0],
        "n": len(subject.images),
        "chosen": [dict(zip(_DESCRIBED, what, strict=True)) | {"runs": count} for what, count in chosen.most_common()],
        "folds": folds,
        "fold_spread": _spread([fold.auroc for fold in folds]),
        "seed_spread": _spread(repeats),
    }
    values = {metric: schema.IntervalEntry(**one._asdict()) for metric, one in measured.intervals.items()}
    return schema.PooledRow.model_validate(told | values)


_DESCRIBED = ("tl_source", "features", "classifier")


def _folds(subject: Subject, choice: str) -> list[schema.FoldEntry]:
    found = []
    for run in subject.runs:
        labels = run.test["label"].to_numpy(dtype=bool)
        found.append(
            schema.FoldEntry(
                seed=run.seed,
                fold=run.fold,
                images=len(labels),
                positives=int(labels.sum()),
                auroc=_auroc(labels, run.scores[choice], None),
            )
        )
    return found


def _auroc(labels: Any, scores: Any, folds: Any) -> float | None:
    value = float(auroc(labels, scores, np.ones((1, len(labels))), folds)[0])
    return None if np.isnan(value) else round(value, DIGITS)


def _spread(values: Sequence[float | None]) -> schema.SpreadEntry | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    sd = round(float(np.std(known, ddof=1)), DIGITS)
    return schema.SpreadEntry(n=len(known), sd=sd, lowest=min(known), highest=max(known))
