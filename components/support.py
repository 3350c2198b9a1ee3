"""What the components share: their image, and what each task owes to whoever watches it.

A component is one call into the library. Around that call :func:`task` measures time and memory, turns a
:class:`radtransfer.errors.RadtransferError` into one readable line, and, where the environment names a folder to watch
(``RADTRANSFER_WATCH``, set by ``radtransfer run``), leaves its log and its beginning and end there.
"""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radtransfer.artifacts import Artifact, Kind, peak_mib, read, read_json
from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError

# kfp.local's SubprocessRunner warns about images whose name does not say "python".
IMAGE = "radtransfer/radtransfer-python:dev"
WATCH = "RADTRANSFER_WATCH"
FAILED = 2
NOT_STARTED = 3


def label(step: str, *parts: str) -> str:
    """How a task is called on screen and in ``run.json``, e.g. ``finetune[imagenet, tf_efficientnet_lite0]``."""
    return f"{step}[{', '.join(parts)}]" if parts else step


@contextmanager
def task(step: str, *parts: str, code_version: str, **outputs: str) -> Iterator[Callable[..., Any]]:
    """Run one step and say how it went.

    Args:
        step: name of the step.
        parts: what tells this task from the others of its step (TL source, backbone).
        code_version: the code that the submitter expects here; empty: whatever the image carries.
        outputs: name and path of the artifacts that the step makes.

    Yields:
        ``call(function, **keywords)``, which calls the library, times it (imports apart) and gives what it gives.

    Raises:
        SystemExit: code 2 when the step raised :class:`RadtransferError` (its message is on standard error),
            code 3 when another task of the same local run has failed already.
    """
    watch = Path(os.environ[WATCH]) if os.environ.get(WATCH) else None
    name = label(step, *parts)
    if watch is not None:
        if (watch / "stop").exists():
            sys.exit(NOT_STARTED)
        _redirect(watch / "logs" / f"{name}.log")
    started, entered = _process_started(), time.time()
    inside: list[float] = []

    def call(function: Callable[..., Any], **keywords: Any) -> Any:
        gc.freeze()
        gc.enable()
        inside.append(time.time())
        try:
            return function(**keywords)
        finally:
            inside.append(time.time())

    def tell(event: str, **more: Any) -> None:
        if watch is not None:
            line = json.dumps({"event": event, "task": name, "step": step, "time": time.time(), **more}) + "\n"
            with (watch / "events.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)

    tell("start", pid=os.getpid())
    # What a task imports stays to its end: a garbage collector that walks over it, meanwhile and at exit, takes a fifth
    # of the start-up and a second more when the process ends.
    gc.disable()
    try:
        _check_version(code_version)
        yield call
    except RadtransferError as error:
        tell("error", message=str(error), expected=True)
        _stop(watch)
        print(f"radtransfer error: {error}", file=sys.stderr, flush=True)
        sys.exit(FAILED)
    except BaseException as error:
        tell("error", message=f"{type(error).__name__}: {error}", expected=False)
        _stop(watch)
        raise
    finally:
        gc.enable()
        gc.freeze()
    cost = {"started": started, "entered": entered, "inside": inside, "peak_mib": round(peak_mib(), 1)}
    tell("end", outputs=outputs, **cost)


def expect(path: str, kind: Kind, **content: Any) -> Artifact:
    """Open an input artifact and make sure that it is the one this task was meant to get.

    Raises:
        RadtransferError: not an artifact of that kind, or its content says otherwise than ``content``.
    """
    artifact = read(Path(path), kind)
    for key, wanted in content.items():
        if artifact.content.get(key) != wanted:
            raise RadtransferError(
                f"{path}: this task is for {key}={wanted!r} but was handed {artifact.content.get(key)!r}; "
                "the pipeline passed the wrong artifact, please report it"
            )
    return artifact


def by_source(kind: Kind, *given: Any) -> list[Path]:
    """Paths of what the transfer-learning sources made, after a look at each.

    Args:
        kind: kind of the artifacts.
        given: for each TL source in the order of :data:`radtransfer.config.TL_SOURCES` one KFP artifact, or one list
            of models, one a backbone.

    Raises:
        RadtransferError: one is of another source, or the sources do not have the same backbones.
    """
    paths: list[Path] = []
    backbones: list[str] | None = None
    for source, items in zip(TL_SOURCES, given, strict=True):
        if isinstance(items, list):
            backbones = expect_all([item.path for item in items], kind, backbones, tl_source=source)
            paths += [Path(item.path) for item in items]
        else:
            paths.append(expect(items.path, kind, tl_source=source).path)
    return paths


def expect_all(paths: list[str], kind: Kind, backbones: list[str] | None, **content: Any) -> list[str]:
    """Make sure of one artifact for each of the ``backbones`` (None: whichever there are) and return their names.

    Raises:
        RadtransferError: one is missing, doubled, or not what ``content`` says.
    """
    found = sorted(str(expect(path, kind, **content).content["backbone"]) for path in paths)
    wanted = sorted(backbones) if backbones is not None else sorted(set(found))
    if found != wanted:
        raise RadtransferError(
            f"expected one artifact of kind {kind!r} for each of {wanted} with {content}, got {found}; "
            "the pipeline passed the wrong artifacts, please report it"
        )
    return found


def show_metrics(evaluation: Path, scalars: Any, curves: Any) -> None:
    """Hand the selected candidate's figures to the KFP UI.

    Args:
        evaluation: folder of the evaluation.
        scalars: a ``kfp.dsl.Metrics`` artifact.
        curves: a ``kfp.dsl.ClassificationMetrics`` artifact.
    """
    metrics = read_json(evaluation / "metrics.json")
    row = next(row for row in metrics["results"] if row["selected"])
    for name in ("auroc", "kappa", "accuracy", "f1", "sensitivity", "specificity", "ece", "auprc", "brier"):
        value = row[name]["value"]
        if value is not None and math.isfinite(value):
            scalars.log_metric(name, value)
    drawn = read_json(evaluation / "curves.json")[row["id"]]
    roc = drawn["roc"]
    curves.log_roc_curve(roc["fpr"], roc["tpr"], roc["thresholds"])
    cells = drawn["confusion"]
    table = [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]]
    curves.log_confusion_matrix(["normal", metrics["positive_class"]], table)
    _leave(scalars)
    _leave(curves)


def show_training(model: Path, curves: Any) -> None:
    """Hand the course of a training to the KFP UI: of every epoch the losses, validation AUROC and learning rate.

    Args:
        model: folder of the model.
        curves: a ``kfp.dsl.Metrics`` artifact.
    """
    with (model / "history.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            for name in ("train_loss", "validation_loss", "validation_auroc", "learning_rate"):
                if math.isfinite(value := float(row[name] or "nan")):
                    curves.log_metric(f"epoch_{int(row['epoch']):03d}_{name}", value)
    _leave(curves)


def describe(metadata: dict[str, Any], path: str, kind: Kind, **content: Any) -> Artifact:
    """Check an artifact just made like :func:`expect` and put what it says of itself into its KFP metadata."""
    artifact = expect(path, kind, **content)
    metadata["digest"] = artifact.digest
    metadata["code_version"] = artifact.made["version"]
    metadata.update({key: value for key, value in artifact.content.items() if _plain(value)})
    return artifact


def show_stores(target: Any, source: Any, page: Path, source_images: Path) -> None:
    """Check the image stores just made and hand what they say of themselves to the KFP UI.

    Args:
        target, source: their ``kfp.dsl.Dataset`` artifacts.
        page: the data report to write, HTML.
        source_images: file to write the number of the source's training images to.
    """
    from radtransfer.pages import write
    from radtransfer.preprocess.data_report import DataReport
    from radtransfer.preprocess.store import Store

    for role, dataset in (("target", target), ("source", source)):
        store = describe(dataset.metadata, dataset.path, "image-store", role=role)
        dataset.metadata.update({f"data_{key}": value for key, value in store.content.get("data", {}).items()})
    write(page, DataReport.of(Path(target.path), Path(source.path)).html())
    write(source_images, str(len(Store.open(Path(source.path), ("group_id", "split")).rows("train"))))


def show_external(unseen: Any, page: Path) -> None:
    """Hand the KFP UI the page of a test on unseen images, or a line where none was asked for.

    Args:
        unseen: its ``kfp.dsl.Artifact``.
        page: HTML file to write.
    """
    from radtransfer.pages import write

    made = describe(unseen.metadata, unseen.path, "external")
    none = "<!doctype html><title>No external data set</title><p>No external data set was named.</p>"
    write(page, (made.path / "external.html").read_text(encoding="utf-8") if made.content["name"] else none)


def configuration(config: dict[str, Any], tried: list[str], **nested: Any) -> dict[str, Any]:
    """The configuration of a run, of what the pipeline hands on: scalars in a mapping, all else one by one.

    Without ``pretrained_models``, which may be a path of one machine; digests tell which models were taken up.

    Raises:
        RadtransferError: an entry is not as :class:`radtransfer.config.RunConfig` has it.
    """
    from radtransfer.configfile import validate

    whole = validate(config | nested | {"classifiers": tried}, "pipeline parameters")
    return whole.model_dump(mode="json", exclude={"pretrained_models"})


def _leave(metrics: Any) -> None:
    """Leave figures as a file too: kfp.local has no task in its cache whose artifacts are not there as files."""
    path = Path(metrics.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics.metadata), encoding="utf-8")


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 16 and all(_plain(item) and not isinstance(item, list) for item in value)
    return isinstance(value, (str, int, float, bool))


def _check_version(wanted: str) -> None:
    from radtransfer.provenance import code_version

    if wanted and wanted.partition("/")[0] != code_version():
        raise RadtransferError(
            f"this task was submitted by code version {wanted}, but the code here is {code_version()}: it was changed "
            "while the run was under way, or the image is another; start a new run (or rebuild the image)"
        )


def _stop(watch: Path | None) -> None:
    """Keep the tasks of this local run that have not begun from beginning; those at work finish."""
    if watch is not None:
        (watch / "stop").touch()


def _redirect(path: Path) -> None:
    """Send what this process prints from now on, its libraries' output included, to a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _process_started() -> float:
    """Seconds since the epoch at which this process began (Linux; elsewhere: now)."""
    try:
        ticks = float(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return time.time()
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
