"""What a layout says about a data set: one record per image file, and the files it cannot place."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from radtransfer.errors import RadtransferError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
NOT_DATA = "__MACOSX"
Box = tuple[float, float, float, float]


def is_image(path: Path) -> bool:
    """Whether a file is named like an image, or is DICOM without an ending, as PACS name it (``IM0001``, or a UID)."""
    ending = path.suffix.lower()
    if ending in IMAGE_SUFFIXES:
        return True
    if path.name.startswith(".") or not (ending == "" or ending[1:].isdigit()):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Record:
    """One image file.

    Attributes:
        file: POSIX path relative to the data root.
        label: 1 for the positive class, else 0.
        parts: body parts that it shows; several where the data set says so.
        patient_id, study_id: pseudonyms, None where the data set has none.
        official: "test" if the publisher keeps this image for testing, "train" if the publisher trains on it, None
            where the data set has no official split.
        boxes: findings as (x0, y0, x1, y1), shares of width and height of the upright image.
        attributes: what the data set says of the image, ``name=value`` each, see :mod:`radtransfer.attributes`.
    """

    file: str
    label: int
    parts: tuple[str, ...]
    patient_id: str | None = None
    study_id: str | None = None
    official: str | None = None
    boxes: tuple[Box, ...] = ()
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data-set folder as its layout reads it.

    Attributes:
        layout: name of the layout.
        name: name of its folder.
        classes: names of class 0 and class 1 (the positive one).
        records: one per image that the layout can place, sorted by file.
        rejected: (file, reason) of each image file that it cannot place.
        notes: what a reader of the results should know.
        modality: "X-ray" or "CT".
        slices: whether neighbouring slices of one scan may be there, which look alike without being duplicates.
        synthetic: whether the images are made up.
        called: what artifacts call a file, by its path: the path, unless that may hold the id of a patient or study.
        conflicts: files, placed or not, to which the data set gives two labels.
    """

    layout: str
    name: str
    classes: tuple[str, str]
    records: list[Record]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    modality: str = "X-ray"
    slices: bool = False
    synthetic: bool = False
    called: Callable[[str], str] = str
    conflicts: frozenset[str] = frozenset()

    @property
    def files(self) -> list[str]:
        """All files that the layout looked at, whether it can place them or not."""
        return [record.file for record in self.records] + [file for file, _ in self.rejected]

    @property
    def parts(self) -> list[str]:
        """All body parts, sorted."""
        return sorted({part for record in self.records for part in record.parts})


def _refuse(error: OSError) -> None:
    """What a folder that must not be read holds would be lost in silence; one that is not there holds nothing."""
    if isinstance(error, PermissionError):
        raise RadtransferError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


@dataclass(frozen=True)
class Folder:
    """A data-set folder below the data root.

    Raises (from :meth:`below`):
        RadtransferError: the data root or the folder is missing, or the folder lies outside the data root.
    """

    root: Path
    path: Path

    @classmethod
    def below(cls, root: Path, relative: str, layout: str) -> Folder:
        """Find the folder ``relative`` below ``root``; ``layout`` is named in the error."""
        root = Path(root)
        if not root.is_dir():
            raise RadtransferError(f"data root {root}: no such folder; name the folder that holds your data sets")
        path = root / relative
        if not path.resolve().is_relative_to(root.resolve()):
            raise RadtransferError(f"data set folder {relative!r} lies outside the data root {root}; move it inside")
        if not path.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            near = difflib.get_close_matches(relative, there, n=1)
            hint = f"did you mean {near[0]!r}? " if near else f"there: {', '.join(there) or 'nothing'}. "
            raise RadtransferError(
                f"data root {root}: no folder {relative!r}, where the {layout} data set is expected; {hint}"
                "Put the data set there or set its path"
            )
        return cls(root, path)

    def file(self, path: Path) -> str:
        """POSIX path of ``path`` relative to the data root.

        Raises:
            RadtransferError: the name is no text that could be written anywhere.
        """
        name = path.relative_to(self.root).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise RadtransferError(f"{name!a}: the name of this file is not UTF-8; rename it") from None
        return name

    def files(self, *inside: str) -> list[Path]:
        """All files in a folder, at any depth, sorted; links that lead out of the data root are left out.

        Raises:
            RadtransferError: a folder in it must not be read.
        """
        root = self.root.resolve()
        return sorted(path for path in self._paths(*inside) if path.is_file() and path.resolve().is_relative_to(root))

    def astray(self) -> list[Path]:
        """Links in the folder, named like images, that lead out of the data root or nowhere, sorted."""
        root = self.root.resolve()
        links = (path for path in self._paths() if path.is_symlink() and path.suffix.lower() in IMAGE_SUFFIXES)
        return sorted(path for path in links if not (path.exists() and path.resolve().is_relative_to(root)))

    def _paths(self, *inside: str) -> Iterator[Path]:
        """Paths of all that is in a folder and is no folder; what macOS adds to archives is no part of it."""
        for folder, folders, names in os.walk(self.path.joinpath(*inside), onerror=_refuse):
            folders[:] = [name for name in folders if name != NOT_DATA]
            yield from (Path(folder, name) for name in names)

    def images(self, *inside: str) -> list[Path]:
        """Those of :meth:`files` that are images by their name, or DICOM files by their content."""
        return [path for path in self.files(*inside) if is_image(path)]

    def need(self, name: str, layout: str) -> Path:
        """A file or folder that the layout cannot do without.

        Raises:
            RadtransferError: it is missing.
        """
        path = self.path / name
        if not path.exists():
            raise RadtransferError(
                f"{path}: missing; a {layout} data set holds it. Get the data set again or choose another layout"
            )
        return path
