"""The folder of a run: what may lie in it before, and what it holds afterwards."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radtransfer.artifacts import read_json, write_json
from radtransfer.errors import RadtransferError

WORK = ".work"
REQUEST = "run-config.json"
FINISHED = "run.json"


def claim(out: Path, request: Mapping[str, Any]) -> bool:
    """Make sure that ``out`` is fit for a run, without writing anything.

    Args:
        out: the run's folder: missing, empty, or holding an unfinished run of the same request.
        request: what is asked for; see :mod:`radtransfer_pipelines.local`.

    Returns:
        Whether there is an unfinished run of the same request to take up.

    Raises:
        RadtransferError: it holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise RadtransferError(f"--out {out}: is a file; name a folder that is new, empty or of an unfinished run")
    if (out / FINISHED).exists():
        raise RadtransferError(f"--out {out}: holds a finished run ({FINISHED}); name another folder or remove it")
    if not (out / WORK / REQUEST).is_file():
        found = sorted(path.name for path in out.iterdir())[0]
        raise RadtransferError(
            f"--out {out}: holds {found}, which is no unfinished run of radtransfer; name a new or empty folder"
        )
    before = read_json(out / WORK / REQUEST)
    for key in [*before["identity"], *request["identity"]]:
        was, now = before["identity"].get(key), request["identity"].get(key)
        if was != now:
            raise RadtransferError(
                f"--out {out}: holds an unfinished run with {key} {was!r}, this one has {now!r}; "
                "name another folder, or remove it to start anew"
            )
    return True


@contextmanager
def locked(out: Path, request: Mapping[str, Any]) -> Iterator[Path]:
    """Hold the folder for one run at a time and yield its work folder.

    Raises:
        RadtransferError: another run is at work in it.
    """
    work = out / WORK
    (work / "logs").mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RadtransferError(f"--out {out}: another radtransfer run is at work in it; wait, or stop it") from None
        partial = work / f"{REQUEST}.partial"
        write_json(partial, request)
        partial.replace(work / REQUEST)
        yield work


def collect(out: Path, ends: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a run's results where its reader looks for them; hard links, so that nothing lies on disk twice.

    Args:
        out: the run's folder.
        ends: for each task the event that it ended with.
    """
    made = {name: Path(path) for event in ends.values() for name, path in event["outputs"].items()}
    take = {
        "report.html": made["html"],
        "summary.md": made["summary"],
        "splits.csv": made["target_store"] / "splits.csv",
        "data_report.html": made["data_report"],
        "metrics.json": made["evaluation"] / "metrics.json",
        "evaluation": made["evaluation"],
        "explanations": made["explanations"],
        "bundle": made["bundle"],
        "logs": out / WORK / "logs",
    }
    if "decision" in made:  # of a retraining
        take |= {name: made[name] for name in ("drift", "decision")}
    if (made["unseen"] / "metrics.json").is_file():  # where a run was asked to
        take["external"] = made["unseen"]
    for event in ends.values():
        if event["step"] in ("pretrain", "finetune"):
            model = Path(event["outputs"]["model"])
            trained = read_json(model / "model.json")["content"]
            place = "pretrained" if event["step"] == "pretrain" else f"models/{trained['tl_source']}"
            take[f"{place}/{trained['backbone']}"] = model
        if event["step"] == "classify":
            fitted = Path(event["outputs"]["classifiers"])
            take[f"classifiers/{read_json(fitted / 'classifiers.json')['content']['tl_source']}"] = fitted
    for name, source in take.items():
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link)
        else:
            _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
