"""``radtransfer run --from BUNDLE``: the run that a bundle came from once more, and what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radtransfer import artifacts
from radtransfer.artifacts import read_json
from radtransfer.config import RunConfig
from radtransfer.configfile import validate
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import inherit
from radtransfer.provenance import code_version
from radtransfer.registry.references import located
from radtransfer.registry.versions import BUNDLE
from radtransfer_pipelines.local import run_local

TOLERANCE = 1e-4
"""Up to this figures are the same: processors round differently."""


def reproduce(bundle: str, *, data_root: str, out: Path, registry: str = "", dry_run: bool = False) -> None:
    """Run the configuration that a bundle keeps on the data that it names, and compare what comes out.

    Args:
        bundle: a folder, or ``REGISTRY#NAME@VERSION``.
        data_root: where its data are; empty: the address that the bundle keeps, if they did not lie in a folder.
        out, registry, dry_run: as of :func:`radtransfer_pipelines.local.run_local`.

    Raises:
        RadtransferError: it is no sound bundle, or does not say what it was made of; or the selected model, its test
            images or a figure of it is another, which is said after the run, whose results stay.
    """
    with located(bundle, BUNDLE) as folder:
        content = artifacts.read(folder, "bundle", verify=True).content
        splits = (folder / inherit.FILE).read_bytes()
    report = run_local(
        _configuration(content, bundle),
        data_root=data_root or _address(content, bundle),
        out=out,
        registry=registry,
        dry_run=dry_run,
    )
    if report is None:
        return
    other = differences(content, read_json(out / "metrics.json")["results"])
    if (out / inherit.FILE).read_bytes() != splits:
        other.insert(0, f"images or their splits ({inherit.FILE}) are not those of the bundle")
    if other:
        recorded = ", ".join(content.get("code_versions", []))
        raise RadtransferError(
            f"{bundle}: {out} does not give the same model: {'; '.join(other)}. Made by code {recorded}, now "
            f"{code_version()}; {out / 'run.json'} lists the packages"
        )
    print(f"reproduced: {content['row_id']} of {bundle}, every figure within {TOLERANCE:g}")


def differences(content: Mapping[str, Any], results: list[dict[str, Any]]) -> list[str]:
    """What is other than a bundle says: which candidate was selected, or a figure of it, in words.

    Args:
        content: of the bundle.
        results: rows of the ``metrics.json`` to hold against it.
    """
    selected = next(row for row in results if row["selected"])
    if selected["id"] != content["row_id"]:
        return [f"{selected['id']} was selected, not {content['row_id']}"]
    then, now = _leaves(content["metrics"]), _leaves(selected)
    return [
        f"{name} {then.get(name)} then, {now.get(name)} now"
        for name in sorted({*then, *now})
        if not _same(then.get(name), now.get(name))
    ]


def _same(then: object, now: object) -> bool:
    if isinstance(then, float) and isinstance(now, (int, float)):
        return abs(then - now) <= TOLERANCE
    return then == now


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The values of a nested row by their paths, with dots."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf for key, each in value.items() for path, leaf in _leaves(each, f"{name}.{key}".lstrip(".")).items()
    }


def _configuration(content: Mapping[str, Any], bundle: str) -> RunConfig:
    given = content.get("configuration")
    if not given:
        raise RadtransferError(f"{bundle}: does not keep its configuration; run its pipeline with --config")
    return validate(dict(given), f"{bundle}: configuration")


def _address(content: Mapping[str, Any], bundle: str) -> str:
    uri = content.get("data", {}).get("origin", {}).get("uri", "")
    if not uri:
        raise RadtransferError(f"{bundle}: was made of images in a folder; name it with --data-root")
    return str(uri)
