"""Which code made a result, in which image, and for whom."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from functools import cache
from pathlib import Path

from radtransfer import __version__

IMAGE = "RADTRANSFER_IMAGE"
"""Variable of the environment that names the image that a task runs in; packages for clusters set it."""


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


def image() -> str:
    """The image that this process runs in, best with its digest; empty: nobody said."""
    return os.environ.get(IMAGE, "")


def who() -> str:
    """The user and machine (or pod) that this process runs for."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
