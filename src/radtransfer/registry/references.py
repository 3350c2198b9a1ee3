"""``REGISTRY#NAME@VERSION``: a version of a registry where else a folder is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radtransfer.errors import RadtransferError
from radtransfer.registry.documents import NAME
from radtransfer.registry.places import Folder
from radtransfer.registry.versions import Kind, Registry, Version, verify

_REFERENCE = re.compile(rf"(.+)#({NAME})@(champion|newest|[1-9][0-9]*)")
FORM = "REGISTRY#NAME@VERSION, REGISTRY a folder or s3://BUCKET/PREFIX, VERSION a number, `champion` or `newest`"


@dataclass(frozen=True)
class Reference:
    """A version of a model in a registry.

    Attributes:
        registry: folder, or ``s3://BUCKET/PREFIX``.
        name: of the model.
        version: its number, or which one it is.
    """

    registry: str
    name: str
    version: int | Literal["champion", "newest"]

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """The reference; None: the text names a folder.

        Raises:
            RadtransferError: neither.
        """
        found = _REFERENCE.fullmatch(text)
        if found and not Path(text).is_dir():
            which = found[3]
            return cls(found[1], found[2], which if which in ("champion", "newest") else int(which))  # type: ignore[arg-type]
        if "://" in text:
            raise RadtransferError(f"{text!r}: expected a folder, or {FORM}")
        return None

    def find(self) -> tuple[Registry, Version]:
        """The registry and the version.

        Raises:
            RadtransferError: one of them is not there.
        """
        registry = Registry.open(self.registry)
        return registry, registry.version(self.name, self.version)


@contextmanager
def located(text: str, kind: Kind) -> Iterator[Path]:
    """A folder that is named as such or by a reference; of a version every file is hashed and compared.

    What lies in object storage is fetched once and kept in the cache, see :mod:`radtransfer.datasets.fetch`; while the
    block runs it is not removed there.

    Args:
        text: a folder, or :data:`FORM`.
        kind: what it must be, if it is a version.

    Raises:
        RadtransferError: no such version, or of another kind; it cannot be fetched, or a file of it was changed.
    """
    reference = Reference.parse(text)
    if reference is None:
        yield Path(text)
        return
    registry, version = reference.find()
    if version.kind != kind:
        raise RadtransferError(
            f"{text}: {version.label} is of kind {version.kind!r}, expected {kind!r}; name another model"
        )
    if isinstance(registry.place, Folder):
        registry.verify(version)
        yield registry.place.path / version.folder
        return
    from radtransfer.datasets.fetch import located as fetched

    with fetched(f"{registry.place.name}/files/{version.name}", (version.id,)) as place:
        verify(Folder(place.root), f"{version.id}/", version)
        yield place.root / version.id


def found(registry: str, which: str) -> tuple[Registry, Version]:
    """The registry, and the version that NAME[@VERSION] names; without @VERSION the newest.

    Raises:
        RadtransferError: it names none, or one of them is not there.
    """
    reference = Reference.parse(f"{registry}#{which if '@' in which else f'{which}@newest'}")
    if reference is None:
        raise RadtransferError(f"{which!r}: expected NAME or NAME@VERSION, VERSION a number, champion or newest")
    return reference.find()
