"""Tables as text: nothing is guessed, and what is wrong with a table is said with its place and its remedy."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.datasets import rows
from radtransfer.datasets.rows import read_rows
from radtransfer.errors import RadtransferError


def csv_file(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet_file(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def cells(path: Path, *columns: str) -> list[dict[str, str]]:
    return [row.cells for row in read_rows(path, columns)]


def test_csv_cells_are_what_is_written(tmp_path: Path) -> None:
    text = '\ufeffid, label ,note\r\n007,1,"a, b"\r\n,,\r\n\r\n 8.0 ,NaN,"two\r\nlines"\r\n9,short\r\n10,1,,,\r\n'
    found = list(read_rows(csv_file(tmp_path, text), ("label", "id")))
    assert [row.cells for row in found] == [
        {"label": "1", "id": "007"},
        {"label": "NaN", "id": "8.0"},
        {"label": "short", "id": "9"},
        {"label": "1", "id": "10"},
    ]
    assert [row.name for row in found] == ["row 2", "row 5", "row 6", "row 7"]


def test_parquet_gives_the_text_that_pandas_writes(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path,
        text=[" 007 ", None, "x"],
        whole=[1, None, 2**60 + 1],
        real=[1.0, float("nan"), 0.5],
        truth=[True, False, None],
        few=pa.array(["a", "b", "a"]).dictionary_encode(),
        none=pa.nulls(3),
    )
    assert cells(path, "text", "whole", "real", "truth", "few", "none") == [
        {"text": "007", "whole": "1", "real": "1.0", "truth": "True", "few": "a", "none": ""},
        {"text": "", "whole": "", "real": "", "truth": "False", "few": "b", "none": ""},
        {"text": "x", "whole": str(2**60 + 1), "real": "0.5", "truth": "", "few": "a", "none": ""},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "column 'id' is missing"),
        ("id,label\n", "has no rows; expected one per image"),
        ("id,label\n,\n \n", "has no rows"),
        ("ids,label\n1,1\n", "column 'id' is missing; did you mean ids"),
        ("id;label\n1;1\n", "column 'id' is missing; the table is separated by ';': save it with commas"),
        ("id\tlabel\n1\t1\n", r"separated by '\\t'"),
        ("id,id,label\n1,1,1\n", "2 columns are named 'id'"),
        ("id,label\n1,1\n2,1,too much\n", "row 3: 3 cells under 2 headings; put a text that holds commas in quotes"),
        ('id,label\n"1,1\n', "not well-formed CSV"),
        ('id,label\n"1"x,1\n', "line 2: not well-formed CSV"),
        ("id,label\n1,b\xf6se\n".encode("latin-1"), "not UTF-8; save it as 'CSV UTF-8'"),
        ("id,label\n1,1\n".encode("utf-16"), "UTF-16, not UTF-8; save it as 'CSV UTF-8'"),
        ("sep=;\nid;label\n1;1\n", "column 'id' is missing"),
        ("id,label\n1," + "x" * 10_001, "row 2: a cell of 10001 characters; at most 10000 are read"),
        ("id,label\n1," + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_csv_that_cannot_be_read_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(RadtransferError, match=rf"t\.csv.*{message}"):
        cells(csv_file(tmp_path, content), "id", "label")


def test_the_line_that_tells_excel_of_commas_is_passed_over(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "\ufeffsep=,\r\nid,label\r\n007,a\r\n")
    assert [(row.name, row.cells) for row in read_rows(path, ["id"])] == [("row 3", {"id": "007"})]


def test_parquet_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, id=[[1], [2]], when=[datetime.date(2020, 1, 1)] * 2)
    with pytest.raises(RadtransferError, match=r"column 'id' is of type list<.*; write it as text"):
        cells(path, "id")
    with pytest.raises(RadtransferError, match="column 'when' is of type date"):
        cells(path, "when")
    with pytest.raises(RadtransferError, match="column 'label' is missing; known: id, when"):
        cells(path, "label")
    with pytest.raises(RadtransferError, match="has no rows"):
        cells(parquet_file(tmp_path, id=pa.array([], pa.string())), "id")
    whole = parquet_file(tmp_path, id=["1", "2"]).read_bytes()
    for damaged in (b"", b"PAR1", whole[:-20], whole[20:], b"id,label\n1,1\n"):
        path.write_bytes(damaged)
        with pytest.raises(RadtransferError, match="not a Parquet file, or damaged"):
            cells(path, "id")


def test_a_text_that_stands_in_every_row_is_held_once(tmp_path: Path) -> None:
    """50 kB of Parquet that would be 300 GB of cells."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 300_000, pa.int32()), pa.array(["x" * 1_000_000]))
    with pytest.raises(RadtransferError, match="row 1: a cell of 1000000 characters"):
        cells(parquet_file(tmp_path, id=words), "id")


def test_what_is_no_table_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RadtransferError, match=r"t\.xlsx: expected a table that ends in \.csv or \.parquet"):
        cells(csv_file(tmp_path, "x", "t.xlsx"), "id")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RadtransferError, match="cannot be read"):
        cells(tmp_path / "folder.csv", "id")
    with pytest.raises(RadtransferError, match="cannot be read"):
        cells(tmp_path / "nowhere.parquet", "id")
    table, same = csv_file(tmp_path, "id\n1\n2\n3\n"), parquet_file(tmp_path, id=["1", "2", "3"])
    monkeypatch.setattr(rows, "MAX_ROWS", 2)
    for path in (table, same):
        with pytest.raises(RadtransferError, match="more than 2 rows"):
            cells(path, "id")
    monkeypatch.setattr(rows, "MAX_BYTES", 5)
    for path in (table, same):
        with pytest.raises(RadtransferError, match="tables of at most 5 bytes are read"):
            cells(path, "id")


def quietly(path: Path) -> None:
    """Read it, or say in our own words why not."""
    try:
        for row in read_rows(path, ("a", "b")):
            assert set(row.cells) == {"a", "b"} and row.name.startswith("row ")
    except RadtransferError as error:
        assert str(path) in str(error)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200), header=st.sampled_from([b"", b"a,b\n", b"a,b,c\r\n", b'"a",b\r']))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, header: bytes) -> None:
    quietly(csv_file(tmp_path_factory.getbasetemp(), header + content))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=8), cut=st.booleans())
def test_damaged_parquet_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes, cut: bool
) -> None:
    path = parquet_file(tmp_path_factory.getbasetemp(), a=["x", None, "yy"] * 20, b=[1, 2, None] * 20)
    whole = path.read_bytes()
    at %= len(whole)
    path.write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
    quietly(path)
