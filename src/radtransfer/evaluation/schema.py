"""The shapes of ``metrics.json`` and ``comparison.json``, which other programs read and which are written by these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from radtransfer.config import TlSource
from radtransfer.evaluation.metrics import Metric


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )


class IntervalEntry(_Strict):
    """A value with its 95 % interval; ``null`` where the metric is undefined (a class is missing)."""

    value: float | None
    low: float | None
    high: float | None


class _Measures(_Strict):
    """All metrics of a row."""

    accuracy: IntervalEntry
    f1: IntervalEntry
    kappa: IntervalEntry
    auroc: IntervalEntry
    sensitivity: IntervalEntry
    specificity: IntervalEntry
    ece: IntervalEntry
    auprc: IntervalEntry
    brier: IntervalEntry
    ppv: IntervalEntry
    npv: IntervalEntry
    calibration_slope: IntervalEntry


class _Described(_Strict):
    """What a row is of."""

    id: str
    tl_source: TlSource | Literal["shortcut"]
    features: str = Field(description="'fused', the backbone, or the shortcut's name")
    classifier: str
    seed: int | Literal["pooled"]
    label_fraction: float = Field(default=1.0, gt=0, le=1)
    subgroup: str = "all"
    corruption: str = "none"
    level: Literal["image", "study"]
    pooling: Literal["none", "mean", "max"] = Field(
        default="none", description="what a study's score is made of: the mean, or the highest, of its images' scores"
    )
    selected: bool
    n: int = Field(ge=1)
    positives: int = Field(ge=0, description="of the n")
    rarer_groups: int = Field(ge=0, description="leakage groups that hold the class that fewer groups hold")


class Row(_Measures, _Described):  # the fields of the last base come first
    """One classifier (or shortcut) measured on the test images."""


class BesideEntry(_Strict):
    """A test that was made beside the one that counts; its p-value is not corrected."""

    test: str
    p_value: float


class ComparisonEntry(_Strict):
    """Metric of row ``a`` less that of row ``b``."""

    a: str
    b: str
    metric: Metric
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    adjusted_p: float | None
    family: str
    test: str
    smallest_detectable: float | None = Field(
        default=None, description="the smallest true difference that this test shows with a power of 80 %"
    )
    beside: BesideEntry | None = Field(default=None, description="another test of the same difference; decides nothing")


class TestSet(_Strict):
    """What the rows were measured on."""

    images: int = Field(ge=1)
    groups: int = Field(ge=1)
    positives: int = Field(ge=0)


class MetricsFile(_Strict):
    """``metrics.json`` as a whole."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    target: str
    positive_class: str
    test: TestSet
    results: Sequence[Row]
    comparisons: Sequence[ComparisonEntry]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [row.id for row in self.results]
        if len(set(ids)) != len(ids):
            raise ValueError("results: a row id occurs twice")
        if sum(row.selected for row in self.results) != 1:
            raise ValueError("results: exactly one row must be selected")
        unknown = {side for one in self.comparisons for side in (one.a, one.b)} - set(ids)
        if unknown:
            raise ValueError(f"comparisons: no row {sorted(unknown)[0]}")
        return self


class TunedEntry(_Strict):
    """What light fine-tuning on some of the unseen images did for the others, by the mean of each source's heads."""

    images: int = Field(ge=2, description="trained on")
    epochs: int
    rate: float = Field(description="share of the run's own learning rate")
    before: Sequence[Row] = Field(description="the others, by the networks as the run left them; a row a TL source")
    after: Sequence[Row] = Field(description="the same, fine-tuned; in the same order")
    comparisons: Sequence[ComparisonEntry] = Field(description="each after with before, then those after, pairwise")


class ExternalFile(MetricsFile):
    """``metrics.json`` of an **external**: a run's choices on images that it has never seen."""

    name: str = Field(description="what the rows call the images: subgroup external=NAME")
    run: str = Field(description="name of the run")
    run_target: str
    evaluation: str = Field(description="digest of the run's evaluation")
    left_out: dict[str, int] = Field(description="files that are not among the images, by problem; leak: seen before")
    bootstrap: int
    seed: int
    home: Sequence[Row] = Field(description="the same choices on the run's own test images, in the order of results")
    tuned: TunedEntry | None = Field(default=None, description="where it was asked for")
    warnings: Sequence[str]


class ChosenEntry(_Strict):
    """What a choice came to in some of the runs."""

    tl_source: TlSource | Literal["shortcut"]
    features: str
    classifier: str
    runs: int = Field(ge=1)


class FoldEntry(_Strict):
    """One run's own test images."""

    seed: int
    fold: int = Field(ge=1)
    images: int = Field(ge=1)
    positives: int = Field(ge=0)
    auroc: float | None


class SpreadEntry(_Strict):
    """How far AUROCs of several runs lie apart; no interval."""

    n: int
    sd: float
    lowest: float
    highest: float


class _Choice(_Strict):
    """What every run of a subject chose by validation."""

    id: str
    run: str = Field(description="label of the subject: A, B, ...")
    choice: Literal["fused", "single", "selected", "shortcut"]
    tl_source: TlSource | Literal["shortcut", "mixed"]
    features: str = Field(description="'mixed' where the runs chose differently")
    classifier: str = Field(description="'mixed' where the runs chose differently")
    seed: int | Literal["pooled"]
    n: int = Field(ge=1)
    chosen: Sequence[ChosenEntry]
    folds: Sequence[FoldEntry]
    fold_spread: SpreadEntry | None = Field(description="AUROCs of single folds, noise of small test sets included")
    seed_spread: SpreadEntry | None = Field(description="AUROCs of whole repeats: other splits and trainings")


class PooledRow(_Measures, _Choice):
    """A choice measured over all runs of a subject."""


class SubjectEntry(_Strict):
    """One run, or the runs of a cross-fitting."""

    label: str
    name: str
    config_name: str
    folds: int = Field(ge=1, description="1: a single run")
    seeds: Sequence[int]
    code_version: str
    data_version: str
    evaluations: Sequence[str] = Field(description="digests of the evaluation artifacts, by seed and fold")


class SettingEntry(_Strict):
    """An entry of the configurations in which subjects differ; values by label."""

    key: str
    values: dict[str, Any]


class _Together(_Strict):
    """What is said of several subjects that were measured together."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    target: str
    positive_class: str
    test: TestSet
    bootstrap: int
    seed: int
    subjects: Sequence[SubjectEntry]
    answers: Sequence[str]
    warnings: Sequence[str]
    results: Sequence[PooledRow]
    comparisons: Sequence[ComparisonEntry]


class ComparisonFile(_Together):
    """``comparison.json`` as a whole."""

    settings: Sequence[SettingEntry]


class PointEntry(_Strict):
    """How many labels one label fraction comes to: train and validation images, of folds their mean."""

    run: str = Field(description="label of the subject: A, B, ...")
    fraction: float = Field(gt=0, le=1)
    images: int = Field(ge=1)
    positives: int = Field(ge=1)


class NeededEntry(_Strict):
    """How many labels ImageNet transfer needs to reach the AUROC that in-domain pre-training has with fewer or more."""

    run: str
    images: int = Field(description="that in-domain pre-training had")
    auroc: float
    needed: int
    low: int | None = Field(description="of the 95 % interval; null: fewer than the fewest that were tried")
    high: int | None = Field(description="null: more than the most that were tried")


class LearningCurveFile(_Together):
    """``learning_curve.json`` as a whole; subjects, points and rows by label fraction, the smallest first."""

    points: Sequence[PointEntry]
    needed: Sequence[NeededEntry]
