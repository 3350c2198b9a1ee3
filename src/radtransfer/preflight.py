"""What can be known to go wrong before anything is computed, looked for at once and told together."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from radtransfer import __version__
from radtransfer.config import ExternalSet, RunConfig
from radtransfer.configfile import complaints
from radtransfer.datasets import LAYOUTS
from radtransfer.datasets.fetch import resolve
from radtransfer.datasets.pseudonym import VARIABLE, Pseudonyms
from radtransfer.datasets.roots import unpinned
from radtransfer.errors import RadtransferError, near
from radtransfer.provenance import code_version, image
from radtransfer.registry.places import at
from radtransfer.registry.references import Reference
from radtransfer.registry.versions import PRETRAINED, Registry

KEY = "AWS_ACCESS_KEY_ID"
Check = Callable[[], object]


def preflight(given: Mapping[str, Any], *, data_root: str, registry: str = "", versions: Sequence[str] = ()) -> None:
    """See that a run has what it needs: code, parameters, data, weights, and places that can be written.

    Places are written to: an object is stored, read back and removed, and an empty registry is made. Data sets are
    listed, not fetched; ImageNet weights are fetched and kept where their source keeps them.

    Args:
        given: the configuration, not validated yet.
        data_root: what the run reads, see :func:`radtransfer.datasets.fetch.located`.
        registry: folder or ``s3://BUCKET/PREFIX`` of the model registry; empty: none.
        versions: of the package, or of its code (:func:`radtransfer.provenance.code_version`), that must be here;
            empty ones ask for nothing.

    Raises:
        RadtransferError: all that is amiss, each with what to do.
    """
    config, problems = complaints(given)
    checks: list[Check] = [partial(_version, wanted) for wanted in versions]
    if config:
        checks += _checks(config, data_root, registry)
    with ThreadPoolExecutor(8) as pool:
        problems += [problem for problem in pool.map(_problem, checks) if problem]
    if not config:
        problems.append("data, weights and places were not looked at: first put the parameters right")
    if problems:
        told = "\n".join(f"- {problem}" for problem in problems)
        raise RadtransferError(f"this run would fail, for {len(problems)} reason(s):\n{told}")


def _problem(check: Check) -> str:
    try:
        check()
    except RadtransferError as error:
        return str(error)
    return ""


def _checks(config: RunConfig, data_root: str, registry: str) -> list[Check]:
    layouts = {"target_layout": config.target_layout, "source_layout": config.source_layout}
    folders = [config.target_path, config.source_path]
    checks: list[Check] = [partial(_stored, "data_root", data_root, lambda: resolve(data_root, folders))]
    if config.external:
        external = ExternalSet.of(config.external, "external")
        layouts["external: layout"] = external.layout
        elsewhere = [external.path]
        checks.append(partial(_stored, "external", data_root, lambda: resolve(unpinned(data_root), elsewhere)))
    checks += [partial(_layout, name, layout) for name, layout in layouts.items()]
    checks += [partial(_weights, backbone, config.weights_mirror) for backbone in config.backbones]
    if config.checkpoints:
        checks.append(partial(_stored, "checkpoints", config.checkpoints, partial(_writable, config.checkpoints)))
    if registry:
        checks.append(partial(_stored, "registry", registry, partial(Registry.open, registry, write=True)))
    if config.pretrained_models:
        checks.append(partial(_stored, "pretrained_models", config.pretrained_models, partial(_pretrained, config)))
    splits = Reference.parse(config.previous_splits) if config.previous_splits else None
    if splits is not None:
        checks.append(partial(_stored, "previous_splits", config.previous_splits, splits.find))
    if os.environ.get(VARIABLE):
        checks.append(partial(Pseudonyms.from_environment, VARIABLE))
    return checks


def _version(wanted: str) -> None:
    here = code_version() if "+" in wanted else __version__
    if wanted and wanted.partition("/")[0] != here:
        raise RadtransferError(
            f"image {image() or 'of this task'}: holds radtransfer {here}, and the pipeline was made with {wanted}; "
            "build the image from the same code (make image), or name the one that was, by its digest (submit --image)"
        )


def _layout(name: str, layout: str) -> None:
    if layout not in LAYOUTS:
        raise RadtransferError(f"{name}: unknown layout {layout!r}; {near(layout, LAYOUTS)}")


def _weights(backbone: str, mirror: str) -> None:
    from radtransfer.training.network import check_backbones
    from radtransfer.training.weights import check_available

    check_backbones([backbone])
    _stored("weights_mirror", mirror, lambda: check_available([backbone], mirror))


def _pretrained(config: RunConfig) -> None:
    reference = Reference.parse(config.pretrained_models)
    if reference is None:
        from radtransfer.training.reuse import find

        for backbone in config.backbones:
            asked = config.in_domain_init, config.pretrain_task
            find(Path(config.pretrained_models), backbone, *asked, boxes=config.pretrain_boxes)
        return
    _, version = reference.find()
    if version.kind != PRETRAINED:
        raise RadtransferError(f"{version.label} is of kind {version.kind!r}, expected {PRETRAINED!r}; name another")


def _writable(where: str) -> None:
    """Store, read and remove an object."""
    place, key, content = at(where), f".preflight-{uuid.uuid4().hex}", uuid.uuid4().bytes
    place.create(key, content)
    found = place.read(key)
    place.delete(key)
    if found is None or found[0] != content:
        raise RadtransferError(f"{place.name}: does not give back what was stored there; name another place")


def _stored(parameter: str, where: str, check: Check) -> None:
    """Make a check of a place, and say which parameter named it and, of object storage, who lacks a key."""
    try:
        check()
    except RadtransferError as error:
        keyless = where.startswith(("s3://", "dvc+")) and not os.environ.get(KEY)
        hint = (
            f" ({KEY} is not set: on a cluster, the Secret that the parameter `secret` names is missing or lacks its "
            "key access-key)"
        )
        raise RadtransferError(f"{parameter}: {error}{hint if keyless else ''}") from None
