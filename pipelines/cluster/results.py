"""What the tasks of a run left in object storage.

The API of KFP does not tell where artifacts are: ``outputs`` of a run's tasks are empty (kubeflow/pipelines 9858), and
there is no call that reads one. KFP's driver puts them at
``<pipeline root>/<pipeline>/<run id>/<task>/<random>/<artifact>`` (``provisionOutputs`` in backend/src/v2/driver;
without the random part before KFP 2.5), which is where they are looked for.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from radtransfer.errors import RadtransferError
from radtransfer.storage import ENDPOINTS, Bucket, Object, address
from radtransfer_pipelines.cluster.connection import Api
from radtransfer_pipelines.cluster.runs import FINAL, spec, state

ROOT = "RADTRANSFER_KFP_PIPELINE_ROOT"
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
"""What an installation of KFP has where its ``kfp-launcher`` ConfigMap does not say otherwise."""
REPORT = ("report", "html")
SCALARS = ("evaluate", "scalars")
"""Task and name of the artifacts that are fetched."""


def bucket_of(root: str) -> tuple[str, str]:
    """Bucket and prefix of a pipeline root.

    Raises:
        RadtransferError: it is not in storage that speaks S3, or, for ``minio://``, the environment names no server.
    """
    plain = root.partition("?")[0].rstrip("/")
    scheme, _, rest = plain.partition("://")
    if scheme not in ("s3", "minio") or not rest:
        raise RadtransferError(
            f"pipeline root {root}: expected s3://BUCKET/PREFIX or minio://BUCKET/PREFIX; from other storage fetch the "
            "report in the UI"
        )
    if scheme == "minio" and not any(os.environ.get(name) for name in ENDPOINTS):
        raise RadtransferError(
            f"pipeline root {root}: is on the installation's own object store, whose address is not known here; name "
            f"it by {ENDPOINTS[0]}, e.g. http://localhost:9000 after `kubectl port-forward`, and its credentials by "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    found = address(f"s3://{rest}")
    assert isinstance(found, tuple)
    return found


def report(api: Api, run: Any, out: Path, *, root: str = "") -> Path:
    """Fetch the report of a finished run.

    Args:
        api: the connection.
        run: as the server told it, with its details.
        out: file to write, whole or not at all.
        root: pipeline root of the installation, for a run that does not say its own; empty: KFP's default.

    Raises:
        RadtransferError: the run has not succeeded, there is no report, or it cannot be fetched or written.
    """
    if out.exists():
        raise RadtransferError(f"{out}: already exists; name another file by --out")
    now = state(run)
    if now not in FINAL:
        raise RadtransferError(f"run {run.run_id}: has not finished ({now}); the report comes at its end")
    try:
        bucket, found = _find(api, run, *REPORT, root)
    except RadtransferError as error:
        if now == "SUCCEEDED":
            raise
        raise RadtransferError(f"run {run.run_id}: ended as {now}. {error}") from None
    folder = out.absolute().parent
    if not folder.is_dir():
        raise RadtransferError(f"{folder}: no such folder; make it, or name another by --out")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=folder) as scratch:
        page = bucket.fetch(found, Path(scratch))
        with page.open("rb") as stream:
            if not stream.read(64).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                raise RadtransferError(f"s3://{bucket.name}/{found.key}: is no HTML page; look at the run in the UI")
        page.replace(out)
    return out


def metrics(api: Api, run: Any, *, root: str = "") -> dict[str, float]:
    """Figures of the selected classifier on the test images, e.g. ``auroc``; empty: the run has left none yet.

    Args:
        api: the connection.
        run: as the server told it.
        root: as of :func:`report`.

    Raises:
        RadtransferError: the storage cannot be reached or refuses.
    """
    try:
        bucket, found = _find(api, run, *SCALARS, root)
    except NoArtifactError:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        told = json.loads(bucket.fetch(found, Path(scratch)).read_bytes())
    return {str(name): float(value) for name, value in told.items() if isinstance(value, (int, float))}


class NoArtifactError(RadtransferError):
    """A run has not left an artifact where it should be."""


def _find(api: Api, run: Any, task: str, artifact: str, root: str) -> tuple[Bucket, Object]:
    """The newest of a task's artifacts of that name, of which a repeated task leaves several."""
    told = spec(api, run)
    own = run.runtime_config.pipeline_root if run.runtime_config else None
    place = own or told.get("defaultPipelineRoot") or root or DEFAULT_ROOT
    name, top = bucket_of(place)
    prefix = "/".join([*filter(None, [top]), told["pipelineInfo"]["name"], run.run_id, task, ""])
    bucket = Bucket(name)
    wanted = re.compile(rf"{re.escape(prefix)}([^/]+/)?{re.escape(artifact)}")
    found = [each for each in bucket.list(prefix) if wanted.fullmatch(each.key)]
    if not found:
        guessed = (
            "" if own else f"; if this installation has another pipeline root, name it by --pipeline-root ({ROOT})"
        )
        raise NoArtifactError(
            f"run {run.run_id}: no {artifact!r} of its task {task!r} below s3://{name}/{prefix}: the task has not "
            f"ended well, its result was taken from the cache of an earlier run, or the storage was cleaned{guessed}"
        )
    return bucket, max(found, key=lambda each: each.modified)
