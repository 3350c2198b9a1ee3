"""Progress of long work: a bar with an estimate on a terminal, a line now and then elsewhere (logs, KFP)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
LOG_EVERY_SECONDS = 15.0
BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """A curve in a line of text, from its lowest value to its highest."""
    low, high = min(values), max(values)
    steps = len(BARS) - 1
    return "".join(BARS[round((value - low) / (high - low) * steps) if high > low else 0] for value in values)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield ``items`` and show how far it got.

    Args:
        items: anything iterable.
        what: what is being done, e.g. ``"pretrain tf_efficientnet_lite0"``.
        total: number of items expected.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total=total, description=what)
        return
    started = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LOG_EVERY_SECONDS and done < total:
            shown = now
            left = (now - started) / done * (total - done)
            print(f"{what}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
