"""The step that tests a run on an external data set, where one is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radtransfer import artifacts
from radtransfer.config import ExternalSet


def external(
    *,
    name: str,
    data_root: str,
    external: Mapping[str, Any],
    target_store: Path,
    evaluation: Path,
    classifiers: list[Path],
    models: list[Path],
    bootstrap: int,
    seed: int,
    threads: int,
    out: Path,
) -> None:
    """The step of a run that tests it on an external data set, where one is named; write an **external**.

    Args:
        name: of the run.
        data_root: folder of the data sets, or its address.
        external: see :class:`radtransfer.config.ExternalSet`; empty: there is none, which is all the artifact says.
        target_store: image store of the target.
        evaluation: the run's evaluation.
        classifiers, models: of all TL sources, in any order.
        bootstrap, seed, threads, out: see :func:`radtransfer.evaluation.unseen.score_unseen`.

    Raises:
        RadtransferError: as of :class:`radtransfer.evaluation.unseen.Run` and
            :func:`radtransfer.evaluation.unseen.score_unseen`.
    """
    if not external:
        with artifacts.writing(out, "external", step="external", settings={}) as (_, content):
            content["name"] = ""
        return
    # They need PyTorch: seconds that a run without an external data set need not spend.
    from radtransfer.evaluation.unseen import Run, score_unseen
    from radtransfer.preprocess.external import Learnt

    run = Run.of(name, Learnt.of_store(target_store), evaluation, classifiers, models)
    asked = ExternalSet.of(external, "external")
    score_unseen(run, data_root=data_root, asked=asked, bootstrap=bootstrap, seed=seed, threads=threads, out=out)
