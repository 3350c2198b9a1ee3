"""The step ``resolve``: what a retraining reads, and whether it would make anything new.

A version that was decided on, made of the same data by the same code with the same configuration, is what a retraining
would make again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radtransfer.datasets.fetch import Named
from radtransfer.datasets.fetch import resolve as newest
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import inherit
from radtransfer.provenance import code_version
from radtransfer.registry import ledger
from radtransfer.registry.entry import check_name
from radtransfer.registry.versions import BUNDLE, Registry, Version
from radtransfer.registry.weigh import Rules

NO_MATTER = ("pipeline", "budget_minutes", "checkpoints", "checkpoint_minutes", "weights_mirror", "external")
"""Entries of a configuration that make no other model."""
OF_RUN = ("previous_splits", "pretrained_models")
"""Those that say what a run builds on; the first is set by :func:`resolve`, the second is in no version."""

TOLD = 4
"""Differences that are told."""


@dataclass(frozen=True)
class Resolved:
    """What a retraining reads.

    Attributes:
        data_root: the newest data, pinned.
        previous_splits: where the splits come from that groups keep: the champion, where there is none the newest
            version that was decided on, else what the configuration says.
        changed: whether to retrain.
        why: a sentence.
    """

    data_root: str
    previous_splits: str
    changed: bool
    why: str


def resolve(*, config: Mapping[str, Any], data_root: str, registry: str, margin: float, floor: float) -> Resolved:
    """Pin the newest revision of the data, and compare data, code and configuration with the versions of the model.

    A version on which nothing was decided is not compared with: its run ended before the gate. Data in a folder have no
    digest and count as changed. Data sets are listed, not fetched.

    Args:
        config: of the run, as :class:`radtransfer.config.RunConfig` gives it in JSON.
        data_root: see :func:`radtransfer.datasets.fetch.located`.
        registry: folder or ``s3://BUCKET/PREFIX``; one is made where there is nothing yet.
        margin, floor: of the gate, which are looked at now rather than when all is computed.

    Raises:
        RadtransferError: no registry is named or it cannot be written, there are no data, the configuration cuts the
            data anew each time, or margin or floor is out of range.
    """
    Rules.of(margin=margin, floor=floor)
    if not registry:
        raise RadtransferError("registry: a retraining needs one, with the models so far; name it (--registry)")
    if config["test_fold"]:
        raise RadtransferError("test_fold: cuts the data anew, and a retraining keeps their splits; leave it out")
    name = check_name(config["name"], "name")
    opened = Registry.open(registry, write=True)
    data = newest(data_root, (config["target_path"], config["source_path"]))
    book = ledger.read(opened.place, name)[0]
    decided = {decision.version for decision in book.history}
    versions = [version for version in opened.versions(name) if version.kind == BUNDLE and version.number in decided]
    previous = next(
        (
            f"{opened.place.name}#{version.label}"
            for version in (*(each for each in versions if each.number == book.champion), *reversed(versions))
            if inherit.FILE in version.files
        ),
        config["previous_splits"],
    )
    compared = [(version, _differences(version, config, data)) for version in reversed(versions)]
    same = next((version for version, found in compared if not found), None)
    if same is not None:
        why = f"unchanged: data, code and configuration are those of {same.label}, entered {same.entered}"
    elif compared:
        last, differences = compared[0]
        more = f"; and {len(differences) - TOLD} more" if len(differences) > TOLD else ""
        why = f"changed since {last.label}: {'; '.join(differences[:TOLD])}{more}"
    else:
        why = f"first: no version of {name} was decided on yet"
    return Resolved(data.pinned, previous, same is None, why)


def _differences(version: Version, config: Mapping[str, Any], data: Named) -> list[str]:
    """What a model made now would be made of or by that the version was not."""
    found = []
    was = version.data.get("origin", {})
    if not data.digest:
        found.append(f"data in the folder {data.pinned}, which has no revision to compare")
    elif was.get("digest") != data.digest:
        found.append(f"data {data.digest[:12]}, then {was.get('digest', 'none')[:12]}")
    if version.code != [code_version()]:
        found.append(f"code {code_version()}, then {', '.join(version.code)}")
    its = version.configuration
    for key in sorted({*its, *config} - {*NO_MATTER, *OF_RUN}):
        if its.get(key) != config.get(key):
            found.append(f"{key} {config.get(key)!r}, then {its.get(key)!r}")
    return found
