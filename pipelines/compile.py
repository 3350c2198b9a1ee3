"""Compiling the pipelines to the packages that KFP takes."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

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
