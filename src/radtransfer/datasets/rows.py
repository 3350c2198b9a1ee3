"""Tables beside images, CSV or Parquet, read as text: what stands in a cell is what the layouts get.

Nothing is guessed of types, so that an id keeps its leading zeros and its last digits. What is wrong with the table as
a whole stops the reading; what is wrong with one row is for the layout to say.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radtransfer.errors import RadtransferError, near

MAX_BYTES = 200_000_000
MAX_ROWS = 1_000_000
MAX_CELL = 10_000
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        name: where it stands, e.g. ``row 17``, as a spreadsheet counts (the header of a CSV is row 1).
        cells: text by column, without the blanks around it; empty where there is nothing.
    """

    name: str
    cells: dict[str, str]


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read some columns of a table, row by row; rows that hold nothing in them are passed over.

    Args:
        path: a ``.csv`` file (UTF-8, commas, first row: names of the columns; Excel's line ``sep=,`` may stand before
            it) or a ``.parquet`` file, whose numbers and truth values become the text that pandas writes for them
            (``1``, ``1.0``, ``True``; none: empty).
        columns: those wanted; each must be there once.
        optional: read too where they are there; without a cell where they are not.

    Raises:
        RadtransferError: neither of the two, damaged, too large, without rows, or a column is missing, there twice or
            of a type that is no text.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RadtransferError(f"{path}: expected a table that ends in {' or '.join(SUFFIXES)}; save it as one")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RadtransferError(f"{path}: {size} bytes; tables of at most {MAX_BYTES} bytes are read")
        read = _csv_rows if path.suffix.lower() == ".csv" else _parquet_rows
        found = False
        for row in read(path, columns, optional):
            if not any(row.cells.values()):
                continue
            longest = max(map(len, row.cells.values()))
            if longest > MAX_CELL:
                raise RadtransferError(
                    f"{path}, {row.name}: a cell of {longest} characters; at most {MAX_CELL} are read"
                )
            found = True
            yield row
    except OSError as error:
        raise RadtransferError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    if not found:
        raise RadtransferError(f"{path}: has no rows; expected one per image")


def _csv_rows(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    with path.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise RadtransferError(f"{path}: UTF-16, not UTF-8; save it as 'CSV UTF-8'")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            first = 2
            if header == ["sep=", ""]:  # Excel's own line, which says what separates the cells
                header, first = [cell.strip() for cell in next(reader, [])], 3
            places = _places(path, header, [*columns, *(name for name in optional if name in header)])
            for number, cells in enumerate(reader, start=first):
                _bounded(path, number - 1)
                if any(cells[len(header) :]):
                    raise RadtransferError(
                        f"{path}, row {number}: {len(cells)} cells under {len(header)} headings; "
                        "put a text that holds commas in quotes"
                    )
                yield Row(
                    f"row {number}",
                    {name: cells[place].strip() if place < len(cells) else "" for name, place in places.items()},
                )
        except UnicodeDecodeError:
            raise RadtransferError(f"{path}, after line {reader.line_num}: not UTF-8; save it as 'CSV UTF-8'") from None
        except csv.Error as error:
            raise RadtransferError(f"{path}, line {reader.line_num}: not well-formed CSV ({error})") from None


def _parquet_rows(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    import pyarrow.parquet as pq  # not needed for most data sets

    try:
        schema = pq.read_schema(path)
        columns = [*columns, *(name for name in optional if name in schema.names)]
        _places(path, schema.names, columns)
        _check_types(path, schema, columns)
        # As dictionaries, a long text that stands in every row lies in memory once.
        with pq.ParquetFile(path, read_dictionary=list(columns)) as file:
            _bounded(path, file.metadata.num_rows)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                texts = {name: _texts(batch.column(name)) for name in columns}
                for cells in zip(*texts.values(), strict=True):
                    number += 1
                    yield Row(f"row {number}", dict(zip(texts, cells, strict=True)))
    except RadtransferError:
        raise
    except Exception as error:  # pyarrow raises its own, OSError, ValueError and more on damaged files
        raise RadtransferError(f"{path}: not a Parquet file, or damaged ({type(error).__name__})") from None


def _check_types(path: Path, schema: Any, columns: Sequence[str]) -> None:
    from pyarrow import types

    for name in columns:
        kind = schema.field(name).type
        value = kind.value_type if types.is_dictionary(kind) else kind
        plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
        if not any(check(value) for check in (*plain, types.is_null)):
            raise RadtransferError(f"{path}: column {name!r} is of type {kind}; write it as text")


def _texts(column: Any) -> list[str]:
    """Cells of a pyarrow array as text."""
    from pyarrow import types

    if types.is_null(column.type):
        return [""] * len(column)
    encoded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    words = ["" if word is None or str(word) == "nan" else str(word).strip() for word in encoded.dictionary.to_pylist()]
    return ["" if place is None else words[place] for place in encoded.indices.to_pylist()]


def _places(path: Path, header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    """Where each column stands."""
    for name in columns:
        if name not in header:
            other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
            hint = near(name, header) if other is None else f"the table is separated by {other!r}: save it with commas"
            raise RadtransferError(f"{path}: column {name!r} is missing; {hint}")
        if header.count(name) > 1:
            raise RadtransferError(f"{path}: {header.count(name)} columns are named {name!r}; rename all but one")
    return {name: header.index(name) for name in columns}


def _bounded(path: Path, rows: int) -> None:
    if rows > MAX_ROWS:
        raise RadtransferError(f"{path}: more than {MAX_ROWS} rows; split the data set")
