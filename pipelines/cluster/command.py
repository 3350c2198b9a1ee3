"""What ``radtransfer submit``, ``runs`` and ``report`` do, step by step, and what they print."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from radtransfer.apart import apart
from radtransfer.config import RunConfig
from radtransfer.errors import RadtransferError
from radtransfer_components.support import IMAGE
from radtransfer_pipelines.cluster import results
from radtransfer_pipelines.cluster.connection import Api, Server
from radtransfer_pipelines.cluster.estimate import counted, estimate
from radtransfer_pipelines.cluster.package import Package, data_place
from radtransfer_pipelines.cluster.runs import find, listed, row
from radtransfer_pipelines.cluster.submit import follow, start, upload
from radtransfer_pipelines.compile import compile_one

SHOWN = ("auroc", "kappa")


@dataclass(frozen=True)
class Submission:
    """A run to be made.

    Attributes:
        config: its configuration.
        given: pipeline parameters that are no entries of it; ``data_root`` among them.
        image: image of all tasks; empty: of ``package``.
        gpus: that each training takes; 0: none.
        package: a compiled pipeline to be used as it is; None: compile one.
        experiment: name of the experiment.
        name: what the UI calls the run; empty: by configuration and time.
        images: of target and source, for the estimate; None: counted where they lie in a bucket.
        service_account: that pods run as; None: the installation's.
        pipeline_root: address that artifacts go below; None: the installation's.
    """

    config: RunConfig
    given: Mapping[str, Any]
    image: str
    gpus: int
    package: Path | None
    experiment: str
    name: str
    images: tuple[int, int] | None
    service_account: str | None
    pipeline_root: str | None


def submit(asked: Submission, server: Server, *, wait: bool, dry_run: bool) -> bool | None:
    """Submit a run: all that can be seen from here is seen before anything is sent.

    Args:
        asked: the run.
        server: where to.
        wait: until it has ended, telling how far it is.
        dry_run: send nothing.

    Returns:
        False where the run was waited for and did not succeed; None where the wait was interrupted, which is told.

    Raises:
        RadtransferError: something does not fit, or the server refused or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Package.read(asked.package or _compiled(asked, Path(folder)))
        parameters = package.parameters(asked.config, asked.given)
        if server.secret and server.secret in json.dumps(parameters):
            raise RadtransferError(
                "a parameter of the run holds the token; parameters are for all to read, take it out"
            )
        name = asked.name or f"{asked.config.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        _say(
            f"run {name!r} of pipeline {package.name} (sha256:{package.digest[:12]}), image {', '.join(package.images)}"
        )
        _say(data_place(str(parameters.get("data_root") or package.inputs["data_root"]["defaultValue"])))
        for line in _estimated(asked, parameters):
            _say(line)
        if dry_run:
            _say("nothing was sent (--dry-run); the parameters would be:")
            print(json.dumps(parameters, indent=1, ensure_ascii=False))
            return True
        api = Api(server)
        uploaded = upload(api, package)
    _say(f"pipeline version {uploaded.name}: {'uploaded' if uploaded.new else 'unchanged, nothing was uploaded'}")
    belongs = {"experiment": asked.experiment, "name": name}
    settings = {"service_account": asked.service_account, "pipeline_root": asked.pipeline_root}
    run_id = start(api, uploaded, parameters, **belongs, **settings)
    print(run_id, flush=True)
    _say(f"started in experiment {asked.experiment!r}: {api.link(f'runs/details/{run_id}')}")
    return _waited(api, run_id) if wait else True


def _compiled(asked: Submission, folder: Path) -> Path:
    target: Literal["cluster", "cluster-gpu"] = "cluster-gpu" if asked.gpus else "cluster"
    if asked.image and "@sha256:" not in asked.image:
        _say(f"warning: image {asked.image} has no digest: KFP's cache takes results of old code for those of new code")
    return compile_one(
        asked.config.pipeline, folder, image=asked.image or IMAGE, target=target, gpus=max(1, asked.gpus)
    )


def _estimated(asked: Submission, parameters: Mapping[str, Any]) -> list[str]:
    config, images = asked.config, asked.images
    if config.equal_steps and config.pretrained_models:
        return ["no estimate: with equal_steps it hangs on the models in pretrained_models, which are not here"]
    if images is None:
        try:
            images = counted(config, str(parameters.get("data_root", "")))
        except RadtransferError as error:
            return [f"no estimate: the images could not be counted ({error}); give their numbers by --images"]
    if images is None:
        return [
            "no estimate: how many images there are is not known here; give their numbers by --images TARGET SOURCE"
        ]
    return apart(estimate, config, *images, asked.gpus).lines()


def _waited(api: Api, run_id: str) -> bool | None:
    now = "PENDING"
    try:
        for task, now, message in follow(api, run_id):
            what = f"{task or 'run'}: {now.lower()}{f' ({message})' if message else ''}"
            _say(f"{datetime.now():%H:%M:%S} {what}")
    except KeyboardInterrupt:
        _say(f"no longer waiting; the run {run_id} goes on. See `radtransfer runs`; end it in the UI")
        return None
    return now == "SUCCEEDED"


def runs(server: Server, *, experiment: str | None, limit: int, with_metrics: bool, root: str) -> None:
    """Print the latest runs.

    Args:
        server: where to ask.
        experiment: whose runs; None: of all.
        limit: how many at most.
        with_metrics: also fetch the selected classifier's figures from object storage.
        root: see :func:`radtransfer_pipelines.cluster.results.report`.

    Raises:
        RadtransferError: no such experiment, or the server or the storage refused or failed.
    """
    api = Api(server)
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "name", "state", "submitted (UTC)", "duration", "version", *(SHOWN if with_metrics else ())):
        table.add_column(heading, no_wrap=True)
    versions: dict[tuple[str, str], str] = {}
    found = listed(api, experiment=experiment, limit=limit)
    for run in found:
        its = row(api, run, versions)
        took = str(timedelta(seconds=round(its.seconds)))
        cells = [its.id, its.name, its.state, f"{its.created:%Y-%m-%d %H:%M}", took, its.version]
        if with_metrics:
            figures = results.metrics(api, run, root=root) if its.state == "SUCCEEDED" else {}
            cells += [f"{figures[name]:.3f}" if name in figures else "" for name in SHOWN]
        table.add_row(*cells)
    if not found:
        _say("no runs")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, console.measure(table, options=console.options.update(width=1000)).maximum))
    console.print(table)


def report(server: Server, wanted: str, out: Path | None, *, root: str) -> None:
    """Fetch the report of a run and print where it is.

    Args:
        server: where to ask.
        wanted: id or name of the run.
        out: file to write; None: ``report-<run id>.html`` here.
        root: see :func:`radtransfer_pipelines.cluster.results.report`.

    Raises:
        RadtransferError: no such run, several, no report yet or none at all, or it cannot be fetched or written.
    """
    api = Api(server)
    run = find(api, wanted)
    print(results.report(api, run, out or Path(f"report-{run.run_id}.html"), root=root))


def _say(line: str) -> None:
    print(f"radtransfer: {line}", file=sys.stderr, flush=True)
