"""``radtransfer run``: a pipeline on this machine, from the look before the leap to the report."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from radtransfer.apart import apart
from radtransfer.artifacts import file_sha256, read_json, write_json
from radtransfer.config import TL_SOURCES, ExternalSet, RunConfig
from radtransfer.datasets.fetch import Located, located
from radtransfer.datasets.roots import unpinned
from radtransfer.errors import RadtransferError
from radtransfer.progress import console
from radtransfer.provenance import code_version
from radtransfer.registry.places import at
from radtransfer.registry.references import Reference
from radtransfer.registry.references import located as referred
from radtransfer.registry.versions import PRETRAINED, Registry
from radtransfer_pipelines import NOT_PARAMETERS, outfolder
from radtransfer_pipelines.plan import plan, show
from radtransfer_pipelines.watch import Watch

PACKAGES = ("radtransfer", "torch", "timm", "kfp", "scikit-learn", "skops", "numpy", "pandas")
PACKAGES += ("pillow", "opencv-python-headless", "pydicom", "imagecodecs")
SERIAL_TASKS = 17  # preflight, preprocess, 3 times extract, fuse and classify, and one of each other step
RETRAIN_TASKS = 3  # resolve, drift and gate
LAST_WORDS_SECONDS = 20
TASKS_PER_BACKBONE = 4  # finetune for each source, and one pretrain


def run_local(
    config: RunConfig,
    *,
    data_root: str | Path,
    out: Path,
    registry: str = "",
    dry_run: bool = False,
    takes_up: Path | None = None,
    rules: Mapping[str, float] | None = None,
) -> Path | None:
    """Run a pipeline under ``kfp.local`` and leave its results in ``out``.

    A run that was stopped goes on after its last finished task when it is started again with the same arguments.

    Args:
        config: what to run.
        data_root: folder that holds the data sets, in folders named as published, or its address, see
            :func:`radtransfer.datasets.fetch.located`.
        out: folder for the results: new, empty, or of an unfinished run of the same configuration, data and code.
        registry: folder or ``s3://BUCKET/PREFIX`` of the model registry to enter the model into; empty: none.
        dry_run: look, say what would be done and about how long it takes, and leave nothing.
        takes_up: folder ``pretrained`` of a run beside this one, which pre-trained the models that this run would
            pre-train. Unlike ``pretrained_models`` it is no part of the configuration, with which this run could be
            made alone.
        rules: margin and floor of the gate; given, the pipeline is ``retrain``, which leaves a ``decision`` too.

    Returns:
        Path of the report; None of a dry run.

    Raises:
        RadtransferError: something is amiss with the arguments (found before anything is computed or written), or a
            task failed.
    """
    with located(data_root, (config.target_path, config.source_path)) as place:
        return _run(config, place, out.absolute(), registry, dry_run, takes_up, rules or {})


def _run(
    config: RunConfig,
    place: Located,
    out: Path,
    registry: str,
    dry_run: bool,
    takes_up: Path | None,
    rules: Mapping[str, float],
) -> Path | None:
    started = time.time()
    for name in (config.target_path, config.source_path, *([config.external["path"]] if config.external else [])):
        if out.resolve().is_relative_to((place.root / name).resolve()):
            raise RadtransferError(
                f"--out {out}: lies inside the data set {name!r}, which the results would change; name a folder "
                "outside of it"
            )
    request, images = requested(config, place, registry, takes_up, rules)
    resumed = outfolder.claim(out, request)
    if not resumed or dry_run:
        # In a process of its own: it needs PyTorch, which would stay in memory for the whole run.
        show(config, apart(plan, config, *images))
    if dry_run:
        return None
    if registry:
        Registry.open(registry, write=True)  # now rather than when all is computed
    with outfolder.locked(out, request) as work:
        serial = SERIAL_TASKS + (RETRAIN_TASKS if rules else 0)
        watch = Watch(work, serial + TASKS_PER_BACKBONE * len(config.backbones))
        begun = time.time()
        _execute(work, out / "run.log", config.threads, watch)
        ended = time.time()
        if rules and not any(event["step"] == "gate" for event in watch.ends.values()):
            raise RadtransferError(
                f"{registry}: a model that this run would make again was decided on while it began; start it again"
            )
        outfolder.collect(out, watch.ends)
        chosen = config.model_dump(mode="json")
        (out / "config.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False), encoding="utf-8")
        spans = [[event["started"], event["time"]] for event in watch.ends.values()]
        tasks = [_cost(name, event) for name, event in sorted(watch.ends.items(), key=lambda item: item[1]["started"])]
        write_json(
            out / outfolder.FINISHED,
            {
                "schema": 1,
                "config": chosen,
                "takes_up": os.path.relpath(takes_up, out) if takes_up else "",
                "data_root": place.pinned,
                "data": place.data,
                **{key: request["identity"][key] for key in ("data_version", "code_version")},
                "packages": {name: metadata.version(name) for name in PACKAGES},
                "python": platform.python_version(),
                "platform": platform.platform(),
                "resumed": resumed,
                "started": started,
                # Of a run that was taken up: this session, and what earlier ones spent on tasks that they finished.
                "wall_seconds": round(time.time() - started + _covered(spans, 0, started), 3),
                "peak_mib": max(round(watch.peak_mib, 1), *(task["peak_mib"] for task in tasks)),
                "tasks": tasks,
                "orchestration": overhead(begun, ended, watch.ends.values()),
            },
        )
    shutil.rmtree(out / outfolder.WORK, ignore_errors=True)
    _summary(out)
    return out / "report.html"


def overhead(begun: float, ended: float, tasks: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What the orchestration cost: the time in which no step was at work.

    Args:
        begun: start of the pipeline run (of this session, if the run was taken up), seconds since the epoch.
        ended: its end.
        tasks: events that tasks ended with: ``entered`` (the task's own code began, imports first) and ``inside``
            (its call into the library began and ended). Tasks may overlap.

    Returns:
        ``wall_seconds`` of the pipeline run; ``inside_steps_seconds``, in which at least one call into the library was
        under way; ``overhead_seconds``, the rest, and its share of the wall time, ``overhead_share``;
        ``of_which_imports_seconds``, the part of it in which a task was importing what its step needs (PyTorch), which
        a step costs without any orchestrator too.
    """
    tasks = list(tasks)
    wall = ended - begun
    inside = _covered([task["inside"] for task in tasks], begun, ended)
    with_imports = _covered([[task["entered"], task["inside"][1]] for task in tasks], begun, ended)
    return {
        "wall_seconds": round(wall, 3),
        "inside_steps_seconds": round(inside, 3),
        "overhead_seconds": round(wall - inside, 3),
        "overhead_share": round((wall - inside) / wall, 4) if wall > 0 else 0.0,
        "of_which_imports_seconds": round(with_imports - inside, 3),
    }


def _covered(intervals: list[list[float]], begun: float, ended: float) -> float:
    """Length of the union of intervals, within [begun, ended]."""
    covered, reached = 0.0, begun
    for interval in sorted(intervals):
        first, last = max(interval[0], reached), min(interval[1], ended)
        if last > first:
            covered += last - first
            reached = last
    return covered


def requested(
    config: RunConfig,
    place: Located,
    registry: str,
    takes_up: Path | None = None,
    rules: Mapping[str, float] | None = None,
) -> tuple[dict[str, Any], list[int]]:
    """All that a run depends on, and how many images it has of target and source; none is opened."""
    from radtransfer.preprocess.inherit import Inherited
    from radtransfer.preprocess.selection import Asked, of_part, select
    from radtransfer.training.reuse import find

    target = Asked(config.target_layout, config.target_path, config.target_table)
    source = Asked(config.source_layout, config.source_path, config.source_table)
    sides = select(place.root, target, config.target_part, source, config.source_parts)
    versions = [_version(place, config.target_path, config.source_path)]
    if config.external:
        external = ExternalSet.of(config.external, "external")
        with located(unpinned(place.pinned), (external.path,)) as elsewhere:
            of_part("external", elsewhere.root, Asked(external.layout, external.path, external.table), external.part)
            versions.append(_version(elsewhere, external.path))
    submission = {
        "data_root": place.pinned,
        "data_version": "/".join(versions),
        "code_version": f"{code_version()}/{_graph_version()}",
        "registry": at(registry).name if registry else "",
    }
    settings = config.model_dump(mode="json")
    arguments = {key: value for key, value in settings.items() if key not in NOT_PARAMETERS}
    identity = {key: value for key, value in settings.items() if key != "budget_minutes"} | submission
    if config.previous_splits:
        Inherited.read(place.root, config.previous_splits)
        if Reference.parse(config.previous_splits) is None:  # a version never changes
            identity["previous_splits_sha256"] = file_sha256(place.root / config.previous_splits)
    if takes_up:
        arguments["pretrained_models"] = str(takes_up)
    if arguments["pretrained_models"]:
        pretraining = config.in_domain_init, config.pretrain_task
        with referred(arguments["pretrained_models"], PRETRAINED) as folder:
            models = {name: find(folder, name, *pretraining, boxes=config.pretrain_boxes) for name in config.backbones}
        identity["pretrained_digests"] = {name: model.digest for name, model in models.items()}
    given = dict(rules or {})
    request = {
        "pipeline": "retrain" if rules else config.pipeline,
        "arguments": arguments | submission | given,
        "identity": identity | given,
    }
    return request, [min(len(side.records), config.max_images or len(side.records)) for side in sides]


def _version(place: Located, *folders: str) -> str:
    """Digest of the data sets: of their content, or of names, sizes and times of the files of a local folder."""
    if "digest" in place.data:
        return str(place.data["digest"])
    digest = hashlib.sha256()
    for folder in sorted({*folders}):
        for path in sorted((place.root / folder).rglob("*")):
            if path.is_file():
                status = path.stat()
                digest.update(f"{path.relative_to(place.root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _graph_version() -> str:
    """Digest of the pipelines and components, which the library's own version does not cover."""
    import radtransfer_components

    digest = hashlib.sha256()
    for package in (Path(__file__).parent, Path(str(radtransfer_components.__file__)).parent):
        for path in sorted(package.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _execute(work: Path, log: Path, threads: int, watch: Watch) -> None:
    """Run the runner to its end, show what its tasks say, and leave no process behind.

    Raises:
        RadtransferError: a task failed.
    """
    scratch = tempfile.TemporaryDirectory(prefix="radtransfer-", ignore_cleanup_errors=True)
    environment = os.environ | {
        "RADTRANSFER_WATCH": str(work),
        "TMPDIR": scratch.name,  # kfp.local leaves a folder there for every task
        "PYTHONWARNINGS": "ignore::FutureWarning",
        # Sums depend on how many threads share them: as many on any machine.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",  # two tasks at once share the cores: a thread that waits leaves its core
    }
    command = [sys.executable, "-m", "radtransfer_pipelines.runner", str(work)]
    with scratch, log.open("ab") as stream, watch, _sigterm_interrupts():
        runner = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the runner of ours
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while runner.poll() is None:
                watch.poll()
                time.sleep(0.1)
            watch.poll()
        finally:
            _end(runner)
    again = "start the same command again to go on after the last finished task"
    if watch.error is not None and watch.error["expected"]:
        raise RadtransferError(f"{watch.error['task']}: {watch.error['message']}")
    if watch.error is not None:
        name = watch.error["task"]
        raise RadtransferError(f"{name}: {watch.error['message']} (log: {work / 'logs' / name}.log); {again}")
    if runner.returncode != 0 and watch.running:
        raise RadtransferError(
            f"{next(iter(watch.running))}: was killed from outside, memory may have run out; {again}"
        )
    if runner.returncode != 0:
        raise RadtransferError(f"the local pipeline runner ended with code {runner.returncode} (log: {log}); {again}")


def _end(runner: subprocess.Popen[bytes]) -> None:
    """End the runner and all its tasks, if any are left; a training is given the time for a last checkpoint."""
    try:
        os.killpg(runner.pid, signal.SIGTERM)
        runner.wait()
        for _ in range(10 * LAST_WORDS_SECONDS):
            os.killpg(runner.pid, 0)
            time.sleep(0.1)
        os.killpg(runner.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        runner.wait()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cost(name: str, event: Mapping[str, Any]) -> dict[str, Any]:
    begun, ended = event["inside"]
    model = event["outputs"].get("model")
    trained = {"processes": read_json(Path(model) / "model.json")["content"].get("processes", 1)} if model else {}
    return {
        "task": name,
        "step": event["step"],
        "started": round(event["started"], 3),
        "seconds": round(event["time"] - event["started"], 3),
        "start_up_seconds": round(begun - event["started"], 3),
        "step_seconds": round(ended - begun, 3),
        "peak_mib": event["peak_mib"],
        **trained,
    }


def _summary(out: Path) -> None:
    """Print what came out, the report's path last."""
    rows = {row["id"]: row for row in read_json(out / "metrics.json")["results"]}
    content = read_json(out / "evaluation" / "evaluation.json")["content"]
    spent = read_json(out / outfolder.FINISHED)
    table = Table(title="On the test images, 95 % intervals")
    for heading in ("TL source", "features", "classifier", "AUROC", "kappa"):
        table.add_column(heading, no_wrap=True)
    for tl_source in TL_SOURCES:
        for choice in ("fused", "single"):
            row = rows[content["choices"][tl_source][choice]]
            figures = [_figure(row[metric]) for metric in ("auroc", "kappa")]
            table.add_row(tl_source, row["features"], row["classifier"], *figures)
    said = Console(width=max(console.width, 120), highlight=False)
    said.print(table)
    said.print(content["answer"]["text"], markup=False)
    chosen = rows[content["selected"]]
    said.print(f"selected by validation: {chosen['id']}, AUROC {_figure(chosen['auroc'])}", markup=False)
    cost = spent["orchestration"]
    said.print(
        f"{spent['wall_seconds'] / 60:.1f} minutes, at most {spent['peak_mib']:.0f} MiB, "
        f"orchestration {cost['overhead_seconds']:.0f} s ({cost['overhead_share']:.0%}), "
        f"of which imports {cost['of_which_imports_seconds']:.0f} s"
    )
    print(out / "report.html")


def _figure(value: Mapping[str, float | None]) -> str:
    numbers = [value["value"], value["low"], value["high"]]
    middle, low, high = ("-" if number is None else f"{number:.3f}" for number in numbers)
    return f"{middle} ({low} to {high})"
