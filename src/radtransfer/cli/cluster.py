"""Runs on a Kubeflow Pipelines installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from radtransfer.cli.runs import Config, Overrides
from radtransfer.errors import RadtransferError

Host = Annotated[
    str,
    typer.Option(
        envvar="RADTRANSFER_KFP_HOST",
        help="URL of the KFP API server; without it the cluster that this runs in, or that of the kubeconfig.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(envvar="RADTRANSFER_KFP_NAMESPACE", help="Your namespace, where KFP is installed for several users."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="RADTRANSFER_KFP_TOKEN_FILE",
        help="File with a bearer token, read anew for each request; or the token itself is in RADTRANSFER_KFP_TOKEN.",
    ),
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer of the server.")]
PipelineRoot = Annotated[
    str,
    typer.Option(
        envvar="RADTRANSFER_KFP_PIPELINE_ROOT",
        help="Address of the artifacts of runs that do not say theirs, s3://BUCKET/PREFIX or minio://BUCKET/PREFIX; "
        "empty: KFP's default.",
    ),
]

Pipeline = Annotated[
    str, typer.Option(help="Name of the pipeline, as `compile` writes it; empty: the configuration's.")
]
ClusterDataRoot = Annotated[
    str,
    typer.Option(
        "--data-root",
        help="s3://BUCKET/PREFIX, dvc+REPOSITORY@REVISION:PATH, or a folder of the data volume as tasks see it.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", help="NAME=VALUE; a pipeline parameter that is no entry of a configuration."),
]
Image = Annotated[str, typer.Option(envvar="RADTRANSFER_IMAGE", help="Image of all tasks, best with its digest.")]
Gpus = Annotated[
    int,
    typer.Option(
        min=0,
        help="NVIDIA GPUs of one node that each training asks for; other pools: --param gpu_resource=..., see "
        "docs/cluster.md.",
    ),
]
PackageFile = Annotated[
    Path | None, typer.Option("--package", help="Package that `compile` made, in place of --image.")
]
Experiment = Annotated[str, typer.Option(help="Experiment that runs belong to; made if it is not there.")]
ServiceAccount = Annotated[
    str | None, typer.Option(help="Kubernetes service account of the pods; without it KFP's own.")
]
OutputRoot = Annotated[
    str | None,
    typer.Option(
        "--pipeline-root",
        envvar="RADTRANSFER_KFP_PIPELINE_ROOT",
        help="Where the run's artifacts go, s3://BUCKET/PREFIX; without it KFP's own place.",
    ),
]

app = typer.Typer()


class Told(SystemExit):
    """The end of a command that has said why."""


@app.command()
def submit(
    config: Config,
    set_: Overrides = None,
    pipeline: Pipeline = "",
    data_root: ClusterDataRoot = "/data",
    param: Parameters = None,
    image: Image = "",
    gpus: Gpus = 0,
    package: PackageFile = None,
    experiment: Experiment = "radtransfer",
    run_name: Annotated[str, typer.Option(help="What the UI calls the run; empty: by configuration and time.")] = "",
    images: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="TARGET SOURCE", help="Images of the two sides, for the estimate; those in s3:// are counted."
        ),
    ] = None,
    service_account: ServiceAccount = None,
    pipeline_root: OutputRoot = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit code 1 unless it succeeds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate, and send nothing.")] = False,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Run a pipeline on a cluster; prints the run's id.

    The pipeline is uploaded if the server does not have just this one.
    """
    from radtransfer_pipelines.cluster.command import submit as send

    asked = submission(
        config, set_, pipeline, data_root, param, image, gpus, package, experiment, service_account, pipeline_root
    )
    to = server(host, namespace, token_file, timeout)
    succeeded = send(asked, to, name=run_name, images=images, wait=wait, dry_run=dry_run)
    if succeeded is None:
        raise Told(130)
    if not succeeded:
        raise typer.Exit(1)


@app.command()
def runs(
    experiment: Annotated[str | None, typer.Option(help="Whose runs; without it all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also fetch AUROC and kappa from object storage, for finished runs.")
    ] = False,
    pipeline_root: PipelineRoot = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """List the latest runs on a cluster: state, duration, pipeline version."""
    from radtransfer_pipelines.cluster.command import runs as show

    show(
        server(host, namespace, token_file, timeout),
        experiment=experiment,
        limit=limit,
        with_metrics=metrics,
        root=pipeline_root,
    )


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Id of the run, or its name if no other run has it.")],
    out: Annotated[Path | None, typer.Option(help="File to write; without it report-RUN.html in this folder.")] = None,
    pipeline_root: PipelineRoot = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Fetch the report of a finished run on a cluster from object storage; prints its path.

    Storage is reached as data roots are: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
    """
    from radtransfer_pipelines.cluster.command import report as fetch

    fetch(server(host, namespace, token_file, timeout), run, out, root=pipeline_root)


def submission(
    config: Path,
    overrides: list[str] | None,
    pipeline: str,
    data_root: str,
    parameters: list[str] | None,
    image: str,
    gpus: int,
    package: Path | None,
    experiment: str,
    service_account: str | None,
    pipeline_root: str | None,
) -> Any:
    """What `submit` and `schedule set` were asked to run.

    Raises:
        RadtransferError: options do not fit each other, or the configuration is none.
    """
    from radtransfer.configfile import assigned, load
    from radtransfer_pipelines.cluster.command import Submission

    if package and image:
        raise RadtransferError("--package: its image was settled when it was compiled; leave --image out")
    asked = load(config, overrides or [])
    given = {"data_root": data_root} | dict(assigned(each, "--param") for each in parameters or [])
    name = pipeline or asked.pipeline
    return Submission(asked, given, name, image, gpus, package, experiment, service_account, pipeline_root)


def server(host: str, namespace: str, token_file: Path | None, timeout: float) -> Any:
    """The API server that the options name."""
    import os

    from radtransfer_pipelines.cluster.connection import TOKEN, Server

    return Server(host, namespace, os.environ.get(TOKEN, ""), token_file, timeout)
