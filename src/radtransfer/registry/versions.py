"""The model registry: numbered versions of named models, which never change, in a folder or below ``s3://BUCKET/PREFIX``.

    registry.json                   says that this is a registry, and of which schema
    versions/<name>/000001.json     a version: what it is, what it was made of, sha256 and size of each of its files
    files/<name>/<id>/...           the files of a version as made: a bundle, or a folder of pre-trained models
    ledgers/<name>.json             champion of a model, and all decisions; see :mod:`~radtransfer.registry.ledger`

A version is there when its object in ``versions/`` is. That is created once all its files lie in a folder that no other
writer uses, by a conditional write (see :mod:`~radtransfer.registry.places`): of several writers one gets a number and
the others the next ones, without gaps. Its number says when a version came, no clock does. What a writer that died
leaves in ``files/`` belongs to no version; :mod:`~radtransfer.registry.retention` removes it after :data:`LEFT_HOURS`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from radtransfer.artifacts import file_sha256
from radtransfer.errors import RadtransferError, near
from radtransfer.registry import ledger
from radtransfer.registry.documents import NAME, Document, dump, load, named
from radtransfer.registry.places import PARTIAL, Place, at

LAYOUT = "registry.json"
LEFT_HOURS = 24
"""Hours after which files of no version are taken for those of a dead writer; a living one gives up sooner."""
Kind = Literal["bundle", "pretrained"]
BUNDLE: Final = "bundle"
PRETRAINED: Final = "pretrained"
_KEY = re.compile(rf"versions/({NAME})/([0-9]{{6,}})\.json")
_NO_TAG = '"0"'
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Layout(Document):
    """What ``registry.json`` holds."""

    made_by: Literal["radtransfer"] = "radtransfer"


class Stored(Document):
    """A file of a version."""

    sha256: Sha256
    size: int = Field(ge=0)


class Parent(Document):
    """The version whose pre-trained models a bundle's networks were fine-tuned from, and their digests by backbone."""

    name: str = Field(pattern=rf"^{NAME}$")
    number: int = Field(ge=1)
    models: dict[str, str]


class Version(Document):
    """One version of a model.

    Attributes:
        name, number: what it is called; numbers count from 1.
        kind: ``bundle``: what predicts; ``pretrained``: a folder of pre-trained models, one a backbone.
        digest: of a bundle its artifact's; of pre-trained models one over theirs. Equal content has an equal digest.
        id: the folder of its files.
        files: by name, relative to that.
        entered, by: when (ISO 8601, UTC, by the clock of who entered it) and who; no order hangs on it.
        code: versions of the code that made it, see :func:`radtransfer.provenance.code_version`.
        image: image that it was registered in, best with its digest; empty: not known.
        data: which images: data set, revision and digest of the data, digest of the store, counts by split and class.
        configuration: of the run, as in ``config.yaml``.
        model: what it is: TL source, features, classifier, threshold, ...
        models: digests of its networks, by backbone.
        metrics: the row of ``metrics.json`` that the bundle was selected by.
        parents: what it builds on.
    """

    name: str = Field(pattern=rf"^{NAME}$")
    number: int = Field(ge=1)
    kind: Kind
    digest: Sha256
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    files: dict[str, Stored]
    entered: str
    by: str
    code: list[str]
    image: str
    data: dict[str, Any]
    configuration: dict[str, Any]
    model: dict[str, Any]
    models: dict[str, str]
    metrics: dict[str, Any]
    parents: list[Parent]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def folder(self) -> str:
        """Prefix of its files' keys."""
        return f"files/{self.name}/{self.id}/"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Registry:
    """A registry that was found to be one.

    Attributes:
        place: where it lies.
    """

    place: Place
    _known: dict[tuple[str, int], Version] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, where: str | Path, *, write: bool = False) -> Registry:
        """Find a registry.

        Args:
            where: folder, or ``s3://BUCKET/PREFIX``, reached with the credentials of the environment.
            write: make one where there is nothing yet, and make sure that it can be written as it must be.

        Raises:
            RadtransferError: there is none, or one of another layout or a newer schema; or, with ``write``, it cannot
                be written, or the storage does not know conditional writes.
        """
        place = at(where)
        found = place.read(LAYOUT)
        if found is None:
            keys = (each.key for each in place.list(""))
            other = next((one for one in keys if not one.startswith(PARTIAL)), None)
            found = place.read(LAYOUT)  # made meanwhile?
            if found is None and other is not None:
                raise RadtransferError(
                    f"{place.name}: holds {other} and no {LAYOUT}: a registry of another layout, or none; name an "
                    "empty folder or prefix, and enter bundles again (radtransfer models add)"
                )
            if found is None and not write:
                raise RadtransferError(f"{place.name}: there is no model registry; `run --registry` makes one")
            if found is None:
                place.create(LAYOUT, dump(Layout()))
                found = place.read(LAYOUT)
        if found is None:
            raise RadtransferError(f"{place.name}/{LAYOUT}: was written and is not there; look at the storage")
        load(found[0], Layout, f"{place.name}/{LAYOUT}")
        if write and (place.create(LAYOUT, found[0]) or place.replace(LAYOUT, found[0], _NO_TAG)):
            raise RadtransferError(
                f"{place.name}: the storage writes over what it was asked not to (If-None-Match, If-Match), so models "
                "of concurrent writers would be lost; name another storage, e.g. SeaweedFS, MinIO or AWS of today"
            )
        return cls(place)

    def names(self) -> list[str]:
        """Names of all models."""
        return sorted({name for name, _ in self._listed("versions/")})

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, in order; none of a name that is not known."""
        found = [self._read(name, number) for _, number in sorted(self._listed(f"versions/{named(name)}/"))]
        return [version for version in found if version is not None]

    def version(self, name: str, number: int | Literal["newest", "champion"]) -> Version:
        """One version.

        Raises:
            RadtransferError: there is none, or the champion is not there.
        """
        if number == "newest":
            self._must_have(name)
            found = self._read(name, max(each for _, each in self._listed(f"versions/{named(name)}/")))
        else:
            found = self._read(name, self.champion(name) if number == "champion" else number)
        if found is None:
            self._must_have(name)
            numbers = [each for _, each in sorted(self._listed(f"versions/{name}/"))]
            raise RadtransferError(
                f"{self.place.name}: there is no {name}@{number}; "
                + (f"there is version {_ranges(numbers)}" if numbers else "there is no version of it")
            )
        return found

    def champion(self, name: str) -> int:
        """Number of the champion, which is there.

        Raises:
            RadtransferError: there is none, or it names a version that is not there.
        """
        number = ledger.read(self.place, name)[0].champion
        if number is None:
            self._must_have(name)
            raise RadtransferError(
                f"{self.place.name}: {name} has no champion; name a version, or `radtransfer models promote` one"
            )
        if self._read(name, number) is None:
            raise RadtransferError(
                f"{self.place.name}: the champion of {name} is version {number}, which is not there; restore "
                f"{key(name, number)} from a backup, or promote another"
            )
        return number

    def enter(
        self,
        paths: Mapping[str, Path],
        *,
        name: str,
        kind: Kind,
        about: Mapping[str, Any],
        same: Callable[[Version], bool],
    ) -> tuple[Version, bool]:
        """Enter files as the next version of a model.

        Args:
            paths: the files by their names in the version; they must not change meanwhile.
            name, kind: of the model.
            about: the other entries of :class:`Version`.
            same: whether a version of this model is what is to be entered; then it is not entered again.

        Returns:
            The version, and whether it is new.

        Raises:
            RadtransferError: the name is of a model of another kind, or the place does not take the files.
        """
        versions = self.versions(name)
        for version in versions:
            if version.kind != kind:
                raise RadtransferError(
                    f"{self.place.name}: {name} is the name of models of kind {version.kind!r}, this one is of kind "
                    f"{kind!r}; choose another name"
                )
        removed = ledger.read(self.place, name)[0].removed if versions else []
        known = next((each for each in versions if same(each) and each.number not in removed), None)
        if known is not None:
            return known, False
        files = {file: Stored(sha256=file_sha256(path), size=path.stat().st_size) for file, path in paths.items()}
        version = Version(
            name=name, kind=kind, id=uuid.uuid4().hex, number=max((each.number for each in versions), default=0) + 1,
            files=files, **about,
        )  # fmt: skip
        began = time.monotonic()
        for parent in version.parents:
            ledger.use(self.place, parent.name, parent.number)
        for file, path in paths.items():
            self.place.upload(version.folder + file, path)
        while True:
            if time.monotonic() - began > LEFT_HOURS * 3600 / 2:
                raise RadtransferError(
                    f"{self.place.name}: entering {name} took over {LEFT_HOURS / 2:g} hours, after which its files may "
                    "be taken for a dead writer's; use a faster connection"
                )
            if self._create(version):
                return version, True
            other = self._read(name, version.number)
            if other is not None and same(other):
                self.remove_files(version)
                return other, False
            version = version.model_copy(update={"number": version.number + 1})

    def verify(self, version: Version) -> None:
        """Read every file of a version and compare it with what was entered.

        Raises:
            RadtransferError: one is missing, was added, or has changed.
        """
        verify(self.place, version.folder, version)

    def remove_files(self, version: Version) -> None:
        """Remove the files of a version that is not there, or is no more."""
        for each in list(self.place.list(version.folder)):
            self.place.delete(each.key)

    def remove(self, version: Version) -> None:
        """Remove a version; whoever calls has seen to it that nothing names it."""
        self.place.delete(key(version.name, version.number))
        self._known.pop((version.name, version.number), None)
        self.remove_files(version)

    def _create(self, version: Version) -> bool:
        """Create the version's object, if its number is still free."""
        where, content = key(version.name, version.number), dump(version)
        if self.place.create(where, content):
            return True
        found = self.place.read(where)
        return found is not None and found[0] == content  # the answer to a first request got lost

    def _listed(self, prefix: str) -> list[tuple[str, int]]:
        found = [_KEY.fullmatch(each.key) for each in self.place.list(prefix)]
        return [(match[1], int(match[2])) for match in found if match]

    def _read(self, name: str, number: int) -> Version | None:
        """A version, read once; None: there is none."""
        if (name, number) not in self._known:
            where = key(name, number)
            found = self.place.read(where)
            if found is None:
                return None
            version = load(found[0], Version, f"{self.place.name}/{where}")
            if (version.name, version.number) != (name, number):
                raise RadtransferError(
                    f"{self.place.name}/{where}: is that of {version.label}; get the right one from a backup"
                )
            self._known[name, number] = version
        return self._known[name, number]

    def _must_have(self, name: str) -> None:
        names = self.names()
        if name not in names:
            known = near(name, names) if names else "there is none yet"
            raise RadtransferError(f"{self.place.name}: there is no model {name!r}; {known}")


def verify(place: Place, prefix: str, version: Version) -> None:
    """The same as :meth:`Registry.verify` for files that lie elsewhere, below a prefix of a place."""
    where = f"{place.name}/{prefix}"
    found = {each.key.removeprefix(prefix): each.size for each in place.list(prefix)}
    odd = sorted(found.keys() ^ version.files.keys())
    if odd:
        done = "was added since it was entered" if odd[0] in found else "is missing"
        raise RadtransferError(f"{version.label}: {where}{odd[0]} {done}; get its files from a backup")
    for file, stored in version.files.items():
        if found[file] != stored.size or place.digest(prefix + file) != stored.sha256:
            raise RadtransferError(
                f"{version.label}: {where}{file}: its sha256 is not the recorded one, so the file was changed or "
                "damaged; get it from a backup"
            )


def key(name: str, number: int) -> str:
    """Where the object of a version lies."""
    return f"versions/{named(name)}/{number:06d}.json"


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: ``1 to 4, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
