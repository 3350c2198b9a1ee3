"""What passes between the steps: folders that say what they are.

Every artifact is a folder with one small JSON file, named after its kind, that holds the schema version, how it was
made (step, code version, settings, digests of its inputs), what it contains (shapes, units), the sha256 of every other
file in it, and a seal over all that. A consumer opens it with :func:`read`, which says clearly what does not fit.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import resource
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from radtransfer.errors import RadtransferError
from radtransfer.provenance import code_version

SCHEMA = 1
Kind = Literal[
    "image-store",
    "model",
    "features",
    "fused",
    "classifiers",
    "stress",
    "evaluation",
    "external",
    "explanations",
    "bundle",
    "drift",
    "decision",
]
DESCRIPTION: dict[Kind, str] = {
    "image-store": "dataset.json",
    "model": "model.json",
    "features": "features.json",
    "fused": "fused.json",
    "classifiers": "classifiers.json",
    "stress": "stress.json",
    "evaluation": "evaluation.json",
    "external": "external.json",
    "explanations": "explanations.json",
    "bundle": "bundle.json",
    "drift": "drift.json",
    "decision": "decision.json",
}


@dataclass(frozen=True)
class Artifact:
    """An artifact that was read and found sound.

    Attributes:
        path: its folder.
        kind: one of :data:`Kind`.
        digest: sha256 over the names and contents of its files and its content description; equal content has an
            equal digest, whatever the time, the machine or the path it was made at.
        content: what the writer said of it (shapes, units, names).
        made: how it was made: ``step``, ``version``, ``settings``, ``inputs`` (name to digest).
        cost: ``seconds`` (wall) and ``peak_mib`` (resident) of the step that made it.
    """

    path: Path
    kind: Kind
    digest: str
    content: dict[str, Any]
    made: dict[str, Any]
    cost: dict[str, float]


SELECTION = "selection_"


def fits(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Prefixes of the files that a model, features or fused features have once for each fit.

    The files without a prefix are what predicts. Where the networks were refitted on the train and validation splits
    together, those with :data:`SELECTION` are of the fit on the train split alone, by which all choices are made.
    """
    return ("", SELECTION) if content.get("refit") else ("",)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity are refused, since no JSON reader must accept them."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RadtransferError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RadtransferError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise RadtransferError(f"{path}: not valid JSON ({error}); make this artifact again") from None


def check_free(final: Path) -> None:
    """See that an artifact can be written here.

    Raises:
        RadtransferError: ``final`` exists and is not an empty folder.
    """
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise RadtransferError(f"{final}: already exists; name an output folder that does not exist yet")


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Fill a folder so that its final name never holds a half-filled one.

    Yields an empty folder beside ``final``. It is renamed to ``final`` when the block ends well, and removed when it
    raises; what a killed process left of it is removed by the next one.

    Raises:
        RadtransferError: ``final`` exists and is not an empty folder, another process is writing it, it cannot be
            written, or the disk is full.
    """
    with _alone(final) as staging:
        try:
            yield staging
            staging.rename(final)  # over an empty folder, too; in one step
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RadtransferError(
                    f"{final}: the disk is full ({os.strerror(error.errno)}), nothing was kept; make room or name an "
                    "output folder on another disk"
                ) from None
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _alone(final: Path) -> Iterator[Path]:
    """Hold the name of an artifact against other processes, and yield a new folder beside it."""
    if not final.name:
        raise RadtransferError(f"{final}: has no name of its own; name a new folder, e.g. {final / 'out'}")
    path = final.with_name(f".{final.name}.lock")
    partial = f".{final.name}.partial-"
    with ExitStack() as stack:
        try:
            with suppress(FileExistsError):  # a file in the way: what follows says that it is not a folder
                path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.open("ab"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except (BlockingIOError, FileNotFoundError):
                held = False
            if not held:  # in use, or removed by one that has ended since it was opened
                raise RadtransferError(
                    f"{final}: another process is writing it; wait for it to end, or name another output folder"
                )
            stack.callback(path.unlink, missing_ok=True)
            check_free(final)
            for left in path.parent.glob(f"{glob.escape(partial)}*"):
                shutil.rmtree(left, ignore_errors=True)
            staging = path.with_name(f"{partial}{uuid.uuid4().hex}")
            staging.mkdir()
        except OSError as error:
            raise RadtransferError(
                f"{final}: cannot be written ({error.strerror}); make room or name another output folder"
            ) from None
        yield staging


@contextmanager
def writing(
    final: Path,
    kind: Kind,
    *,
    step: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact] | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write an artifact so that its final name never holds a half-written one.

    Yields a staging folder beside ``final`` and a dictionary to be filled with the content description. When the
    block ends well, the description is written (with every file's sha256, wall seconds and peak memory) and the
    folder is renamed to ``final``; when it raises, the staging folder is removed.

    Args:
        final: where the artifact shall lie. An empty folder there is replaced (KFP makes one); anything else is an
            error.
        kind: kind of artifact.
        step: the step that makes it.
        settings: the step's settings, JSON values only.
        inputs: the artifacts it was made from.

    Raises:
        RadtransferError: as of :func:`staged`.
    """
    content: dict[str, Any] = {}
    started = time.monotonic()
    with staged(Path(final)) as staging:
        yield staging, content
        files = {name: file_sha256(staging / name) for name in _file_names(staging)}
        made = {
            "step": step,
            "version": code_version(),
            "settings": dict(settings),
            "inputs": {name: artifact.digest for name, artifact in (inputs or {}).items()},
        }
        cost = {"seconds": round(time.monotonic() - started, 3), "peak_mib": round(peak_mib(), 1)}
        description: dict[str, Any] = {"schema": SCHEMA, "kind": kind, "digest": _digest(kind, content, files)}
        description |= {"content": content, "made": made, "cost": cost, "files": files}
        write_json(staging / DESCRIPTION[kind], description | {"seal": _sha256(description)})


def read(path: Path, kind: Kind, *, verify: bool = False) -> Artifact:
    """Open an artifact.

    Args:
        path: its folder.
        kind: what it must be.
        verify: also hash every file and compare (for what came from elsewhere: bundles, downloaded artifacts).

    Raises:
        RadtransferError: not there, of another kind or schema, or (with ``verify``) tampered with.
    """
    path = Path(path)
    description_path = path / DESCRIPTION[kind]
    if not description_path.is_file():
        others = [other for other, name in DESCRIPTION.items() if (path / name).is_file()]
        found = f"found an artifact of kind {others[0]!r}" if others else "found none"
        raise RadtransferError(f"{path}: expected an artifact of kind {kind!r} ({DESCRIPTION[kind]}), {found}")
    data = read_json(description_path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or data.get("kind") != kind:
        raise RadtransferError(
            f"{description_path}: expected schema {SCHEMA} and kind {kind!r}; made by another version? Make it again"
        )
    for key, type_ in (("digest", str), ("content", dict), ("made", dict), ("cost", dict), ("files", dict)):
        if not isinstance(data.get(key), type_):
            raise RadtransferError(f"{description_path}: entry {key!r} is missing or odd; make this artifact again")
    files: dict[str, str] = data["files"]
    artifact = Artifact(path, kind, data["digest"], data["content"], data["made"], data["cost"])
    try:
        sound = artifact.digest == _digest(kind, artifact.content, files) and data.pop("seal", "") == _sha256(data)
    except ValueError:  # NaN or infinity, which json.loads accepts and no artifact has
        sound = False
    if not sound:
        raise RadtransferError(
            f"{description_path}: it does not match its digest and seal: it was changed by hand, or "
            "made by another version; make it again"
        )
    present = set(_file_names(path)) - {DESCRIPTION[kind]}
    if present != set(files):
        odd = sorted(present ^ set(files))[0]
        done = "was added since it was made; take it out" if odd in present else "is missing; get it again"
        raise RadtransferError(f"{path}: {odd} {done}")
    if verify:
        for name, expected in files.items():
            if file_sha256(path / name) != expected:
                raise RadtransferError(f"{path / name}: its sha256 is not the recorded one; the file was changed")
    return artifact


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _file_names(folder: Path) -> list[str]:
    """Relative POSIX names of all files below ``folder``; links are refused, since they may lead out of it; so are
    pipes and devices, which no reader expects.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise RadtransferError(f"{path}: links are not allowed in an artifact")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
        elif not path.is_dir():
            raise RadtransferError(f"{path}: neither file nor folder; an artifact holds nothing else")
    return names


def _digest(kind: str, content: Mapping[str, Any], files: Mapping[str, str]) -> str:
    return _sha256([SCHEMA, kind, content, files])


def _sha256(value: Any) -> str:
    """Of the one way to write ``value`` as JSON; NaN and infinity are refused."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
