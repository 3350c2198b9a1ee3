"""Recurring runs of Kubeflow Pipelines, kept to one for each name.

KFP has no unique names for them, and cannot change one (kubeflow/pipelines 3789): a schedule that changed is replaced.
The new recurring run is made first, paused if the old one is, and the old one deleted then. So the newest one of a name
always says what is wanted, and a call that dies in between leaves one too many, which the next call deletes, and never
none, which nobody would notice.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from radtransfer.errors import RadtransferError
from radtransfer_pipelines.cluster.connection import Api, ApiError
from radtransfer_pipelines.cluster.cron import Cron
from radtransfer_pipelines.cluster.runs import PAGE, equals
from radtransfer_pipelines.cluster.submit import TRIES

_MARK = re.compile(r"radtransfer schedule, sha256:([0-9a-f]{64})(?:, cron (.*))?", re.DOTALL)
"""What the descriptions of our recurring runs are: digest of all that was asked for, and the line as it was given."""
GOES_ON = "ORPHAN"
"""How Kubernetes deletes a recurring run whose runs shall go on; by default it ends them (kubeflow/pipelines 12573)."""


@dataclass(frozen=True)
class Wanted:
    """A recurring run as it shall be.

    Attributes:
        name: of the schedule.
        cron: when it fires, as KFP reads it.
        pipeline, version: ids of what it runs.
        parameters: of the runs.
        experiment: id of the one that its runs belong to.
        service_account: that pods run as; None: the installation's.
        pipeline_root: address that artifacts go below; None: the installation's.
        concurrency: how many of its runs may be under way at once, 1 to 10.
        catch_up: whether it makes up for all times that it missed, and not just for the last.
    """

    name: str
    cron: str
    pipeline: str
    version: str
    parameters: dict[str, Any]
    experiment: str
    service_account: str | None
    pipeline_root: str | None
    concurrency: int
    catch_up: bool

    @property
    def digest(self) -> str:
        """sha256 of all of it: another one is another schedule."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def ours(api: Api, name: str | None = None) -> list[Any]:
    """Recurring runs that radtransfer made, the newest first; None: of all names.

    Raises:
        ApiError: the server refused or failed.
    """
    return [run for run in _listed(api, name) if _MARK.match(run.description or "")]


def _listed(api: Api, name: str | None) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        asked = {"page_token": token, "page_size": PAGE, "sort_by": "created_at desc", "namespace": api.namespace}
        asked |= {"filter": equals("display_name", name)} if name else {}
        answer = api.ask("listing recurring runs", lambda asked=asked: api.client.list_recurring_runs(**asked))  # type: ignore[misc]
        found += answer.recurring_runs or []
        token = answer.next_page_token or ""
        if not token:
            break
    kept = [run for run in found if name in (None, run.display_name)]  # databases may compare without case
    return sorted(kept, key=lambda run: (run.created_at, run.recurring_run_id), reverse=True)


def paused(run: Any) -> bool:
    """Whether a recurring run does not fire."""
    return bool(run.mode == "DISABLE")


def line(run: Any) -> str:
    """The line that a recurring run of ours was made from."""
    found = _MARK.match(run.description)
    return (found[2] if found else None) or cron(run).kfp


def cron(run: Any) -> Cron:
    """When a recurring run of ours fires."""
    return Cron.parse(run.trigger.cron_schedule.cron)


def settled(api: Api, name: str) -> tuple[Any | None, list[str]]:
    """The one recurring run of a name, or None, after what an interrupted replacement left has been deleted.

    Returns:
        It, and the ids of the deleted.

    Raises:
        ApiError: the server refused or failed.
    """
    found = ours(api, name)
    for left in found[1:]:
        _delete(api, left)
    return (found[0] if found else None), [left.recurring_run_id for left in found[1:]]


def known(api: Api, name: str) -> tuple[Any, list[str]]:
    """As :func:`settled`, of a name that there must be.

    Raises:
        RadtransferError: there is none, or the server refused or failed.
    """
    found, deleted = settled(api, name)
    if found is None:
        raise missing(name)
    return found, deleted


def missing(name: str) -> RadtransferError:
    """The error of a name that there is not."""
    return RadtransferError(f"there is no schedule with the name {name!r}; see `radtransfer schedule list`")


def replace(api: Api, wanted: Wanted, given: str, old: Any | None) -> str:
    """Make a recurring run in place of another or of none; returns its id.

    Args:
        api: the connection.
        wanted: as it shall be.
        given: the cron line that it comes from, which is kept with it.
        old: the one of that name until now. The new one is paused if it is.

    Raises:
        RadtransferError: the server refused or failed, or somebody else has a recurring run of that name.
    """
    foreign = [run.recurring_run_id for run in _listed(api, wanted.name) if not _MARK.match(run.description or "")]
    if foreign:
        raise RadtransferError(
            f"there is a recurring run with the name {wanted.name!r} that `radtransfer schedule` did not make "
            f"({', '.join(foreign)}); delete it in the UI, or take another name"
        )
    made = _make(api, wanted, given, enabled=old is None or not paused(old))
    if old is not None:
        try:
            _delete(api, old)
        except ApiError as error:
            raise ApiError(
                f"{error}. The new recurring run {made} is there, and so may be the old one, {old.recurring_run_id}: "
                "say the same again, lest both fire",
                error.status,
            ) from None
    return made


def _make(api: Api, wanted: Wanted, given: str, *, enabled: bool) -> str:
    asked = {
        "description": f"radtransfer schedule, sha256:{wanted.digest}, cron {given}",
        "cron_expression": wanted.cron,
        "max_concurrency": str(wanted.concurrency),  # int64, which JSON of protocol buffers has as text
        "no_catchup": not wanted.catch_up,
        "params": wanted.parameters,
        "pipeline_id": wanted.pipeline,
        "version_id": wanted.version,
        "enabled": enabled,
        "pipeline_root": wanted.pipeline_root,
        "service_account": wanted.service_account,
    }
    call = lambda: api.client.create_recurring_run(wanted.experiment, wanted.name, **asked)  # noqa: E731
    try:
        return str(api.ask("making the recurring run", call).recurring_run_id)
    except ApiError as error:
        if not error.unsure:
            raise
        for run in ours(api, wanted.name):  # the server may have made it before it failed
            if digest(run) == wanted.digest:
                return str(run.recurring_run_id)
        raise ApiError(
            f"{error}. Say the same again: it looks whether it was made all the same", error.status
        ) from None


def digest(run: Any) -> str:
    """What a recurring run of ours was made from, as :attr:`Wanted.digest`."""
    found = _MARK.match(run.description)
    return found[1] if found else ""


def switch(api: Api, run: Any, *, on: bool) -> None:
    """Let a recurring run fire, or pause it.

    Raises:
        ApiError: the server refused or failed.
    """
    call = api.client.enable_recurring_run if on else api.client.disable_recurring_run
    api.ask(f"{'resuming' if on else 'pausing'} the recurring run", lambda: call(run.recurring_run_id))


def remove(api: Api, name: str) -> list[str]:
    """Delete a schedule, whose runs go on; returns the ids of its recurring runs.

    Raises:
        RadtransferError: there is none, or the server refused or failed.
    """
    found = ours(api, name)
    if not found:
        raise missing(name)
    for run in reversed(found):
        _delete(api, run)
    return [run.recurring_run_id for run in found]


def _delete(api: Api, run: Any) -> None:
    # kfp.Client has no say in what becomes of the runs; the API below it has.
    delete = api.client._recurring_run_api.recurring_run_service_delete_recurring_run
    for attempt in range(TRIES):
        try:
            api.ask("deleting the recurring run", lambda: delete(run.recurring_run_id, propagation_policy=GOES_ON))
        except ApiError as error:
            if error.status == 404:  # somebody was faster, or the attempt before did it
                return
            if not error.unsure or attempt == TRIES - 1:
                raise
        else:
            return
