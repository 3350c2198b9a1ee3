"""Compiling the pipelines to the packages that KFP takes."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

from radtransfer_components.support import IMAGE
from radtransfer_pipelines import PIPELINES
from radtransfer_pipelines.resources import Target


def compile_all(out: Path, *, image: str = IMAGE, target: Target = "cluster", gpus: int = 1) -> list[Path]:
    """Compile every pipeline; the same code gives the same bytes.

    Args:
        out: folder for ``<pipeline>.yaml``.
        image: image of all tasks, best with its digest: KFP's cache knows new code by it. The default is the
            placeholder that the packages under ``pipelines/compiled`` carry.
        target: kind of cluster.
        gpus: that each training takes on a cluster with GPUs.

    Returns:
        The files written.
    """
    return [compile_one(name, out, image=image, target=target, gpus=gpus) for name in PIPELINES]


def compile_one(name: str, out: Path, *, image: str = IMAGE, target: Target = "cluster", gpus: int = 1) -> Path:
    """Compile one pipeline, as :func:`compile_all` does all of them; returns the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.yaml"
    compiler.Compiler().compile(PIPELINES[name]()(image=image, target=target, gpus=gpus), str(path))
    return path
