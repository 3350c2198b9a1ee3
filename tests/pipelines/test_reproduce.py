"""When a run is that of a bundle once more, and when it is not."""

from __future__ import annotations

from typing import Any

from radtransfer_pipelines.reproduce import differences

ROW: dict[str, Any] = {"id": "imagenet/fused/lda", "selected": True, "n": 40, "auroc": {"value": 0.8, "low": None}}
CONTENT = {"row_id": ROW["id"], "metrics": ROW}


def row(**other: Any) -> list[dict[str, Any]]:
    return [{"id": "scratch/fused/lda", "selected": False}, ROW | other]


def test_figures_may_differ_by_rounding_alone() -> None:
    assert differences(CONTENT, row()) == []
    assert differences(CONTENT, row(auroc={"value": 0.80009, "low": None})) == []
    assert differences(CONTENT, row(auroc={"value": 0.8002, "low": None})) == ["auroc.value 0.8 then, 0.8002 now"]
    assert differences(CONTENT, row(auroc={"value": 0.8, "low": 0.7})) == ["auroc.low None then, 0.7 now"]
    assert differences(CONTENT, row(n=41)) == ["n 40 then, 41 now"]


def test_another_choice_is_another_model() -> None:
    said = differences(CONTENT, row(id="imagenet/fused/mlp"))
    assert said == ["imagenet/fused/mlp was selected, not imagenet/fused/lda"]
