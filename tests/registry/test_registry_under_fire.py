"""Many writers at once, some killed, the server killed too: nothing acknowledged is lost, and nothing is half there.

Eight processes enter 25 bundles each and promote every fifth. Three are killed at moments drawn with seed 7, and
others go on with the first bundle that was not acknowledged; the server is killed once and started again. What fails is
tried again. All that is checked must hold in every run, whatever the moments are.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from radtransfer import storage
from radtransfer.errors import RadtransferError
from radtransfer.registry import ledger
from radtransfer.registry.places import Folder, Prefix
from radtransfer.registry.retention import DAY, collect
from radtransfer.registry.versions import Registry
from tests.registry.tiny import entered
from tests.weed import Weed

pytestmark = pytest.mark.slow
WRITERS, EACH, KILLED, SECONDS = 8, 25, 3, 540
WRITER = """
import sys, time
from pathlib import Path
from radtransfer import storage
from radtransfer.errors import RadtransferError
from radtransfer.registry.champion import promote
from radtransfer.registry.entry import enter
from radtransfer.registry.versions import Registry
from tests.registry.tiny import tiny_bundle

storage.WAITS = (0.1, 0.3, 1.0, 2.0)
where, folder, writer, first, last = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]

def again(call):
    for _ in range(120):
        try:
            return call()
        except RadtransferError as error:
            if "is the champion already" in str(error):  # the answer to a first request got lost with the server
                return
            print(error, file=sys.stderr, flush=True)
            time.sleep(0.5)
    raise SystemExit("tried in vain")

for turn in range(int(first), int(last)):
    mark = f"{writer}-{turn}"
    bundle = tiny_bundle(folder / f"{mark}-{time.time_ns()}", mark, configuration={"mark": mark})
    number = again(lambda: enter(Registry.open(where, write=True), bundle, [])[0].number)
    print(f"entered {turn} {number}\\n", end="", flush=True)  # in one piece, also where output is not buffered
    if turn % 5 == 4:
        again(lambda: promote(Registry.open(where), "tiny", number, why=mark))
        print(f"promoted {turn} {number}\\n", end="", flush=True)
"""


@dataclass
class Writer:
    """One after another, the processes that enter the bundles of one writer."""

    name: int
    where: str
    folder: Path
    entered: dict[int, int] = field(default_factory=dict)
    promoted: list[int] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    killed: bool = False

    def run(self) -> None:
        while len(self.entered) < EACH:
            self.killed = False
            arguments = [self.where, str(self.folder), str(self.name), str(len(self.entered)), str(EACH)]
            command = [sys.executable, "-c", WRITER, *arguments]
            root = Path(__file__).resolve().parents[2]
            log = (self.folder / f"{self.name}.log").open("a")
            with (
                log,
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=root) as self.process,
            ):
                assert self.process.stdout is not None
                for line in self.process.stdout:
                    what, turn, number = line.split()
                    if what == "entered":
                        self.entered[int(turn)] = int(number)
                    else:
                        self.promoted.append(int(number))
            if self.process.returncode and not self.killed:
                return

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.killed = True
            self.process.kill()


def rehearse(where: str, folder: Path, accident: Callable[[], None]) -> tuple[list[Writer], list[str]]:
    """Let them write; ``accident`` happens at a third. Also what was amiss whenever the champion was looked at."""
    writers = [Writer(name, where, folder) for name in range(WRITERS)]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    over, amiss = threading.Event(), []

    def watch() -> None:
        usual = ("has no champion", "there is no model", "the storage failed")
        while not over.wait(0.2):
            try:
                registry = Registry.open(where)
                registry.verify(registry.version("tiny", "champion"))
            except RadtransferError as error:
                if not any(text in str(error) for text in usual):
                    amiss.append(str(error))

    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    draw = random.Random(7)
    moments = sorted(draw.sample(range(20, WRITERS * EACH - 40), KILLED))
    deadline = time.monotonic() + SECONDS
    happened = False
    while any(thread.is_alive() for thread in threads):
        done = sum(len(writer.entered) for writer in writers)
        if not happened and done >= WRITERS * EACH // 3:
            happened = True
            accident()
        if moments and done >= moments[0]:
            moments.pop(0)
            time.sleep(draw.uniform(0, 0.3))
            draw.choice([writer for writer in writers if len(writer.entered) < EACH]).kill()
        if time.monotonic() > deadline:
            for writer in writers:
                writer.kill()
            pytest.fail(f"only {done} of {WRITERS * EACH} after {SECONDS} s")
        time.sleep(0.05)
    over.set()
    watcher.join()
    assert happened and not moments
    return writers, amiss


def check(where: str, writers: list[Writer], amiss: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not amiss, "the champion was always a whole version"
    logs = "\n".join(path.read_text()[-2000:] for path in tmp_path.rglob("*.log") if path.name != "log")
    assert [len(writer.entered) for writer in writers] == [EACH] * WRITERS, logs
    registry = Registry.open(where)
    versions = registry.versions("tiny")
    assert [version.number for version in versions] == list(range(1, WRITERS * EACH + 1)), "in order, without gaps"
    marks = {version.number: version.configuration["mark"] for version in versions}
    assert len(set(marks.values())) == len(marks), "what was entered again after a lost answer is no second version"
    for writer in writers:
        numbers = [writer.entered[turn] for turn in range(EACH)]
        assert numbers == sorted(numbers)
        assert [marks[number] for number in numbers] == [f"{writer.name}-{turn}" for turn in range(EACH)]
    for version in versions:
        registry.verify(version)
    book = ledger.read(registry.place, "tiny")[0]
    assert len({decision.writer for decision in book.history}) == len(book.history) == book.counter
    assert {number for writer in writers for number in writer.promoted} <= {each.version for each in book.history}
    assert book.champion == book.history[-1].version
    now = type(registry.place).now
    monkeypatch.setattr(type(registry.place), "now", lambda self: now(self) + 2 * DAY)
    judged = collect(Registry.open(where, write=True), keep=WRITERS * EACH)
    assert all(each.state == "kept" for each in judged if each.number)
    folders = {"/".join(each.key.split("/")[:3]) + "/" for each in registry.place.list("files/")}
    assert folders == {version.folder for version in versions}, "what dead writers left is gone, and nothing else"
    for version in (versions[0], versions[-1]):
        registry.verify(version)


def test_in_a_folder_nothing_is_lost_and_nothing_is_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(tmp_path / "registry")
    writers, amiss = rehearse(where, tmp_path, lambda: None)
    assert isinstance(Registry.open(where).place, Folder)
    check(where, writers, amiss, monkeypatch, tmp_path)


@pytest.mark.timeout(900)
def test_in_object_storage_nothing_is_lost_and_nothing_is_half_there(
    server: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accident() -> None:
        server.kill()
        time.sleep(1)
        server.start()

    where = "s3://radtransfer/team/registry"
    writers, amiss = rehearse(where, tmp_path, accident)
    assert isinstance(Registry.open(where).place, Prefix)
    check(where, writers, amiss, monkeypatch, tmp_path)


def test_who_may_only_read_is_told_so(server: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "s3://radtransfer/registry"
    entered(Registry.open(where, write=True), tmp_path, "a")
    for key, value in server.reader.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(storage, "WAITS", (0.1,))
    registry = Registry.open(where)
    registry.verify(registry.version("tiny", "newest"))
    for act in (lambda: Registry.open(where, write=True), lambda: entered(registry, tmp_path / "more", "b")):
        with pytest.raises(
            RadtransferError, match=r"s3://radtransfer/registry/.*: access denied; .* to write and delete"
        ):
            act()
    assert "AWS_ACCESS_KEY_ID" in os.environ and len(registry.versions("tiny")) == 1
