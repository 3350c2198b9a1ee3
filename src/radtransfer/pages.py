"""What all pages that we write share: no text from a data set becomes markup, and no file is left half-written."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from radtransfer.artifacts import write_json

EMBEDDED_SIDE = 640  # px; larger pictures are shrunk before they go into a page


def environment() -> jinja2.Environment:
    """Templates by their path below this package; they escape what they are given and refuse what they do not know."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("radtransfer", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["whole"] = whole
    return made


def whole(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def embedded(picture: Image.Image) -> str:
    """A grey or RGB picture as a ``data:`` URI (WebP), shrunk to :data:`EMBEDDED_SIDE`."""
    small = picture.copy()
    small.thumbnail((EMBEDDED_SIDE, EMBEDDED_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain(value: object) -> str:
    """Text that Markdown shows as it is: no markup, no table cell's end, one line."""
    flat = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", flat)


def leave(out: Path, name: str, content: Any, page: str) -> Path:
    """Write ``name.json`` and ``name.html``, which say the same, into a folder, over earlier ones.

    Returns:
        path of the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", content)
    write(out / f"{name}.html", page)
    return out / f"{name}.html"


def write(path: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        staging.write_text(content, encoding="utf-8")
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
