"""The published data sets, downloaded from a server on loopback that speaks figshare's JSON."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from radtransfer.datasets import LAYOUTS, published
from radtransfer.errors import RadtransferError

SET = published.Published("toy", "Toy", "Toy", "CC BY 4.0", "Nobody (2026)", "https://example.org", article=7)


class Figshare:
    """An article with files; ``cuts`` holds after how many bytes the next answers break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.md5: dict[str, str] = {}
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        figshare = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/articles/7":
                    self._send(json.dumps({"files": figshare.listing()}).encode())
                    return
                content = figshare.files[self.path.removeprefix("/files/")]
                wanted = self.headers["Range"]
                figshare.ranges.append(wanted)
                at = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                self._send(content[at:], 206 if wanted else 200, figshare.cuts.pop(0) if figshare.cuts else None)

            def _send(self, body: bytes, status: int = 200, cut: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut])
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self) -> list[dict[str, object]]:
        return [
            {
                "name": name, "size": len(content), "supplied_md5": "", "is_link_only": False,
                "computed_md5": self.md5.get(name, hashlib.md5(content).hexdigest()),
                "download_url": f"{self.url}/files/{name}",
            }
            for name, content in self.files.items()
        ]  # fmt: skip


@pytest.fixture
def figshare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Figshare]:
    monkeypatch.setattr(published, "WAITS", (0.01, 0.01))
    figshare = Figshare()
    yield figshare
    figshare.server.shutdown()


def archive(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, content)
    return stream.getvalue()


def test_a_download_that_breaks_off_goes_on(figshare: Figshare, tmp_path: Path) -> None:
    image = os.urandom(300_000)
    figshare.files = {"Toy.zip": archive({"Toy/images/a.png": image, "Toy/dataset.csv": b"x"}), "read.me": b"hello"}
    figshare.files["more.zip"] = archive({"b.png": b"b"})
    figshare.cuts = [100_000, 50_000]
    folder = published.fetch(SET, tmp_path, f"{figshare.url}/articles")
    assert folder == tmp_path / "Toy"
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"images/a.png": image, "dataset.csv": b"x", "read.me": b"hello", "more/b.png": b"b"}
    assert figshare.ranges[:3] == [None, "bytes=100000-", "bytes=150000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["Toy"]
    with pytest.raises(RadtransferError, match="already exists"):
        published.fetch(SET, tmp_path, f"{figshare.url}/articles")


def test_a_download_that_failed_is_taken_up_by_the_next_call(figshare: Figshare, tmp_path: Path) -> None:
    figshare.files = {"first.zip": archive({"a.png": b"a"}), "Toy.zip": archive({"a.png": os.urandom(300_000)})}
    figshare.cuts = [10**9, 100_000, 0, 0]
    with pytest.raises(RadtransferError, match="broke off at 100000 of"):
        published.fetch(SET, tmp_path, f"{figshare.url}/articles")
    assert not (tmp_path / "Toy").exists()
    figshare.ranges.clear()
    published.fetch(SET, tmp_path, f"{figshare.url}/articles")
    assert figshare.ranges == ["bytes=100000-"]


def test_what_is_not_as_listed_is_refused(figshare: Figshare, tmp_path: Path) -> None:
    figshare.files, figshare.md5 = {"Toy.zip": archive({"a.png": b"a"})}, {"Toy.zip": "0" * 32}
    with pytest.raises(RadtransferError, match="with MD5 0000"):
        published.fetch(SET, tmp_path, f"{figshare.url}/articles")
    with pytest.raises(RadtransferError, match="cannot be reached"):
        published.parts(SET, "http://127.0.0.1:9/articles")
    assert not (tmp_path / "Toy").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"../../escaped": b"x"}), "leads out of the data root"),
        (archive({"/escaped": b"x"}), "leads out of the data root"),
        (archive({"link": b"/etc/passwd"}, 0o120777), "is encrypted, or no file"),
        (archive({"bomb.png": bytes(10_000_000)}), "expected at most"),
        (archive({"a": b"x", "a/b": b"y"}), "cannot be unpacked"),
        (archive({"a.png": b"x" * 100})[:-30] + b"PK\x05\x06" + bytes(18), "0 files of 0 bytes"),
    ],
)
def test_archives_that_are_not_safe_leave_nothing(
    figshare: Figshare, tmp_path: Path, content: bytes, message: str
) -> None:
    figshare.files = {"Toy.zip": content}
    root = tmp_path / "deep" / "data"
    with pytest.raises(RadtransferError, match=message):
        published.fetch(SET, root, f"{figshare.url}/articles")
    assert not (root / "Toy").exists() and not list(tmp_path.rglob("escaped"))
    assert not list(tmp_path.rglob("*.partial*"))


def test_sets_behind_registration_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="register on the page"):
        published.fetch(published.find("mura"), tmp_path)
    with pytest.raises(RadtransferError, match="did you mean fracatlas"):
        published.find("fracatlass")


def test_every_published_set_has_a_layout_and_terms() -> None:
    assert set(published.SETS) <= set(LAYOUTS)
    for each in published.SETS.values():
        assert bool(each.article) != bool(each.by_hand) and each.page.startswith("https://")
        assert published.terms(each.name) == {"licence": each.licence, "citation": each.citation}
    assert published.terms("table") == {}
