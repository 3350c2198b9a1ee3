"""Data sets in their published layouts. A new layout is one file here and one line in :data:`LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from radtransfer.datasets import class_folders, fracatlas, grazpedwri, iqothnccd, mura, phantoms
from radtransfer.datasets import table as own_table
from radtransfer.datasets.records import Dataset, Folder, Record
from radtransfer.errors import RadtransferError, near

LAYOUTS: dict[str, Callable[[Folder, str | None], Dataset]] = {
    "class_folders": class_folders.read,
    "fracatlas": fracatlas.read,
    "grazpedwri": grazpedwri.read,
    "iqothnccd": iqothnccd.read,
    "mura": mura.read,
    "phantoms": phantoms.read,
    "table": own_table.read,
}

__all__ = ["LAYOUTS", "Dataset", "Record", "read"]


def read(
    layout: str, data_root: Path, path: str, part: str | None = None, table: Mapping[str, Any] | None = None
) -> Dataset:
    """Read a data-set folder.

    Args:
        layout: one of :data:`LAYOUTS`.
        data_root: folder that holds the data sets.
        path: the data set's folder, relative to ``data_root``.
        part: the target part, for layouts whose classes depend on it; None: all parts.
        table: for the layout ``table`` alone, its columns: see :class:`radtransfer.config.TableColumns`.

    Raises:
        RadtransferError: unknown layout, missing folder or file, or nothing that the layout can place.
    """
    if layout not in LAYOUTS:
        raise RadtransferError(f"unknown layout {layout!r}; {near(layout, LAYOUTS)}")
    folder = Folder.below(data_root, path, layout)
    if table and layout != "table":
        raise RadtransferError(f"{folder.path}: columns of a table are for the layout 'table', not for {layout!r}")
    dataset = own_table.read(folder, part, table) if layout == "table" else LAYOUTS[layout](folder, part)
    if layout != "table":  # there a row says it
        astray = [(folder.file(path), "a link that leads out of the data root, or nowhere") for path in folder.astray()]
        dataset = replace(dataset, rejected=[*dataset.rejected, *astray])
    if not dataset.records:
        raise RadtransferError(
            f"{folder.path}: no image that the layout {layout!r} can place "
            f"({len(dataset.rejected)} files rejected); check the folder and the layout"
        )
    return dataset
