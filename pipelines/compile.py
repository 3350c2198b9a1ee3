"""Compiling the pipelines to the packages that KFP takes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from radtransfer_components.support import IMAGE
from radtransfer_pipelines import PIPELINES
from radtransfer_pipelines.resources import Target


def compile_all(out: Path, *, image: str = IMAGE, target: Target = "cluster") -> list[Path]:
    """Compile every pipeline; the same code gives the same bytes.

    Args:
        out: folder for ``<pipeline>.yaml``.
        image: image of all tasks, best with its digest: KFP's cache knows new code by it. The default is the
            placeholder that the packages under ``pipelines/compiled`` carry.
        target: where the pipelines are to run.

    Returns:
        The files written.
    """
    return [compile_one(name, out, image=image, target=target) for name in PIPELINES]


def compile_one(name: str, out: Path, *, image: str = IMAGE, target: Target = "cluster") -> Path:
    """Compile one pipeline, as :func:`compile_all` does all of them; returns the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.yaml"
    compiler.Compiler().compile(PIPELINES[name]()(image=image, target=target), str(path))
    return path


def as_resources(out: Path, *, image: str = IMAGE) -> list[Path]:
    """Compile every pipeline to KFP's resources ``Pipeline`` and ``PipelineVersion``, for GitOps.

    A version is named after the digest of its package, as :func:`radtransfer_pipelines.cluster.submit.upload` names it,
    so that another package is another version: KFP lets nobody change one.

    Args:
        out: folder for ``<pipeline>.yaml``.
        image: image of all tasks.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as folder:
        for name, pipeline in PIPELINES.items():
            made, package = pipeline()(image=image), Path(folder) / name
            compiler.Compiler().compile(made, str(package.with_suffix(".yaml")))
            digest = hashlib.sha256(package.with_suffix(".yaml").read_bytes()).hexdigest()[:12]
            known = name.replace("_", "-")
            names = KubernetesManifestOptions(known, known, f"{known}-{digest}", include_pipeline_manifest=True)
            written.append(out / f"{name}.yaml")
            settings = {"kubernetes_manifest_format": True, "kubernetes_manifest_options": names}
            compiler.Compiler().compile(made, str(written[-1]), **settings)
    return written
