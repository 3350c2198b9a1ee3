"""What ``radtransfer submit``, ``runs`` and ``report`` do, step by step, and what they print."""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from radtransfer.apart import apart
from radtransfer.config import RunConfig
from radtransfer.errors import RadtransferError, near
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import PIPELINES
from radtransfer_pipelines.cluster import results
from radtransfer_pipelines.cluster.connection import Api, Server
from radtransfer_pipelines.cluster.estimate import counted, estimate
from radtransfer_pipelines.cluster.package import Package, data_place
from radtransfer_pipelines.cluster.runs import find, listed, row
from radtransfer_pipelines.cluster.submit import ensure_experiment, follow, start, upload
from radtransfer_pipelines.compile import compile_one
from radtransfer_pipelines.resources import on_gpus

SHOWN = ("auroc", "kappa")


@dataclass(frozen=True)
class Submission:
    """What shall run, once or by a schedule.

    Attributes:
        config: its configuration.
        given: pipeline parameters that are no entries of it; ``data_root`` among them.
        pipeline: which one, by its name in :data:`radtransfer_pipelines.PIPELINES`.
        image: image of all tasks; empty: of ``package``.
        gpus: NVIDIA's that each training takes; 0: what ``given`` says.
        package: a compiled pipeline to be used as it is; None: compile one.
        experiment: name of the experiment.
        service_account: that pods run as; None: the installation's.
        pipeline_root: address that artifacts go below; None: the installation's.
    """

    config: RunConfig
    given: Mapping[str, Any]
    pipeline: str
    image: str
    gpus: int
    package: Path | None
    experiment: str
    service_account: str | None
    pipeline_root: str | None


@contextmanager
def checked(asked: Submission, server: Server) -> Iterator[tuple[Package, dict[str, Any]]]:
    """The package of what shall run, which is there until the block ends, and the parameters.

    All that can be seen from here is seen before anything is sent.

    Raises:
        RadtransferError: something does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Package.read(asked.package or _compiled(asked, Path(folder)))
        pool = on_gpus(asked.gpus) if asked.gpus else {}
        parameters = package.parameters(asked.config, pool | dict(asked.given))
        if server.secret and server.secret in json.dumps(parameters):
            raise RadtransferError(
                "a parameter of the run holds the token; parameters are for all to read, take it out"
            )
        yield package, parameters


def described(package: Package, parameters: Mapping[str, Any]) -> list[str]:
    """Which pipeline and image it is, and where the data are, in lines."""
    data_root = str(parameters.get("data_root") or package.inputs["data_root"]["defaultValue"])
    which = f"pipeline {package.name} (sha256:{package.digest[:12]}), image {', '.join(package.images)}"
    return [which, data_place(data_root)]


def submit(
    asked: Submission,
    server: Server,
    *,
    name: str,
    images: tuple[int, int] | None,
    wait: bool,
    dry_run: bool,
) -> bool | None:
    """Submit a run.

    Args:
        asked: the run.
        server: where to.
        name: what the UI calls the run; empty: by configuration and time.
        images: of target and source, for the estimate; None: counted where they lie in a bucket.
        wait: until it has ended, telling how far it is.
        dry_run: send nothing.

    Returns:
        False where the run was waited for and did not succeed; None where the wait was interrupted, which is told.

    Raises:
        RadtransferError: something does not fit, or the server refused or failed.
    """
    with checked(asked, server) as (package, parameters):
        name = name or f"{asked.config.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        which, where = described(package, parameters)
        for line in (f"run {name!r} of {which}", where, *_estimated(asked, images, parameters)):
            say(line)
        if dry_run:
            tell_unsent(parameters)
            return True
        api = Api(server)
        uploaded = upload(api, package)
    say(uploaded.told)
    belongs = {"experiment": ensure_experiment(api, asked.experiment), "name": name}
    settings = {"service_account": asked.service_account, "pipeline_root": asked.pipeline_root}
    run_id = start(api, uploaded, parameters, **belongs, **settings)
    print(run_id, flush=True)
    say(f"started in experiment {asked.experiment!r}: {api.link(f'runs/details/{run_id}')}")
    return _waited(api, run_id) if wait else True


def tell_unsent(parameters: Mapping[str, Any]) -> None:
    """Print the parameters that were not sent."""
    say("nothing was sent (--dry-run); the parameters would be:")
    print(json.dumps(parameters, indent=1, ensure_ascii=False))


def _compiled(asked: Submission, folder: Path) -> Path:
    if asked.pipeline not in PIPELINES:
        close = difflib.get_close_matches(asked.pipeline, PIPELINES, n=1)
        raise RadtransferError(
            f"--pipeline {asked.pipeline}: there is no such pipeline; {near(asked.pipeline, close or list(PIPELINES))}"
        )
    if asked.image and "@sha256:" not in asked.image:
        say(f"warning: image {asked.image} has no digest: KFP's cache takes results of old code for those of new code")
    return compile_one(asked.pipeline, folder, image=asked.image or IMAGE)


def _estimated(asked: Submission, images: tuple[int, int] | None, parameters: Mapping[str, Any]) -> list[str]:
    config = asked.config
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
    return apart(estimate, config, *images, bool(parameters.get("gpu_resource"))).lines()


def _waited(api: Api, run_id: str) -> bool | None:
    now = "PENDING"
    try:
        for task, now, message in follow(api, run_id):
            what = f"{task or 'run'}: {now.lower()}{f' ({message})' if message else ''}"
            say(f"{datetime.now():%H:%M:%S} {what}")
    except KeyboardInterrupt:
        say(f"no longer waiting; the run {run_id} goes on. See `radtransfer runs`; end it in the UI")
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
        say("no runs")
        return
    show(table)


def show(table: Table) -> None:
    """Print a table, its rows unbroken where no terminal limits them."""
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


def say(line: str) -> None:
    """Tell the user something, on standard error."""
    print(f"radtransfer: {line}", file=sys.stderr, flush=True)
