"""Calls in a process of their own, whose memory is given back when it ends, and whose peak is its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from radtransfer.errors import RadtransferError

T = TypeVar("T")


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own; Ctrl-C is for this one, which ends the other at once.

    Raises:
        RadtransferError: the process was killed; or of the function.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other inherits it
        future = pool.submit(function, *arguments)
        signal.signal(signal.SIGINT, before)
        try:
            return future.result()
        except BrokenProcessPool:
            raise RadtransferError(
                "a process that tries networks was killed, memory may have run out; lower batch_size or input_size, or "
                "give it more memory"
            ) from None
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()
            raise
