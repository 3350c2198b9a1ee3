"""Which code made a result."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from radtransfer import __version__


@cache
def code_version() -> str:
    """Version of the package and a digest of its sources, e.g. ``0.1.0+3f2a91c0d4e7``.

    Every task takes it as an input, so that a cache never answers for code that has changed since.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:12]}"
