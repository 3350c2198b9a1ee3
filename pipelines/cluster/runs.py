"""Runs as the API server tells of them."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from radtransfer.errors import RadtransferError
from radtransfer_pipelines.cluster.connection import Api, ApiError

FINAL = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
PAGE = 100
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Row:
    """A run in a list.

    Attributes:
        id, name: its id and display name.
        state: of :data:`FINAL`, or PENDING, RUNNING, CANCELING, PAUSED, or UNKNOWN.
        created: when it was submitted.
        seconds: since then, until it ended or now.
        version: display name of the pipeline version that it runs; empty: it is of none, or that is gone.
    """

    id: str
    name: str
    state: str
    created: datetime
    seconds: float
    version: str


def experiment_id(api: Api, name: str) -> str | None:
    """Id of an experiment by its name; None: there is none.

    Raises:
        RadtransferError: there are several.
    """
    asked = {"filter": equals("display_name", name), "namespace": api.namespace}
    found = api.ask("looking for the experiment", lambda: api.client.list_experiments(**asked)).experiments or []
    if len(found) > 1:
        raise RadtransferError(
            f"there are {len(found)} experiments with the name {name!r}; delete all but one in the UI"
        )
    return str(found[0].experiment_id) if found else None


def listed(api: Api, *, experiment: str | None = None, limit: int = 20) -> list[Any]:
    """The latest runs that are not archived, the newest first.

    Args:
        api: the connection.
        experiment: name of the one whose runs are wanted; None: of all.
        limit: how many at most.

    Raises:
        RadtransferError: no such experiment, or the server failed.
    """
    where = _of(api, experiment)
    kept = _predicates([("storage_state", "NOT_EQUALS", "ARCHIVED")])
    return _pages(api, limit, filter=kept, **where)


def row(api: Api, run: Any, versions: dict[tuple[str, str], str], now: datetime | None = None) -> Row:
    """What a list says of a run.

    Args:
        api: the connection.
        run: as the server told it.
        versions: names of pipeline versions that are known already; added to.
        now: the time; None: as it is.
    """
    created = run.created_at
    ended = run.finished_at if run.finished_at and run.finished_at >= created else None  # 1970 where it has not ended
    seconds = ((ended or now or datetime.now(UTC)) - created).total_seconds()
    return Row(run.run_id, run.display_name, state(run), created, seconds, _version(api, run, versions))


def state(run: Any) -> str:
    """State of a run or task; UNKNOWN where the server says none."""
    told = run.state
    return "UNKNOWN" if told in (None, "RUNTIME_STATE_UNSPECIFIED") else str(told)


def find(api: Api, wanted: str) -> Any:
    """A run by its id or its name.

    Raises:
        RadtransferError: there is none, or several have that name.
    """
    if _ID.fullmatch(wanted):
        try:
            return api.ask("looking for the run", lambda: api.client.get_run(str(uuid.UUID(wanted))))
        except ApiError as error:
            if error.status != 404:
                raise
            raise RadtransferError(f"there is no run with the id {wanted}; see `radtransfer runs`") from None
    found = _pages(api, 10, filter=equals("display_name", wanted), **_of(api, None))
    if not found:
        raise RadtransferError(f"there is no run with the id or name {wanted!r}; see `radtransfer runs`")
    if len(found) > 1:
        those = ", ".join(f"{run.run_id} of {run.created_at:%Y-%m-%d %H:%M}" for run in found)
        raise RadtransferError(f"{len(found)} runs have the name {wanted!r}; name one by its id: {those}")
    return api.ask("looking for the run", lambda: api.client.get_run(found[0].run_id))


def spec(api: Api, run: Any) -> dict[str, Any]:
    """The pipeline that a run runs, as compiled.

    Raises:
        RadtransferError: the server does not tell it.
    """
    told = run.pipeline_spec
    reference = run.pipeline_version_reference
    if not told and reference:
        ids = (reference.pipeline_id, reference.pipeline_version_id)
        told = api.ask("looking at its pipeline", lambda: api.client.get_pipeline_version(*ids)).pipeline_spec
    told = (told or {}).get("pipeline_spec", told)  # beside the settings for Kubernetes, where it has some
    if not told or "pipelineInfo" not in told:
        raise RadtransferError(f"run {run.run_id}: the API server does not say which pipeline it ran; was it deleted?")
    return dict(told)


def _version(api: Api, run: Any, versions: dict[tuple[str, str], str]) -> str:
    reference = run.pipeline_version_reference
    if not reference or not reference.pipeline_version_id:
        return ""
    ids = (reference.pipeline_id, reference.pipeline_version_id)
    if ids not in versions:
        try:
            found = api.ask("looking at a pipeline version", lambda: api.client.get_pipeline_version(*ids))
            versions[ids] = str(found.display_name)
        except ApiError as error:
            if error.status != 404:
                raise
            versions[ids] = ""
    return versions[ids]


def _of(api: Api, experiment: str | None) -> dict[str, Any]:
    """Which runs are wanted, for ``list_runs``."""
    if experiment is None:
        return {"namespace": api.namespace}
    found = experiment_id(api, experiment)
    if found is None:
        raise RadtransferError(f"there is no experiment with the name {experiment!r}; look at its name in the UI")
    return {"experiment_id": found}


def _pages(api: Api, limit: int, **asked: Any) -> list[Any]:
    runs: list[Any] = []
    token = ""
    while len(runs) < limit:
        page = {"page_token": token, "page_size": min(PAGE, limit - len(runs)), "sort_by": "created_at desc", **asked}
        answer = api.ask("listing runs", lambda page=page: api.client.list_runs(**page))  # type: ignore[misc]
        runs += answer.runs or []
        token = answer.next_page_token or ""
        if not token:
            break
    return runs


def equals(key: str, value: str) -> str:
    """Filter for lists of the API: entries whose ``key`` is just ``value``."""
    return _predicates([(key, "EQUALS", value)])


def _predicates(wanted: list[tuple[str, str, str]]) -> str:
    predicates = [{"key": key, "operation": operation, "string_value": value} for key, operation, value in wanted]
    return json.dumps({"predicates": predicates})
