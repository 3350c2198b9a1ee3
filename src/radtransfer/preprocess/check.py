"""Looking at the data sets of a run before it is started."""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import replace
from pathlib import Path

from radtransfer import artifacts
from radtransfer.config import ExternalSet, RunConfig
from radtransfer.preprocess.data_report import DataReport
from radtransfer.preprocess.external import Learnt, external_store
from radtransfer.preprocess.run import preprocess

_SIDE = 32
"""Side of the squares that are thrown away, px; nothing in the report depends on it."""


def check(config: RunConfig, *, data_root: str | Path, out: Path) -> DataReport:
    """Do what ``preprocess`` would do, keep no store, and write ``data_report.html``, ``.md`` and ``problems.csv``.

    A problem whose policy is ``fail`` does not end it; the report says that it stops a run. An external data set of the
    run is read as the step ``external`` would, so images of target and source are decoded twice then.

    Args:
        config: the run.
        data_root: folder of the data sets, or its address.
        out: folder to write; it must not exist or be empty.

    Raises:
        RadtransferError: a data set cannot be read, or not be split (as of ``preprocess``), or ``out`` holds something.
    """
    given = config.model_dump(include=set(inspect.signature(preprocess).parameters)) | {"image_size": _SIDE}
    given["on_problem"] = {name: policy for name, policy in config.on_problem.items() if policy != "fail"}
    with artifacts.staged(Path(out)) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            target, source = Path(name) / "target", Path(name) / "source"
            preprocess(data_root=data_root, target_out=target, source_out=source, **given)
            stores = [target, source]
            if config.external:
                stores.append(Path(name) / "external")
                learnt = replace(Learnt.of_config(config, target / "splits.csv"), image_size=_SIDE)
                asked = ExternalSet.of(config.external, "external")
                external_store(data_root=data_root, learnt=learnt, asked=asked, out=stores[-1])
            report = DataReport.of(*stores, on_problem=config.on_problem)
        (folder / "data_report.html").write_text(report.html(), encoding="utf-8")
        (folder / "data_report.md").write_text(report.markdown(), encoding="utf-8")
        (folder / "problems.csv").write_text(report.problems_csv(), encoding="utf-8")
    return report
