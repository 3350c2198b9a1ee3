"""Kill a training again and again, and see whether it ends as the one that was left alone.

    python -m benchmarks.kills [--kills 20] [--storage-kills 6] [--seed 0]

A tiny network is fine-tuned with a refit, with a checkpoint after every step: once undisturbed, then with its
checkpoints in a folder and once more with them in an S3 server of its own (SeaweedFS, see tests/weed.py). SIGKILL comes
after random steps, spread over both fits, half of the times as soon as a checkpoint is seen being written, else after
a random wait; of the kills with the S3 server each second one finds the server dead, too, which is started again for
the next. After each kill the training is started again in a new process, and after the last it is left to end.

Printed for each run: how it was killed, and after which step it had gone on. Exit code 1 unless weights, history and
the learning rate and loss of every step of every run are, to the last bit, those of the undisturbed training, and the
training was killed as often as asked for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from tests.training.test_checkpoints import ARGUMENTS, equal
from tests.training.test_steps import write_store
from tests.weed import KEYS, Weed

EPOCHS = 16
RATE = 3e-4
"""At which a late epoch is the best, so that the refit is long."""
LAST = 12
"""Steps before the end within which no kill is begun."""
CONTEXT = multiprocessing.get_context("forkserver")  # PyTorch is imported once, and never after a fork


def training(store: Path, place: str, out: Path, steps: Path, said: Path, environment: Mapping[str, str]) -> None:
    """In a process of its own: train, and write a line ``fit step rate loss`` for each step to a file."""
    from radtransfer import storage
    from radtransfer.training import loop
    from radtransfer.training.steps import finetune

    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o600), 2)
    os.environ.update(environment)
    storage.WAITS = (0.01,)  # type: ignore[assignment]
    learn, made, fits = loop.Training.learn, loop.Training.__init__, list[object]()

    def numbered(self: loop.Training, *arguments: Any) -> None:
        made(self, *arguments)
        fits.append(self)  # the first fit, then the refit

    def noted(self: loop.Training, loss: Any, share: float) -> None:
        learn(self, loss, share)
        lines.write(f"{len(fits)} {self.steps} {self.optimizer.param_groups[0]['lr'].hex()} {loss.item().hex()}\n")
        lines.flush()

    loop.Training.__init__, loop.Training.learn = numbered, noted  # type: ignore[method-assign, assignment]
    with steps.open("a") as lines:
        finetune(
            target_store=store, out=out, **(ARGUMENTS | {"epochs": EPOCHS, "learning_rate": RATE, "checkpoints": place})
        )


class Bench:
    """One training at a place for checkpoints, in as many processes as it takes.

    Args:
        folder: an empty one, for all that it leaves.
        store: to train on.
        place: of its checkpoints.
        environment: variables of its processes.
    """

    def __init__(self, folder: Path, store: Path, place: str, environment: Mapping[str, str]) -> None:
        folder.mkdir()
        (folder / "tmp").mkdir()
        self.folder, self.model = folder, folder / "model"
        self.runs = 0
        self._arguments = store, place
        self._environment = {**environment, "TMPDIR": str(folder / "tmp")}

    def start(self) -> BaseProcess:
        """Begin it, or go on with it."""
        self.runs += 1
        files = self.folder / f"steps{self.runs}", self.folder / f"said{self.runs}"
        process = CONTEXT.Process(target=training, args=(*self._arguments, self.model, *files, self._environment))
        process.start()
        return process

    def steps(self, run: int) -> list[str]:
        """Whole lines that a run has written, one a step; see :func:`training`."""
        path = self.folder / f"steps{run}"
        return re.findall(r"(?m)^(.*)\n", path.read_text()) if path.exists() else []

    def gone_on(self, run: int) -> str:
        """Where a run took the training up."""
        found = re.findall(r"goes on after step (\d+)", (self.folder / f"said{run}").read_text())
        fits = ("first fit", "refit")[: len(found)]
        return ", ".join(f"{fit} after step {step}" for fit, step in zip(fits, found, strict=True)) or "from the start"

    def writes(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.folder.glob("*/**/.*.partial"))

    def wait_for(self, steps: int, process: BaseProcess) -> None:
        """Until all runs together are so far and this one has taken a step, or until it has ended."""
        before = {_which(line) for run in range(1, self.runs) for line in self.steps(run)}
        while process.is_alive():
            taken = {_which(line) for line in self.steps(self.runs)}
            if taken and len(before | taken) >= steps:
                return
            time.sleep(0.002)

    def taken(self) -> list[str]:
        """The steps of all runs."""
        return [line for run in range(1, self.runs + 1) for line in self.steps(run)]

    def kill(self, process: BaseProcess, rng: np.random.Generator, in_writing: bool) -> str:
        """Kill it, and say how."""
        deadline = time.monotonic() + 5
        if in_writing:
            while process.is_alive() and not self.writes() and time.monotonic() < deadline:
                pass
        else:
            time.sleep(float(rng.uniform(0, 0.1)))
        seen = in_writing and self.writes()
        process.kill()
        process.join()
        return "while a checkpoint was written" if seen else "at a random moment"


def _which(line: str) -> tuple[str, ...]:
    """Fit and step of a line."""
    return tuple(line.split()[:2])


def disturbed(bench: Bench, moments: Sequence[int], rng: np.random.Generator, server: Weed | None) -> int:
    """Train with a kill at each of these steps, say how each run went, and return the number of kills."""
    for number, moment in enumerate(moments):
        dead = server is not None and number % 2 == 1
        process = bench.start()
        bench.wait_for(moment, process)
        if server and dead:
            server.kill()
            bench.wait_for(len({_which(line) for line in bench.taken()}) + 2, process)
        how = bench.kill(process, rng, in_writing=number % 4 > 1)
        if server and dead:
            server.start()
        if process.exitcode != -9:
            print(f"run {bench.runs}: ended with {process.exitcode} before it was killed")
            return number
        said = f"run {bench.runs}: {bench.gone_on(bench.runs)}, killed {how}"
        print(f"{said} {len(bench.steps(bench.runs))} steps later{', the S3 server dead' * dead}", flush=True)
    process = bench.start()
    process.join()
    print(f"run {bench.runs}: {bench.gone_on(bench.runs)}, ended with {process.exitcode}", flush=True)
    return len(moments)


def alike(bench: Bench, undisturbed: Bench) -> bool:
    """Whether a training is the undisturbed one to the last bit; says what is not."""
    expected = {_which(line): line for line in undisturbed.steps(1)}
    taken = bench.taken()
    odd = [line for line in taken if expected.get(_which(line)) != line]
    missing = expected.keys() - {_which(line) for line in taken}
    same = bench.model.exists() and equal(bench.model, undisturbed.model)
    print(
        f"{len(taken)} steps in {bench.runs} runs for {len(expected)}, {len(odd)} of them at another learning rate or "
        f"loss, {len(missing)} not taken; weights and history {'equal' if same else 'DIFFER'}"
    )
    return same and not odd and not missing


def main() -> None:
    """Train undisturbed and disturbed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--storage-kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    CONTEXT.set_forkserver_preload(["radtransfer.training.steps"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radtransfer-bench-")))
        store = write_store(folder / "store", "target")
        undisturbed = Bench(folder / "undisturbed", store, str(folder / "undisturbed" / "left"), {})
        undisturbed.start().join()
        print(f"undisturbed: {len(undisturbed.steps(1))} steps", flush=True)
        good = True
        for place, kills in {"folder": given.kills, "S3 server": given.storage_kills}.items():
            if not kills:
                continue
            print(f"checkpoints in a {place}" if place == "folder" else f"checkpoints in an {place}", flush=True)
            server, environment, where = None, {}, str(folder / place / "left")
            if place == "S3 server":
                (folder / "weed").mkdir()
                server = Weed(folder / "weed")
                stack.callback(server.kill)
                environment = KEYS | {"AWS_ENDPOINT_URL_S3": server.url}
                where = "s3://radtransfer/training"
            bench = Bench(folder / place, store, where, environment)
            moments = np.sort(rng.integers(1, len(undisturbed.steps(1)) - LAST, kills)).tolist()
            killed = disturbed(bench, moments, rng, server)
            good = alike(bench, undisturbed) and killed == kills and good
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
