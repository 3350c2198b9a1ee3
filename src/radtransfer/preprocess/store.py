"""The image store: all images of a target or a source as one memory-mapped array, and a table of them."""

from __future__ import annotations

import csv
import mmap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.split import SPLITS, Splits
from radtransfer.problems import Rejected

if TYPE_CHECKING:  # it loads pydicom, which those who only read a store do not need
    from radtransfer.preprocess.pixels import Grey

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int8()),
        ("label_name", pa.string()),
        ("body_part", pa.string()),
        ("patient_id", pa.string()),
        ("study_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.float64()))),
        ("source_file", pa.string()),
        ("sha256", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("attributes", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("shown", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class Store:
    """An image store that was read and found free of leaks.

    Attributes:
        artifact: its description.
        images: uint8 [N, size, size], memory-mapped.
        manifest: one row per image, columns as in :data:`SCHEMA` (those that were asked for); boxes [x0, y0, x1, y1]
            in stored px, shown (what of the image is in the square) [x0, y0, x1, y1] in px of the image.
    """

    artifact: artifacts.Artifact
    images: npt.NDArray[np.uint8]
    manifest: pd.DataFrame

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None = None) -> Store:
        """Read a store.

        Args:
            path: its folder.
            columns: of the manifest, the group and the split at least; None: all.

        Raises:
            RadtransferError: not a store, damaged, or a leakage group lies in two splits.
        """
        artifact = artifacts.read(Path(path), "image-store")
        try:
            images = np.load(artifact.path / "images.npy", mmap_mode="r", allow_pickle=False)
            schema = pq.read_schema(artifact.path / "manifest.parquet")
            table = pq.read_table(artifact.path / "manifest.parquet", columns=list(columns) if columns else None)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RadtransferError(f"{path}: damaged image store ({error}); make it again") from None
        if schema.remove_metadata() != SCHEMA or images.dtype != np.uint8 or images.ndim != 3:
            raise RadtransferError(f"{path}: image store of another version; make it again")
        if len(images) != table.num_rows or images.shape[1] != images.shape[2]:
            raise RadtransferError(f"{path}: {len(images)} images but {table.num_rows} rows; make this store again")
        manifest = table.to_pandas()
        Splits.of_images(manifest["group_id"], manifest["split"], str(path))
        return cls(artifact, images, manifest)

    @property
    def content(self) -> dict[str, Any]:
        """What the writer said of it."""
        return self.artifact.content

    @property
    def size(self) -> int:
        """Side of the images, px."""
        return int(self.images.shape[1])

    def rows(self, *splits: str) -> npt.NDArray[np.int64]:
        """Positions of the images of these splits, ascending."""
        unknown = set(splits) - set(SPLITS)
        if unknown:
            raise ValueError(f"unknown split {sorted(unknown)[0]!r}; known: {', '.join(SPLITS)}")
        return np.flatnonzero(self.manifest["split"].isin(splits).to_numpy())


def taken(images: npt.NDArray[np.uint8], rows: slice | npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """A copy of these images, after which a store's memory map holds no pages of this process.

    They would add up to the whole file in time; the system keeps what it has read, so that nothing is read anew.

    Args:
        images: [N, size, size].
        rows: which of them.
    """
    copy = np.array(images[rows])
    mapped = getattr(images, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and getattr(images, "mode", "") == "r":
        mapped.madvise(mmap.MADV_DONTNEED)
    return copy


def write(
    folder: Path,
    rows: list[dict[str, Any]],
    images: Iterable[Grey],
    size: int,
    rejected: Sequence[Rejected],
    files_found: int,
) -> None:
    """Write the files of a store into a staging folder; memory does not grow with the number of images.

    Args:
        folder: where to.
        rows: manifest rows.
        images: the image [size, size] of each row, in turn.
        size: side of the images, px.
        rejected: every file left out.
        files_found: number of files that were looked at.

    Raises:
        RadtransferError: files got lost, appear twice, or a leakage group lies in two splits.
    """
    files = Counter([row["image_id"] for row in rows] + [one.file for one in rejected])
    twice = [file for file, times in files.items() if times > 1]
    if len(rows) + len(rejected) != files_found or twice:
        raise RadtransferError(
            f"{files_found} files found, but {len(rows)} stored and {len(rejected)} rejected"
            f"{f'; {twice[0]} is there twice' if twice else ''}: this is a defect of radtransfer, please report it"
        )
    Splits.of_images([row["group_id"] for row in rows], [row["split"] for row in rows], str(folder))
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")
    with (folder / "images.npy").open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size)}
        np.lib.format.write_array_header_1_0(stream, header)
        for _, image in zip(rows, images, strict=True):
            stream.write(image.tobytes())
    with (folder / "rejected.csv").open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Rejected._fields)
        writer.writerows(rejected)
