"""``radtransfer schedule``: pipelines that a cluster runs again and again."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from radtransfer.cli.cluster import (
    ClusterDataRoot,
    Experiment,
    Gpus,
    Host,
    Image,
    Namespace,
    OutputRoot,
    PackageFile,
    Parameters,
    Pipeline,
    ServiceAccount,
    Timeout,
    TokenFile,
    server,
    submission,
)
from radtransfer.cli.runs import Config, Overrides

app = typer.Typer(no_args_is_help=True, help="Runs on a cluster that come back: one recurring run for each name.")

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Name of the schedule: small letters, digits and hyphens.")],
    config: Config,
    cron: Annotated[
        str,
        typer.Option(
            help="When: a crontab line of five fields, a shorthand such as @daily, or the six fields of KFP, seconds "
            "first. The server's time zone rules."
        ),
    ],
    overrides: Overrides = None,
    pipeline: Pipeline = "",
    data_root: ClusterDataRoot = "/data",
    param: Parameters = None,
    image: Image = "",
    gpus: Gpus = 0,
    package: PackageFile = None,
    experiment: Experiment = "radtransfer",
    concurrency: Annotated[int, typer.Option(min=1, max=10, help="How many of its runs may be under way at once.")] = 1,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="Make up for all missed times; without it for the last alone.")
    ] = False,
    service_account: ServiceAccount = None,
    pipeline_root: OutputRoot = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show the next times, and send nothing.")] = False,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Have a pipeline run by a schedule; prints the id of the recurring run.

    The one of that name is left alone if nothing changed, and replaced if anything did; a paused one stays paused.
    """
    from radtransfer_pipelines.cluster.schedules import set_ as send

    asked = submission(
        config, overrides, pipeline, data_root, param, image, gpus, package, experiment, service_account, pipeline_root
    )
    to = server(host, namespace, token_file, timeout)
    send(asked, to, name=name, line=cron, concurrency=concurrency, catch_up=catch_up, dry_run=dry_run)


@app.command("list")
def list_(host: Host = "", namespace: Namespace = "", token_file: TokenFile = None, timeout: Timeout = 30.0) -> None:
    """List the schedules: when they fire, which are paused."""
    from radtransfer_pipelines.cluster.schedules import list_ as show_all

    show_all(server(host, namespace, token_file, timeout))


@app.command()
def show(
    name: Name,
    format_: Annotated[Literal["yaml", "json"], typer.Option("--format", help="Format of the output.")] = "yaml",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Say of a schedule when it fires and what it runs, with all parameters."""
    from radtransfer_pipelines.cluster.schedules import show_

    show_(server(host, namespace, token_file, timeout), name, form=format_)


@app.command()
def pause(
    name: Name, host: Host = "", namespace: Namespace = "", token_file: TokenFile = None, timeout: Timeout = 30.0
) -> None:
    """Keep a schedule from firing until it is resumed; runs that are under way go on."""
    from radtransfer_pipelines.cluster.schedules import pause as stop

    stop(server(host, namespace, token_file, timeout), name)


@app.command()
def resume(
    name: Name, host: Host = "", namespace: Namespace = "", token_file: TokenFile = None, timeout: Timeout = 30.0
) -> None:
    """Let a paused schedule fire again."""
    from radtransfer_pipelines.cluster.schedules import resume as go_on

    go_on(server(host, namespace, token_file, timeout), name)


@app.command()
def delete(
    name: Name, host: Host = "", namespace: Namespace = "", token_file: TokenFile = None, timeout: Timeout = 30.0
) -> None:
    """Delete a schedule; runs that are under way go on."""
    from radtransfer_pipelines.cluster.schedules import delete as remove

    remove(server(host, namespace, token_file, timeout), name)
