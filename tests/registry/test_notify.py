"""The webhook: what it is told, what is tried again, and that its failure is heard and harms nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from radtransfer.registry import notify as module
from radtransfer.registry.notify import VARIABLE, notify

TOKEN = "secret-of-the-hook"
ESTIMATE = {"value": 0.8, "low": 0.7, "high": 0.9}
DECISION: dict[str, Any] = {
    "outcome": "promoted",
    "rule": "better",
    "why": "better: AUROC 0.9 against 0.8",
    "challenger": {"version": 3, "metrics": {"auroc": ESTIMATE}},
    "champion": {"version": 2, "metrics": {"auroc": ESTIMATE}},
    "differences": [{"metric": "auroc", "less": "champion", **ESTIMATE}],
    "test": {"images": 9},
}


class Hook:
    """A server that answers with these statuses in turn, and keeps what it was told."""

    def __init__(self) -> None:
        hook = self
        self.statuses: list[int] = []
        self.told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert TOKEN in self.path and self.headers["Content-Type"] == "application/json"
                hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.statuses.pop(0) if hook.statuses else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    made = Hook()
    monkeypatch.setenv(VARIABLE, made.url)
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    yield made
    made.server.shutdown()
    made.server.server_close()


def told(event: Any = "failed", **more: Any) -> bool:
    return notify(event, **({"model": "hand", "why": "failed in evaluate", "run": "runs/1"} | more))


def test_a_decision_is_told_with_its_figures(hook: Hook) -> None:
    assert told("promoted", decision=DECISION)
    assert hook.told == [
        {
            "event": "promoted",
            "model": "hand",
            "versions": {"challenger": 3, "champion": 2},
            "why": "better: AUROC 0.9 against 0.8",
            "figures": {"challenger": {"auroc": ESTIMATE}, "champion": {"auroc": ESTIMATE},
                        "differences": DECISION["differences"]},
            "run": "runs/1",
        }
    ]  # fmt: skip


def test_a_reason_that_may_name_an_image_stays_here(hook: Hook) -> None:
    unfair = DECISION | {"rule": "not comparable", "why": "has learnt from groups of doe-john.png", "champion": None}
    assert told("declined", decision=unfair, why="not comparable")
    assert told("unchanged", why="as before")
    assert "doe" not in json.dumps(hook.told) and [one["why"] for one in hook.told] == ["not comparable", "as before"]
    assert hook.told[1]["versions"] == {"challenger": None, "champion": None}


def test_what_may_pass_is_tried_again_and_no_failure_is_an_error_or_shows_the_token(
    hook: Hook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.statuses = [503, 429]
    assert told() and len(hook.told) == 3 and not capsys.readouterr().err
    for statuses, status, tries in (([500] * 5, 500, 3), ([404], 404, 1), ([302], 302, 1)):
        hook.statuses, before = list(statuses), len(hook.told)
        assert not told() and len(hook.told) - before == tries
        said = capsys.readouterr().err
        assert (
            f"WARNING: nobody was told that hand was failed: the webhook at 127.0.0.1 failed (HTTP status {status})"
            in (said)
        )
        assert TOKEN not in said
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    urls = (
        f"http://127.0.0.1:{port}/{TOKEN}",
        f"http://127.0.0.1:99999/{TOKEN}",
        f"file:///{TOKEN}",
        f"http:///{TOKEN}",
    )
    for url in urls:
        monkeypatch.setenv(VARIABLE, url)
        assert not told()
        said = capsys.readouterr().err
        assert "WARNING: nobody was told" in said and TOKEN not in said
    monkeypatch.delenv(VARIABLE)
    assert not told() and not capsys.readouterr().err
