"""The one exception that a user of the tool is meant to read, and the hint it gives for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RadtransferError(Exception):
    """Something that the user can put right.

    The message says what was wrong, where (file, row, value), what was expected and what to do. The command line
    prints it without a traceback and exits with code 2.
    """


def near(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: its near matches, else all that are known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
