"""What a training leaves from time to time, so that one that is killed goes on where it was.

A checkpoint is one safetensors file, ``<steps>-<sha256>.safetensors``, whose header says the rest in JSON. The digest
in its name tells a damaged one; the folder's name is a digest of all that the weights depend on, so that a training
finds its own alone. Two are kept, none of a training that has ended well. They lie in the cache
(:mod:`radtransfer.cache`), or below an ``s3://`` address, where a pod finds what the one before it left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radtransfer.artifacts import file_sha256
from radtransfer.cache import CHECKPOINTS, cache, discard, held
from radtransfer.errors import RadtransferError
from radtransfer.provenance import code_version
from radtransfer.storage import Bucket, address

KEPT = 2
ASKED_TO_END = 128 + signal.SIGTERM
"""Exit code of a training that was asked to end."""
_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")
_SAID = "said"


class Resumable(Protocol):
    """What is under way, as far as a checkpoint is concerned."""

    def state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        """Steps done, and all that the next one and the outcome depend on: tensors, and JSON values."""

    def restore(self, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError, KeyError, TypeError: it is not one of this training; nothing was changed.
        """


class Checkpoints:
    """Those of one training.

    Args:
        folder: where they are written.
        remote: bucket and prefix where they are kept, if not in the folder.
        minutes: between two; by itself none is due.
        ending: set when the process is asked to end: it does so after a last checkpoint.

    Attributes:
        folder, remote, minutes: as given.
    """

    def __init__(
        self,
        folder: Path,
        remote: tuple[Bucket, str] | None = None,
        minutes: float = math.inf,
        ending: threading.Event | None = None,
    ) -> None:
        self.folder, self.remote = folder, remote
        self.minutes = minutes
        self._ending = ending or threading.Event()
        self.reset()

    def offer(self, training: Resumable) -> None:
        """Leave a checkpoint if it is time.

        Raises:
            SystemExit: this process was asked to end.
        """
        due, ending = self.wanted()
        if due or ending:
            self.save(training)
        if ending:
            print("training: asked to end; the same again goes on from here", file=sys.stderr, flush=True)
            sys.exit(ASKED_TO_END)

    def wanted(self) -> tuple[bool, bool]:
        """Whether it is time for one, and whether the process was asked to end."""
        return time.monotonic() - self._last >= 60 * self.minutes, self._ending.is_set()

    def reset(self) -> None:
        """Count the minutes from now."""
        self._last = time.monotonic()

    def save(self, training: Resumable) -> None:
        """Leave a checkpoint. What keeps it from being written is warned of: the one before it is still there.

        Numbers that are not finite are not written over those that are.
        """
        steps, tensors, said = training.state()
        odd = [name for name, each in tensors.items() if each.is_floating_point() and not each.isfinite().all()]
        if odd:
            _warn(f"no checkpoint after step {steps} ({odd[0]} is not finite)")
            return
        partial = self.folder / f".{os.getpid()}.partial"
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {_SAID: json.dumps(said)}
            )
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            final = self.folder / f"{steps:08d}-{file_sha256(partial)}.safetensors"
            partial.rename(final)
            if self.remote:
                bucket, prefix = self.remote
                bucket.put(prefix + final.name, final)
            self._thin()
        except (OSError, SafetensorError, RadtransferError) as error:
            _warn(f"no checkpoint after step {steps} ({error}); it goes on without")
        finally:
            partial.unlink(missing_ok=True)
            self.reset()

    def resume(self, training: Resumable) -> str | None:
        """Bring a training to the newest sound checkpoint of it, if there is one, and return that one's name."""
        for name in sorted(self._names(), reverse=True):
            try:
                tensors, said = self.read(name)
                training.restore(tensors, said)
            except (OSError, SafetensorError, RadtransferError, ValueError, KeyError, TypeError) as error:
                _warn(f"checkpoint {name} is passed over ({type(error).__name__}: {error})")
            else:
                print(f"training: goes on after step {int(name[:8])}", file=sys.stderr, flush=True)
                return name
        return None

    def remove(self) -> None:
        """Remove all of them."""
        try:
            self._thin(0)
        except (OSError, RadtransferError) as error:
            _warn(f"old checkpoints are left ({error})")

    def _names(self) -> list[str]:
        """Names of the checkpoints that there are."""
        names = {path.name for path in self.folder.iterdir()}
        if self.remote:
            bucket, prefix = self.remote
            names |= {each.key.removeprefix(prefix) for each in bucket.list(prefix)}
        return [name for name in names if _NAME.fullmatch(name)]

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of a checkpoint.

        Raises:
            OSError, SafetensorError, RadtransferError, ValueError: it cannot be had, or is damaged.
        """
        path = self.folder / name
        if self.remote and not path.exists():
            bucket, prefix = self.remote
            bucket.get(prefix + name, path)
        if file_sha256(path) != name[9:73]:
            raise ValueError("damaged, its digest is another")
        with safe_open(path, "pt") as opened:
            said = json.loads(opened.metadata()[_SAID])
            return {key: opened.get_tensor(key) for key in opened.keys()}, said  # noqa: SIM118 (not a mapping)

    def _thin(self, keep: int = KEPT) -> None:
        """Remove all but the newest."""
        for name in sorted(self._names(), reverse=True)[keep:]:
            (self.folder / name).unlink(missing_ok=True)
            if self.remote:
                bucket, prefix = self.remote
                bucket.delete(prefix + name)


@contextmanager
def kept(identity: Mapping[str, Any], place: str, minutes: float) -> Iterator[Callable[[str], Checkpoints]]:
    """Checkpoints of a training in phases: kept when the block raises or the process is killed, else removed.

    While the block runs, SIGTERM leaves a last checkpoint before it ends the process.

    Args:
        identity: all that the weights depend on but the code, JSON values.
        place: a folder, or s3://BUCKET/PREFIX; empty: the cache.
        minutes: between two.

    Yields:
        ``of(phase)``, the checkpoints of a phase.
    """
    versions = [code_version(), *map(metadata.version, ("torch", "timm"))]
    key = hashlib.sha256(json.dumps([versions, identity], sort_keys=True).encode()).hexdigest()[:32]
    where = address(place) if place else None
    phases: list[Checkpoints] = []
    ending = threading.Event()
    with sigterm_sets(ending), ExitStack() as stack:
        held_folder = None if isinstance(where, tuple) else _held(stack, where, key)
        folder = held_folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoints-")))

        def of(phase: str) -> Checkpoints:
            (folder / phase).mkdir(exist_ok=True)
            remote = None
            if isinstance(where, tuple):
                bucket, prefix = where
                remote = Bucket(bucket), "/".join(filter(None, (prefix, key, phase))) + "/"
            phases.append(Checkpoints(folder / phase, remote, minutes, ending))
            return phases[-1]

        yield of
        for each in phases:
            each.remove()
    if held_folder:
        discard(held_folder)


def _held(stack: ExitStack, root: Path | None, key: str) -> Path | None:
    """The folder, in the cache if nowhere else, made and held; None, with a warning, where that cannot be."""
    try:
        place = (root or cache() / CHECKPOINTS) / key
        stack.enter_context(held(place, fcntl.LOCK_EX | fcntl.LOCK_NB))
        place.mkdir(mode=0o700, exist_ok=True)
    except BlockingIOError:
        _warn("another process trains just this network: no checkpoints of this one")
    except (OSError, RuntimeError) as error:  # not to be written, or no home folder to lie in
        _warn(f"no checkpoints will outlast this process ({error})")
    else:
        return place
    return None


@contextmanager
def sigterm_sets(ending: threading.Event) -> Iterator[None]:
    """While the block runs, SIGTERM sets this and does nothing else."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ending.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warn(text: str) -> None:
    print(f"training: warning: {text}", file=sys.stderr, flush=True)
