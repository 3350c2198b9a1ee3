"""The shape of ``metrics.json``, the file that other programs read; ``evaluate`` writes it through these models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

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


class Row(_Strict):
    """One classifier (or shortcut) measured on the test images."""

    id: str
    tl_source: TlSource | Literal["shortcut"]
    features: str = Field(description="'fused', the backbone, or the shortcut's name")
    classifier: str
    seed: int | Literal["pooled"]
    label_fraction: float = Field(default=1.0, gt=0, le=1)
    subgroup: str = "all"
    corruption: str = "none"
    level: Literal["image", "study"]
    selected: bool
    n: int = Field(ge=1)
    accuracy: IntervalEntry
    f1: IntervalEntry
    kappa: IntervalEntry
    auroc: IntervalEntry
    sensitivity: IntervalEntry
    specificity: IntervalEntry
    ece: IntervalEntry


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
