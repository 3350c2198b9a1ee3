"""The hook that tells what became of a retraining: one small JSON object, posted to a URL of the environment.

Nothing of an image is in it: no name of a file, a patient or a leakage group, and no text that may hold one.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

VARIABLE = "RADTRANSFER_WEBHOOK"
"""Variable of the environment with the URL, which may hold a token and is never shown."""
Event = Literal["promoted", "declined", "unchanged", "failed"]
EVENTS: tuple[Event, ...] = get_args(Event)
TIMEOUT = 10.0
"""Seconds."""
WAITS = (1.0, 5.0)
"""Seconds before each further attempt."""
AGAIN = (408, 425, 429)
"""Statuses beside 5xx after which it is tried again."""


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would make a GET of it and might lead elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def notify(event: Event, *, model: str, why: str, run: str, decision: Mapping[str, Any] | None = None) -> bool:
    """Tell, if :data:`VARIABLE` names a URL; a hook that cannot be reached is said on standard error, and no error.

    The body is ``{"event", "model", "versions", "why", "figures", "run"}``: ``versions`` of challenger and champion
    (null: none), ``figures`` the metrics of both and their differences, with intervals.

    Args:
        event: what happened.
        model: its name.
        why: a sentence without anything of an image in it.
        run: which run.
        decision: content of a ``decision.json``; its own sentence takes the place of ``why`` where two models were
            compared, since the reason for not comparing may name an image.

    Returns:
        Whether somebody was told.
    """
    url = os.environ.get(VARIABLE, "")
    if not url:
        return False
    said = json.dumps(_body(event, model, why, run, decision or {}), allow_nan=False).encode()
    parts = urlsplit(url)
    host = parts.hostname or "?"
    problem = "" if parts.scheme in ("https", "http") and parts.hostname else f"{VARIABLE} is no URL of http or https"
    for wait in () if problem else (*WAITS, None):
        problem, again = _posted(url, said)
        if not problem:
            return True
        if not again or wait is None:
            break
        time.sleep(wait)
    print(
        f"radtransfer: WARNING: nobody was told that {model} was {event}: the webhook at {host} failed ({problem})",
        file=sys.stderr,
        flush=True,
    )
    return False


def _body(event: Event, model: str, why: str, run: str, decision: Mapping[str, Any]) -> dict[str, Any]:
    sides = {side: decision.get(side) or {} for side in ("challenger", "champion")}
    compared = decision.get("rule", "not comparable") != "not comparable"
    return {
        "event": event,
        "model": model,
        "versions": {side: its.get("version") for side, its in sides.items()},
        "why": decision["why"] if compared else why,
        "figures": {side: its.get("metrics", {}) for side, its in sides.items()}
        | {"differences": decision.get("differences", [])},
        "run": run,
    }


def _posted(url: str, body: bytes) -> tuple[str, bool]:
    """Why it was not taken (empty: it was), and whether to try again; nothing of the URL is in it."""
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310
        with urllib.request.build_opener(_Stays).open(request, timeout=TIMEOUT):
            return "", False
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}", error.code >= 500 or error.code in AGAIN
    except urllib.error.URLError as error:
        return type(error.reason).__name__, True
    except (OSError, ValueError, http.client.HTTPException) as error:  # a port that is none, a broken answer
        return type(error).__name__, isinstance(error, OSError)
