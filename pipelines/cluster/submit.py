"""Sending a run to the cluster, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from radtransfer import __version__
from radtransfer.errors import RadtransferError
from radtransfer_pipelines.cluster.connection import Api, ApiError
from radtransfer_pipelines.cluster.package import Package
from radtransfer_pipelines.cluster.runs import FINAL, equals, experiment_id, state

POLL_SECONDS = 10.0
TRIES = 3
"""How often an upload is tried of which it is not known whether the server took it."""
SCAFFOLD = ("root", "executor")
"""Names of what KFP runs beside our tasks, and whatever ends in ``-driver``."""


@dataclass(frozen=True)
class Uploaded:
    """A pipeline version on the server.

    Attributes:
        pipeline, version: their ids.
        name: of the version.
        new: whether it was uploaded just now.
    """

    pipeline: str
    version: str
    name: str
    new: bool

    @property
    def told(self) -> str:
        """What was done, in a line."""
        return f"pipeline version {self.name}: {'uploaded' if self.new else 'unchanged, nothing was uploaded'}"


def upload(api: Api, package: Package) -> Uploaded:
    """Upload a pipeline, or a new version of it, unless the server has just this one.

    A version is known by the digest of the package, which stands in its description.

    Raises:
        RadtransferError: the server refused or failed, or has several pipelines of that name.
    """
    for attempt in range(TRIES):
        pipeline = _pipeline(api, package.name)
        if pipeline and (found := _version(api, pipeline, package.digest)):
            return Uploaded(pipeline, found.pipeline_version_id, found.display_name, new=attempt > 0)
        try:
            _send(api, package, pipeline)
        except ApiError as error:
            # Somebody else may have been faster, or the server may have taken it before it failed: look again.
            if attempt == TRIES - 1 or not (error.unsure or error.status == 409):
                raise
        else:
            pipeline = _pipeline(api, package.name)
            found = _version(api, pipeline, package.digest) if pipeline else None
            if pipeline and found:
                return Uploaded(pipeline, found.pipeline_version_id, found.display_name, new=True)
            raise RadtransferError(
                f"{api.host}: took the pipeline {package.name!r}, but does not list its version; try again"
            )
    raise AssertionError("the last attempt returns or raises")


def _send(api: Api, package: Package, pipeline: str | None) -> None:
    description = f"sha256:{package.digest}, radtransfer {__version__}, image {', '.join(package.images)}"
    path = str(package.path)
    if pipeline is None:
        asked = {"pipeline_name": package.name, "description": description, "namespace": api.namespace}
        api.ask("uploading the pipeline", lambda: api.client.upload_pipeline(path, **asked))
        return
    name = f"{package.name}-{package.digest[:12]}"
    version = {"pipeline_version_name": name, "pipeline_id": pipeline, "description": description}
    api.ask("uploading a pipeline version", lambda: api.client.upload_pipeline_version(path, **version))


def _pipeline(api: Api, name: str) -> str | None:
    asked = {"filter": equals("display_name", name), "namespace": api.namespace}
    found = api.ask("looking for the pipeline", lambda: api.client.list_pipelines(**asked)).pipelines or []
    if len(found) > 1:
        raise RadtransferError(f"there are {len(found)} pipelines with the name {name!r}; delete all but one in the UI")
    return str(found[0].pipeline_id) if found else None


def _version(api: Api, pipeline: str, digest: str) -> Any | None:
    token = ""
    while True:
        asked = {"page_token": token, "page_size": 100, "sort_by": "created_at desc"}
        answer = api.ask(
            "looking at pipeline versions",
            lambda asked=asked: api.client.list_pipeline_versions(pipeline, **asked),  # type: ignore[misc]
        )
        for version in answer.pipeline_versions or []:
            if f"sha256:{digest}" in (version.description or ""):
                return version
        token = answer.next_page_token or ""
        if not token:
            return None


def ensure_experiment(api: Api, name: str) -> str:
    """Id of an experiment by its name; made if it is not there.

    Raises:
        RadtransferError: the server refused or failed, or has several of that name.
    """
    found = experiment_id(api, name)
    if found is None:
        made = {"name": name, "namespace": api.namespace}
        found = api.ask("making the experiment", lambda: api.client.create_experiment(**made)).experiment_id
    return str(found)


def start(
    api: Api,
    uploaded: Uploaded,
    parameters: dict[str, Any],
    *,
    name: str,
    experiment: str,
    service_account: str | None = None,
    pipeline_root: str | None = None,
) -> str:
    """Make a run.

    Args:
        api: the connection.
        uploaded: the pipeline version.
        parameters: of the run.
        name: what the UI calls it.
        experiment: id of the one that it belongs to.
        service_account: that its pods run as; None: the installation's.
        pipeline_root: address that its artifacts go below; None: the installation's.

    Returns:
        Id of the run.

    Raises:
        RadtransferError: the server refused or failed.
    """
    asked = {
        "params": parameters,
        "pipeline_id": uploaded.pipeline,
        "version_id": uploaded.version,
        "service_account": service_account,
        "pipeline_root": pipeline_root,
    }
    try:
        return str(api.ask("starting the run", lambda: api.client.run_pipeline(experiment, name, **asked)).run_id)
    except ApiError as error:
        if not error.unsure:
            raise
        raise ApiError(
            f"{error}. The run may have been started all the same: look for {name!r} in `radtransfer runs` before you "
            "submit it again",
            error.status,
        ) from None


def follow(api: Api, run_id: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[tuple[str, str, str]]:
    """Wait for a run, and tell of every change.

    Args:
        api: the connection.
        run_id: the run.
        sleep: waits for so many seconds.

    Yields:
        Name of a task, or "" for the run itself; its new state; and what the server says of a failure. The last is the
        run's in one of the states :data:`radtransfer_pipelines.cluster.runs.FINAL`.

    Raises:
        ApiError: the server refused or failed; the run goes on.
    """
    seen: dict[str, str] = {}
    while True:
        try:
            run = api.ask("waiting for the run", lambda: api.client.get_run(run_id))
        except ApiError as error:
            raise ApiError(f"{error}. The run {run_id} goes on", error.status) from None
        tasks = (run.run_details.task_details if run.run_details else None) or []
        for task in tasks:
            name = task.display_name or ""
            if name in SCAFFOLD or name.endswith("-driver") or seen.get(task.task_id) == state(task):
                continue
            seen[task.task_id] = state(task)
            yield name, state(task), _message(task)
        if seen.get("") != state(run):
            seen[""] = state(run)
            yield "", state(run), _message(run)
        if state(run) in FINAL:
            return
        sleep(POLL_SECONDS)


def _message(thing: Any) -> str:
    return " ".join(str(thing.error.message).split()) if thing.error and thing.error.message else ""
