"""``radtransfer retrain``: the pipeline ``retrain`` on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from radtransfer.artifacts import read
from radtransfer.config import RunConfig
from radtransfer.configfile import validate
from radtransfer.errors import RadtransferError
from radtransfer.registry.notify import notify
from radtransfer.registry.resolve import resolve
from radtransfer_pipelines import OF_RETRAIN
from radtransfer_pipelines.local import run_local
from radtransfer_pipelines.resources import RESOURCES

Outcome = Literal["unchanged", "promoted", "declined"]


def retrain(
    config: RunConfig, *, data_root: str, out: Path, registry: str, rules: Mapping[str, float], dry_run: bool = False
) -> Outcome | None:
    """Look for what changed; where something did, run, register and decide.

    The first step of the pipeline is taken here already, so that a retraining for which there is nothing to do ends
    within seconds and fetches nothing. One that was stopped goes on when it is started again with the same arguments.

    Args:
        config: what to run; its ``pipeline`` does not matter.
        data_root: see :func:`radtransfer.datasets.fetch.located`.
        out: as of :func:`radtransfer_pipelines.local.run_local`; nothing is written where nothing changed.
        registry: folder or ``s3://BUCKET/PREFIX``.
        rules: margin and floor of the gate.
        dry_run: as of :func:`radtransfer_pipelines.local.run_local`.

    What becomes of it is told to the webhook that the environment names, see :mod:`radtransfer.registry.notify`.

    Returns:
        What became of it; None of a dry run.

    Raises:
        RadtransferError: of one of the steps.
    """
    told: dict[str, Any] = {"model": config.name, "run": str(out)}
    try:
        return _retrain(config, data_root, out, registry, rules, dry_run, told)
    except RadtransferError as error:
        step = re.match(r"[a-z]+", str(error))  # of the message nothing else: it may name a file
        where = step[0] if step and step[0] in RESOURCES else "the look at data, registry and configuration"
        if not dry_run:
            notify("failed", why=f"failed in {where}; see the log", **told)
        raise


def _retrain(
    config: RunConfig,
    data_root: str,
    out: Path,
    registry: str,
    rules: Mapping[str, float],
    dry_run: bool,
    told: Mapping[str, Any],
) -> Outcome | None:
    found = resolve(config=config.model_dump(mode="json"), data_root=data_root, registry=registry, **rules)
    print(f"radtransfer: {found.why}", file=sys.stderr, flush=True)
    if not found.changed:
        if not dry_run:
            notify("unchanged", why=found.why, **told)
        return "unchanged"
    asked = config.model_dump(mode="json") | {"pipeline": OF_RETRAIN, "previous_splits": found.previous_splits}
    report = run_local(
        validate(asked, "configuration"), data_root=found.data_root, out=out, registry=registry, dry_run=dry_run,
        rules=rules,
    )  # fmt: skip
    if report is None:
        return None
    made: dict[str, Any] = read(out / "decision", "decision").content
    print(f"{made['name']}@{made['challenger']['version']} {made['outcome']}: {made['why']}")
    outcome: Outcome = "promoted" if made["outcome"] == "promoted" else "declined"
    notify(outcome, why="not comparable; see the decision of the run", decision=made, **told)
    return outcome
