"""The pipelines and the table of their resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _transfer_fusion() -> Callable[..., Any]:
    from radtransfer_pipelines.transfer_fusion import transfer_fusion

    return transfer_fusion


def _ct_reuse() -> Callable[..., Any]:
    from radtransfer_pipelines.ct_reuse import ct_reuse

    return ct_reuse


def _retrain() -> Callable[..., Any]:
    from radtransfer_pipelines.retrain import retrain

    return retrain


# The first two by the names that a configuration's `pipeline` takes; each imports kfp only when it is called.
PIPELINES: dict[str, Callable[[], Callable[..., Any]]] = {
    "transfer_fusion": _transfer_fusion,
    "ct_reuse": _ct_reuse,
    "retrain": _retrain,
}
OF_RETRAIN = "transfer_fusion"
"""Pipeline that makes alone what ``retrain`` makes, and that the configuration of its models names."""
# Entries of a configuration that say how to start a run, not what its tasks do.
NOT_PARAMETERS = ("pipeline", "budget_minutes")
