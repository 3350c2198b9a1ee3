"""Following a local run: what its tasks say of themselves, shown as it comes, and the memory that it holds."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from radtransfer.progress import console

PROGRESS = re.compile(r": \d+/\d+, about ")
MEMORY_EVERY = 1.0  # s


def resident_mib() -> float:
    """Memory that this process and all its descendants hold at the moment, MiB.

    A page that several share counts once (Linux, proportional set size); elsewhere only what is a process's own.
    """
    this = psutil.Process()
    held = 0
    for process in (this, *this.children(recursive=True)):
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended meanwhile
        held += getattr(memory, "pss", memory.uss)
    return float(held) / 2**20


class Watch:
    """Reads the events of a run and shows where it stands.

    Attributes:
        ends: by task, the event that it ended with.
        running: by task, the event that it began with.
        error: the first failure of this session, if any.
        peak_mib: the most memory that all processes of the run held at once, in samples taken every second.
    """

    def __init__(self, work: Path, total: int) -> None:
        self.ends: dict[str, dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.error: dict[str, Any] | None = None
        self.peak_mib = 0.0
        self._measured = 0.0
        self._work = work
        self._total = total
        self._seen = 0
        self._logs: dict[str, int] = {}
        for event in self._read():
            self._take(event)
        self.running, self.error = {}, None  # what an earlier session left unfinished
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Watch:
        if self.ends:
            console.print(f"taking up an unfinished run: {len(self.ends)} of {self._total} tasks are done")
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def poll(self) -> None:
        """Take in what is new, and show it."""
        if time.monotonic() - self._measured >= MEMORY_EVERY:
            self.peak_mib = max(self.peak_mib, resident_mib())
            self._measured = time.monotonic()
        for event in self._read():
            self._take(event)
            name = event["task"]
            if event["event"] == "end":
                seconds, peak = event["time"] - event["started"], event["peak_mib"]
                console.print(
                    escape(f"{len(self.ends)}/{self._total} {name}: {seconds:.1f} s, {peak:.0f} MiB"), highlight=False
                )
            elif event["event"] == "error" and self.running:  # what failed is said once, at the end
                left = ", ".join(self.running)
                console.print(
                    f"[red]{escape(name)} failed;[/red] "
                    + escape(f"letting {left} finish, so that a new start need not repeat it; Ctrl-C stops")
                )
        lines = {name: self._progress(name) for name in self.running}
        if self._live:
            now = time.time()
            shown = [Text(f"{len(self.ends)}/{self._total} tasks done", style="bold")]
            for name, event in self.running.items():
                text = f"  {name} {now - event['time']:.0f} s  {lines[name]}"
                shown.append(Text(text, no_wrap=True, overflow="ellipsis"))
            self._live.update(Group(*shown))

    def _read(self) -> list[dict[str, Any]]:
        path = self._work / "events.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            stream.seek(self._seen)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._seen += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _take(self, event: dict[str, Any]) -> None:
        name = event["task"]
        if event["event"] == "start":
            self.running[name] = event
            self.ends.pop(name, None)
            log = self._work / "logs" / f"{name}.log"
            self._logs[name] = log.stat().st_size if log.exists() else 0
            return
        self.running.pop(name, None)
        if event["event"] == "end":
            self.ends[name] = event
        else:
            self.error = self.error or event

    def _progress(self, name: str) -> str:
        """The last line of progress in a task's log; off a terminal, new ones are printed."""
        log = self._work / "logs" / f"{name}.log"
        if not log.exists():
            return ""
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 4096) if self._live else self._logs.get(name, 0))
            data = stream.read()
        if not self._live:
            self._logs[name] = self._logs.get(name, 0) + data.rfind(b"\n") + 1
            data = data[: data.rfind(b"\n") + 1]
        found = [line for line in data.decode("utf-8", "replace").splitlines() if PROGRESS.search(line)]
        if not self._live:
            for line in found:
                console.print(escape(f"  {name}: {line}"), highlight=False, soft_wrap=True)
        return found[-1] if found else ""
