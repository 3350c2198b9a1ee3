"""What ``radtransfer schedule`` does, step by step, and what it prints."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import yaml
from rich.table import Table

from radtransfer.errors import RadtransferError
from radtransfer.registry.documents import NAME
from radtransfer_pipelines.cluster import recurring
from radtransfer_pipelines.cluster.command import Submission, checked, described, say, show, tell_unsent
from radtransfer_pipelines.cluster.connection import Api, Server
from radtransfer_pipelines.cluster.cron import Cron
from radtransfer_pipelines.cluster.submit import ensure_experiment, upload

ZONE = (
    "the server's time zone rules, which its API does not tell; this is for UTC, the default (CRON_SCHEDULE_TIMEZONE "
    "of the deployment ml-pipeline-scheduledworkflow)"
)


def set_(
    asked: Submission, server: Server, *, name: str, line: str, concurrency: int, catch_up: bool, dry_run: bool
) -> None:
    """Have a pipeline run by a schedule, and print the id of its recurring run.

    Args:
        asked: what shall run.
        server: where.
        name: of the schedule; the one of that name is replaced if anything of it changed.
        line: when: a crontab line or KFP's six fields.
        concurrency: how many of its runs may be under way at once, 1 to 10.
        catch_up: whether all missed times are made up for, and not just the last.
        dry_run: send nothing.

    Raises:
        RadtransferError: something does not fit, or the server refused or failed.
    """
    if not re.fullmatch(NAME, name):
        raise RadtransferError(f"{name!r}: expected small letters, digits and hyphens, at most 52, for a name")
    cron = Cron.parse(line)
    with checked(asked, server) as (package, parameters):
        which, where = described(package, parameters)
        for said in (f"schedule {name!r} of {which}", where, *_when(cron)):
            say(said)
        if dry_run:
            tell_unsent(parameters)
            return
        api = Api(server)
        uploaded = upload(api, package)
    say(uploaded.told)
    wanted = recurring.Wanted(
        name,
        cron.kfp,
        uploaded.pipeline,
        uploaded.version,
        parameters,
        ensure_experiment(api, asked.experiment),
        asked.service_account,
        asked.pipeline_root,
        concurrency,
        catch_up,
    )
    old, deleted = recurring.settled(api, name)
    _tell(deleted)
    if old is not None and recurring.digest(old) == wanted.digest:
        run_id, change = old.recurring_run_id, "unchanged"
    else:
        run_id = recurring.replace(api, wanted, line, old)
        change = "made" if old is None else f"replaced {old.recurring_run_id}"
    print(run_id, flush=True)
    still = f", and paused: `radtransfer schedule resume {name}`" if old is not None and recurring.paused(old) else ""
    say(f"recurring run {change}{still}: {api.link(f'recurringrun/details/{run_id}')}")


def list_(server: Server) -> None:
    """Print all schedules.

    Raises:
        RadtransferError: the server refused or failed.
    """
    api = Api(server)
    found = recurring.ours(api)
    if not found:
        say("no schedules")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "cron", "state", "next (UTC)", "recurring run"):
        table.add_column(heading, no_wrap=True)
    newest = {run.display_name: run for run in reversed(found)}
    for name, run in sorted(newest.items()):
        then = "" if recurring.paused(run) else _next(recurring.cron(run), 1)[0]
        table.add_row(name, recurring.line(run), _state(run), then, run.recurring_run_id)
    show(table)
    say(f"next: {ZONE}")
    for name, count in sorted(Counter(run.display_name for run in found).items()):
        _warn(name, count)


def show_(server: Server, name: str, *, form: Literal["yaml", "json"]) -> None:
    """Print all of a schedule.

    Raises:
        RadtransferError: there is none of that name, or the server refused or failed.
    """
    api = Api(server)
    found = recurring.ours(api, name)
    if not found:
        raise recurring.missing(name)
    run = found[0]
    _warn(name, len(found))
    cron = recurring.cron(run)
    reference = run.pipeline_version_reference
    version = {"pipeline_id": reference.pipeline_id, "pipeline_version_id": reference.pipeline_version_id}
    root = run.runtime_config.pipeline_root
    told: dict[str, Any] = {"name": name, "recurring_run": run.recurring_run_id, "state": _state(run)}
    told |= {"made": f"{run.created_at:%Y-%m-%d %H:%M:%S}", "cron": recurring.line(run), "kfp_cron": cron.kfp}
    told |= {"next_if_zone_is_utc": [] if recurring.paused(run) else _next(cron, 3)}
    told |= {"concurrency": int(run.max_concurrency or 1), "catch_up": not run.no_catchup} | version
    told |= {"experiment_id": run.experiment_id, "service_account": run.service_account or None}
    told |= {"pipeline_root": root or None, "parameters": run.runtime_config.parameters or {}}
    print(json.dumps(told, indent=1) if form == "json" else yaml.safe_dump(told, sort_keys=False).rstrip())
    say(f"link: {api.link(f'recurringrun/details/{run.recurring_run_id}')}")


def pause(server: Server, name: str) -> None:
    """Keep a schedule from firing; runs that are under way go on.

    Raises:
        RadtransferError: there is none of that name, or the server refused or failed.
    """
    api = Api(server)
    run, deleted = recurring.known(api, name)
    _tell(deleted)
    if recurring.paused(run):
        say(f"schedule {name!r} was paused already")
        return
    recurring.switch(api, run, on=False)
    say(f"schedule {name!r} is paused, and stays so when it is replaced")


def resume(server: Server, name: str) -> None:
    """Let a paused schedule fire again.

    Raises:
        RadtransferError: there is none of that name, or the server refused or failed.
    """
    api = Api(server)
    run, deleted = recurring.known(api, name)
    _tell(deleted)
    if not recurring.paused(run):
        say(f"schedule {name!r} was not paused")
        return
    recurring.switch(api, run, on=True)
    missed = "each" if not run.no_catchup else "the last"
    say(f"schedule {name!r} fires again, and at once for {missed} of the times that it missed, if there are any")
    for said in _when(recurring.cron(run)):
        say(said)


def delete(server: Server, name: str) -> None:
    """Delete a schedule; runs that are under way go on.

    Raises:
        RadtransferError: there is none of that name, or the server refused or failed.
    """
    for deleted in recurring.remove(Api(server), name):
        say(f"schedule {name!r}: deleted the recurring run {deleted}")


def _when(cron: Cron) -> list[str]:
    six = f"cron {cron.line!r}" + (
        f": in KFP's six fields, seconds first, {cron.kfp!r}" if cron.kfp != cron.line else ""
    )
    return [six, f"next: {', '.join(_next(cron, 3))} UTC", ZONE, *cron.remarks()]


def _next(cron: Cron, count: int) -> list[str]:
    return [f"{fires:%Y-%m-%d %H:%M:%S}" for fires in islice(cron.after(datetime.now(UTC)), count)]


def _state(run: Any) -> str:
    return "paused" if recurring.paused(run) else "enabled"


def _tell(deleted: list[str]) -> None:
    for each in deleted:
        say(f"deleted the recurring run {each}, which an interrupted replacement had left")


def _warn(name: str, count: int) -> None:
    if count > 1:
        say(
            f"warning: a replacement of schedule {name!r} was interrupted: {count} recurring runs of it are there, and "
            "more than one may fire; `set`, `pause` and `resume` put that right"
        )
