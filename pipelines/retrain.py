"""The run of ``transfer_fusion`` once more where something changed, and the gate on what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from radtransfer_components import drift, gate, notify, resolve
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import OF_RETRAIN
from radtransfer_pipelines.graph import build, configured, run_graph
from radtransfer_pipelines.resources import Target, settle
from radtransfer_pipelines.transfer_fusion import DEFAULTS

DESCRIPTION = (
    "Looks for a new revision of the data and ends where neither data nor code nor configuration changed; else trains "
    "anew, every leakage group in the split that it was in, and makes the model champion if the gate says so."
)
RULES = {
    "margin": (float, 0.02, "AUROC that a better calibrated model may lack to become champion, 0 to 0.2"),
    "floor": (float, 0.6, "AUROC that a first model must clear by its 95 % interval, 0.5 to 0.99"),
}
"""Parameters that it has beside those of a run."""


def retrain(*, image: str = IMAGE, target: Target = "cluster") -> BaseComponent:
    """Build the pipeline; see :func:`radtransfer_pipelines.graph.build`."""
    return build("retrain", DESCRIPTION, DEFAULTS, image=image, target=target, tasks=_tasks, more=RULES)


def _tasks(p: Mapping[str, Any], pipeline: str, image: str, target: Target) -> None:
    del pipeline
    rules = {name: p[name] for name in ("registry", *RULES, "code_version")}
    looked = resolve.resolve(data_root=p["data_root"], **configured(p, OF_RETRAIN), **rules)
    found = settle(looked, "resolve", image=image, target=target, given=p, looped=False).outputs
    with dsl.If(found["Output"] == True, name="changed"):  # noqa: E712 - KFP makes a condition of it
        newest = {**p, "data_root": found["pinned"], "previous_splits": found["splits"]}
        made, last = run_graph(newest, OF_RETRAIN, image, target)
        taken = {name: p[name] for name in ("name", "registry", "threads", "code_version")}
        compared = drift.drift(target_store=made["target_store"], **taken)
        settle(compared, "drift", image=image, target=target, given=p, looped=False)
        judged = gate.gate(threads=p["threads"], **made, **rules)
        judged.after(last, compared)  # nothing else can fail any more
        decided = settle(judged, "gate", image=image, target=target, given=p, looped=False).outputs["decision"]
        if target == "cluster":
            told = notify.notify(decision=decided, **_named(p))
            settle(told, "notify", image=image, target=target, given=p, looped=False)
    if target == "cluster":  # else whoever starts the run tells, and of a failure too
        with dsl.If(found["Output"] == False, name="unchanged"):  # noqa: E712
            settle(notify.notify(**_named(p)), "notify", image=image, target=target, given=p, looped=False)


def _named(p: Mapping[str, Any]) -> dict[str, Any]:
    """Which model and run it is that somebody is told of."""
    return {"name": p["name"], "code_version": p["code_version"], "run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER}
