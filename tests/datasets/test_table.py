"""A table beside the images: what fits is read, what does not is listed with its reason, no path leaves the root."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer import datasets
from radtransfer.config import TableColumns
from radtransfer.configfile import load
from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.datasets.records import Dataset
from radtransfer.errors import RadtransferError

COLUMNS = {
    "table": "labels.csv",
    "file": "path",
    "label": "finding",
    "positive": ["fracture", "1"],
    "negative": ["normal", "0"],
}
FURTHER = {"body_part": "region", "patient": "pid", "study": "accession", "split": "fold", "boxes": "where"}
ALL = COLUMNS | FURTHER
HEADER = ["path", "finding", "region", "pid", "accession", "fold", "where", "remark"]
ROWS = [
    ["a/1.png", "fracture", "hand", "007", "s1", "train", "0.1,0.2,0.3,0.4;0,0,1,1", "x"],
    ["a/2.JPG", "normal", "hand", "007", "s2", "TEST", "", "x"],
    ["IM0003", "1", "knee", "7", "s1", "valid", "", ""],
    ["c.dcm", "0", "knee", "8", "", "validation", "", ""],
]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a key for this test only")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The files that :data:`ROWS` names, which no layout opens."""
    base = tmp_path / "root" / "own"
    for name in ("a/1.png", "a/2.JPG", "IM0003", "c.dcm", "readme.txt"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(name.encode())
    return base


def write(base: Path, rows: list[list[str]], header: list[str] = HEADER) -> None:
    with (base / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def read(base: Path, **columns: Any) -> Dataset:
    return datasets.read("table", base.parent, base.name, table=ALL | columns)


def changed(**cells: str) -> list[list[str]]:
    """All rows, and before them the first with other cells (for a file of its own, unless the file is changed)."""
    row = ["odd.png", *ROWS[0][1:]]
    for name, text in cells.items():
        row[HEADER.index(name)] = text
    return [row, *ROWS]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read_as_its_columns_are_mapped(base: Path, kind: str) -> None:
    write(base, ROWS)
    if kind == "parquet":
        columns = {name: [row[k] or None for row in ROWS] for k, name in enumerate(HEADER)}
        pq.write_table(pa.table(columns), base / "labels.parquet")
        (base / "labels.csv").unlink()
    dataset = read(base, table=f"labels.{kind}")
    assert dataset.classes == ("normal", "fracture") and dataset.parts == ["hand", "knee"]
    assert [(r.file, r.label, r.parts, r.official) for r in dataset.records] == [
        ("own/IM0003", 1, ("knee",), "train"),
        ("own/a/1.png", 1, ("hand",), "train"),
        ("own/a/2.JPG", 0, ("hand",), "test"),
        ("own/c.dcm", 0, ("knee",), "train"),
    ]
    third, first, second, fourth = dataset.records
    assert first.patient_id == second.patient_id and len({r.patient_id for r in dataset.records}) == 3  # 007 is not 7
    assert len({first.study_id, second.study_id, third.study_id}) == 3 and fourth.study_id is None
    assert first.boxes == ((0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 1.0, 1.0)) and second.boxes == ()
    assert dataset.rejected == [] and dataset.modality == "X-ray"
    assert dataset.notes == [
        "the publisher's training and validation images are dealt anew between train and validation",
        "1 files in no row are no images and were passed over",
    ]
    assert "007" not in repr(dataset)


def test_file_and_label_are_enough(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    write(base, [row[:2] for row in ROWS], HEADER[:2])
    dataset = datasets.read("table", base.parent, "own", table=COLUMNS)
    assert [(r.label, r.parts, r.patient_id, r.study_id, r.official, r.boxes) for r in dataset.records] == [
        (label, ("own",), None, None, None, ()) for label in (1, 1, 0, 0)
    ]
    assert dataset.notes[0] == "no patient ids: split by duplicates and near duplicates, not by patient"
    write(base, [[*row[:2], row[4]] for row in ROWS], ["path", "finding", "accession"])
    with pytest.raises(RadtransferError, match=rf"own, layout table: has patient ids.*{VARIABLE} is not set"):
        datasets.read("table", base.parent, "own", table=COLUMNS | {"study": "accession"})
    monkeypatch.setenv(VARIABLE, "a key for this test only")
    dataset = datasets.read("table", base.parent, "own", table=COLUMNS | {"study": "accession"})
    studies = {r.file: r.study_id for r in dataset.records}
    assert studies["own/a/1.png"] == studies["own/IM0003"] != studies["own/a/2.JPG"]
    assert "split by study, duplicates" in dataset.notes[0]


def test_attributes_leave_as_groups_and_in_no_other_words(base: Path) -> None:
    header = [*HEADER[:2], "Sex", "Age", "Maker", "Plate", "Hospital"]
    known = [
        ["F", "041Y", "Philips & Co", "1", "NA"],
        ["m", "7.5", "", "False", "St. Mary"],
        ["d", "130", "unknown", "0.0", "-"],
        ["W", "old", "x" * 40, "maybe", "O'Hara; 5"],
    ]
    write(base, [[*row[:2], *own] for row, own in zip(ROWS, known, strict=True)], header)
    named = {"sex": "Sex", "age": "Age", "manufacturer": "Maker", "hardware": "Plate", "site": "Hospital"}
    dataset = datasets.read("table", base.parent, "own", table=COLUMNS | {"attributes": named})
    assert {record.file: record.attributes for record in dataset.records} == {
        "own/a/1.png": ("hardware=yes", "age=40-64", "sex=female", "manufacturer=Philips & Co"),
        "own/a/2.JPG": ("hardware=no", "age=2-11", "sex=male", "site=St. Mary"),
        "own/IM0003": ("hardware=no",),
        "own/c.dcm": ("sex=female",),
    }
    for columns, message in (
        ({"name": "Hospital"}, "attributes: 'name' is no attribute"),
        ({"sexx": "Sex"}, "did you mean sex"),
        ({"sex": "Gender"}, "column 'Gender' is missing"),
    ):
        with pytest.raises(RadtransferError, match=message):
            datasets.read("table", base.parent, "own", table=COLUMNS | {"attributes": columns})


def test_a_column_of_many_texts_is_no_attribute(base: Path) -> None:
    rows = []
    for number in range(21):
        (base / f"{number}.png").write_bytes(b"x")
        rows.append([f"{number}.png", "01"[number % 2], f"Smith{', Jane' * (number > 9)} {number}"])
    for count in (20, 21):
        write(base, rows[:count], ["path", "finding", "who"])
        if count == 20:
            assert len(read(base, attributes={"site": "who"}, **dict.fromkeys(FURTHER, "")).records) == 20
            continue
        with pytest.raises(RadtransferError, match=r"labels.*more than 20 different texts.*'site'.*may be ident"):
            read(base, attributes={"site": "who"}, **dict.fromkeys(FURTHER, ""))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"finding": "unsure"}, "label 'unsure' is neither a positive nor a negative one"),
        ({"finding": "Fracture"}, "label 'Fracture' is neither"),
        ({"finding": "1.0"}, "label '1.0' is neither"),
        ({"finding": "NaN"}, "label 'NaN' is neither"),
        ({"finding": ""}, "label is empty"),
        ({"finding": "=cmd()"}, "label holds a spreadsheet formula; write its value"),
        ({"finding": "x" * 500}, "label 'xxx"),
        ({"region": " "}, "body_part is empty"),
        ({"region": "=HYPERLINK(1)"}, "body_part holds a spreadsheet formula"),
        ({"region": "ha\nnd"}, "body_part holds characters that cannot be printed, or a line break"),
        ({"pid": ""}, "patient is empty"),
        ({"pid": "N/A"}, "patient is empty or a word for unknown"),
        ({"pid": "=cmd('secret')"}, "patient holds a spreadsheet formula"),
        ({"fold": ""}, "split '' is none of train, validation and test"),
        ({"fold": "holdout"}, "split 'holdout' is none of train, validation and test"),
        ({"where": "12,40,300,420"}, "outside the image: edges are shares (0 to 1) of width and height, not pixels"),
        ({"where": "0.1,0.1,0.2,1.01"}, "outside the image"),
        ({"where": "-0.1,0,0.2,1"}, "outside the image"),
        ({"where": "nan,0,0.2,1"}, "outside the image"),
        ({"where": "0.5,0,0.2,1"}, "expected x0 < x1 and y0 < y1"),
        ({"where": "0.1 0.1 0.2 0.2"}, "boxes are not written x0,y0,x1,y1;..."),
        ({"where": "0.1,0.1,0.2"}, "boxes are not written x0,y0,x1,y1;..."),
        ({"where": "0,0,1,1", "finding": "normal"}, "the label is negative, and yet there are boxes"),
    ],
)
def test_a_row_that_does_not_fit_is_rejected_with_its_reason(base: Path, cells: dict[str, str], reason: str) -> None:
    (base / "odd.png").write_bytes(b"x")
    write(base, changed(**cells))
    dataset = read(base)
    assert len(dataset.records) == 4
    ((file, said),) = dataset.rejected
    assert file == "own/odd.png" and said.startswith("labels.csv, row 2: ") and reason in said
    assert dataset.conflicts == ({file} if "yet there are boxes" in reason else set())
    assert len(said) < 150 and "secret" not in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no file is named"),
        ("nowhere.png", "the file is not there"),
        ("a", "the file is not there"),
        ("/etc/passwd", "not named by a path inside the data-set folder"),
        ("../own/a/1.png", "not named by a path inside"),
        ("a/../../../outside/secret.png", "not named by a path inside"),
        ("a\\1.png", "not named by a path inside"),
        ("link.png", "the file is not there, or a link that leads out of the data root"),
        ("way/secret.png", "is not there, or a link that leads out"),
        ("=1+1", "file holds a spreadsheet formula"),
        ("a\0b", "file holds characters that cannot be printed"),
        ("n" * 9000, "is not there"),
    ],
)
def test_a_file_that_is_not_to_be_had_is_listed_by_its_row(base: Path, text: str, reason: str) -> None:
    outside = base.parent.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    (base / "link.png").symlink_to(outside / "secret.png")
    (base / "way").symlink_to(outside)
    write(base, changed(path=text))
    dataset = read(base)
    assert len(dataset.records) == 4
    ((file, said),) = dataset.rejected
    assert file == "own/labels.csv, row 2" and reason in said and len(said) < 200


def test_a_link_inside_the_root_is_followed(base: Path) -> None:
    (base.parent / "pool.png").write_bytes(b"x")
    (base / "link.png").symlink_to(base.parent / "pool.png")
    write(base, changed(path="./link.png"))
    assert "own/link.png" in {record.file for record in read(base).records}


def test_an_image_with_two_labels_is_a_conflict(base: Path) -> None:
    write(base, [*ROWS, [ROWS[0][0], "normal", *ROWS[0][2:6], "", ""], ROWS[1]])
    dataset = read(base)
    assert len(dataset.rejected) == 2 and dataset.conflicts == {f"own/{ROWS[0][0]}"}


def test_images_of_no_row_and_of_several_are_listed(base: Path) -> None:
    (base / "a" / "extra.png").write_bytes(b"x")
    write(base, [*ROWS, ["./a//1.png", *ROWS[0][1:]], ["a/1.png", "unsure", *ROWS[0][2:]]])
    dataset = read(base)
    assert dict(dataset.rejected) == {
        "own/a/1.png": "labels.csv names it 3 times (row 2, row 6, row 7); give each image one row",
        "own/a/extra.png": "no row of labels.csv names it",
    }
    assert [record.file for record in dataset.records] == ["own/IM0003", "own/a/2.JPG", "own/c.dcm"]


def test_a_class_without_rows_is_an_error_that_shows_the_labels(base: Path) -> None:
    write(base, [[row[0], "fractured" if row[1] == "fracture" else row[1], *row[2:]] for row in ROWS if row[1] != "1"])
    with pytest.raises(
        RadtransferError,
        match=r"no usable row has a positive label like 'fracture'\. Labels in column 'finding': 'fractured' \(1\), "
        r"'normal' \(1\), '0' \(1\)\. 1 rows and files rejected; the first: own/[0-9a-f]{16}\.png: labels\.csv, row 2",
    ):
        read(base)
    write(base, [["nowhere.png", *row[1:]] for row in ROWS])
    with pytest.raises(
        RadtransferError,
        match=r"no usable row has a negative label like 'normal'.*labels\.csv, row \d: the file is not there",
    ):
        read(base)
    write(base, [[*ROWS[0][:1], f"Name {k}", *ROWS[0][2:]] for k in range(30)])
    with pytest.raises(RadtransferError, match="30 different texts") as caught:
        read(base, positive=["x"])
    assert "(1)" not in str(caught.value)


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "NULL", "None", "Unknown", "-", "?"])
def test_a_word_for_unknown_is_no_patient_and_no_study(base: Path, word: str) -> None:
    write(base, [[*row[:3], word if row[3] == "007" else row[3], word, *row[5:]] for row in ROWS])
    read_so = read(base)
    assert len(read_so.records) == 2 and all(record.study_id is None for record in read_so.records)
    assert [reason.partition(": ")[2] for _, reason in read_so.rejected] == 2 * [
        "patient is empty or a word for unknown"
    ]


def test_a_patient_with_a_large_share_of_the_images_is_remarked_on(base: Path) -> None:
    def notes(images: int, others: int) -> list[str]:
        files = [f"{number}.png" for number in range(images + others)]
        for name in files:
            (base / name).touch()
        ids = [*["007"] * images, *map(str, range(others))]
        write(base, [[name, str(k % 2), "hand", ids[k], "", "train", "", ""] for k, name in enumerate(files)])
        return [note for note in read(base).notes if "one patient" in note]

    assert notes(19, 19) == [] and notes(20, 400) == []
    assert notes(20, 20) == ["one patient has 20 of 40 images; see whether that id stands for unknown patients"]


@pytest.mark.parametrize("column", ["pid", "accession"])
def test_ids_that_went_through_a_number_stop(base: Path, column: str) -> None:
    place = HEADER.index(column)
    write(base, [[*row[:place], f"{k}.0" if k else "1.5E+12", *row[place + 1 :]] for k, row in enumerate(ROWS)])
    with pytest.raises(RadtransferError, match=f"ids in column '{column}' look like 123.0 .*export the column as"):
        read(base)
    write(base, [*ROWS, *changed(**{column: "7123.0"})[:1]])
    assert read(base).records  # one may be an id
    columns = {name: [row[k] for row in ROWS] for k, name in enumerate(HEADER)}
    pq.write_table(pa.table(columns | {column: [1.0, 2.0, None, 4.0]}), base / "labels.parquet")
    with pytest.raises(RadtransferError, match=f"ids in column '{column}' look like"):
        read(base, table="labels.parquet")
    pq.write_table(pa.table(columns | {column: [1, 2, 3, 4]}), base / "labels.parquet")
    assert len(read(base, table="labels.parquet").records) == 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"table": "../own/labels.csv"},
            r"own: no table '\.\./own/labels\.csv' inside this folder; did you mean labels\.csv",
        ),
        ({"table": "/tmp/labels.csv"}, "no table '/tmp/labels.csv' inside this folder"),
        ({"table": "nowhere.parquet"}, r"no table 'nowhere\.parquet' inside this folder; known: labels\.csv"),
        ({"table": "link.csv"}, r"no table 'link\.csv' inside this folder"),
        ({"table": "a"}, "no table 'a' inside this folder"),
        ({"table": "n" * 9000}, "no table 'nnn"),
        ({"table": "readme.txt"}, r"expected a table that ends in \.csv or \.parquet"),
        ({"patient": "patient"}, "column 'patient' is missing; "),
        ({"fil": "path"}, r"own, its table: fil: Extra inputs.*it takes table, file, label"),
        ({"positive": [1]}, r"positive\.0: Input should be a valid string \(got 1\); put it in quotes"),
        ({"positive": "fracture"}, r"positive: Input should be a valid list \(got 'fracture'\)"),
        ({"positive": []}, "positive: List should have at least 1 item"),
        ({"positive": [" "]}, r"positive\.0: String should have at least 1 character"),
        ({"negative": ["0", "1"]}, "label '1' is among the positive and among the negative ones"),
        ({"file": None}, r"file: Input should be a valid string \(got None\)"),
    ],
)
def test_a_table_or_mapping_that_does_not_fit_is_an_error(base: Path, columns: dict[str, Any], message: str) -> None:
    write(base, ROWS)
    (base.parent.parent / "labels.csv").write_text("path,finding\n")
    (base / "link.csv").symlink_to(base.parent.parent / "labels.csv")
    with pytest.raises(RadtransferError, match=message):
        read(base, **columns)


def test_the_layout_and_the_mapping_go_together(base: Path) -> None:
    with pytest.raises(RadtransferError, match=r"own: the layout 'table' needs to know the columns; set target_table"):
        datasets.read("table", base.parent, "own")
    with pytest.raises(RadtransferError, match="columns of a table are for the layout 'table', not for 'mura'"):
        datasets.read("mura", base.parent, "own", table=COLUMNS)


def test_slices_of_ct_are_told_from_radiographs(base: Path) -> None:
    write(base, ROWS)
    assert (read(base).modality, read(base).slices) == ("X-ray", False)
    scans = read(base, modality="CT")
    assert (scans.modality, scans.slices) == ("CT", True)
    with pytest.raises(RadtransferError, match="modality: Input should be 'X-ray' or 'CT'"):
        read(base, modality="MRI")


def test_a_configuration_checks_the_mapping(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(
        "name: own\ntarget_layout: table\ntarget_path: own\ntarget_part: hand\nsource_layout: mura\nsource_path: m\n"
        "target_table:\n  table: labels.csv\n  file: path\n  label: finding\n  positive: [fracture, '1']\n"
        "  negative: [normal]\n  patient: ''\n"
    )
    loaded = load(config)
    assert loaded.target_table == COLUMNS | {"negative": ["normal"]} and loaded.source_table == {}
    assert TableColumns.of(loaded.target_table, "x").patient == ""
    for override, message in (
        ("target_table={file: path}", r"^--set target_table=\{file: path\}: target_table: table: Field required"),
        ("target_table={fil: path}", r"target_table: .*; it takes table, file, label, positive"),
        ("ct_window=[40]", r"^--set ct_window=\[40\]: ct_window: \[40\.0\] is no window; expected \[centre, width\]"),
        ("ct_window=[40, 0]", "width above 0"),
        ("ct_window=[.nan, 1500]", "should be a finite number"),
        ("learning_rate=.inf", "should be a finite number"),
        ("test_fold=[0, 5]", r"--set test_fold=.*: test_fold: \[0, 5\] is no fold; expected \[number, of\]"),
        ("test_fold=[1, 60]", "from 2 to 50"),
        ("target_table=[1]", r"--set target_table=.*: target_table: Input should be a valid dictionary"),
        ("target_table={1: path}", r"--set target_table=.*: target_table\.1\.\[key\]: Input should be a valid string"),
        ("source_table={table: t, file: f, label: l, positive: [yes], negative: ['no']}", "put it in quotes"),
    ):
        with pytest.raises(RadtransferError, match=message):
            load(config, [override])
    twice = tmp_path / "twice.yaml"
    twice.write_text(config.read_text() + "target_part: wrist\n")
    with pytest.raises(RadtransferError, match="key 'target_part' is there twice"):
        load(twice)
    with pytest.raises(RadtransferError, match="test_fold cuts anew"):
        load(config, ["test_fold=[1, 5]", "previous_splits=splits.csv"])


def cell() -> st.SearchStrategy[str]:
    """Cells that fit, that nearly fit, and that never do."""
    fitting = sorted({text for row in ROWS for text in row} | {"../x", "/x", "=1", "nan", "1e400,0,1,1", "0,0,1,1;"})
    return st.sampled_from(fitting) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("law") / "own"
    for name in ("a/1.png", "a/2.JPG", "IM0003", "c.dcm"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"x")
    yield base


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.lists(cell(), min_size=7, max_size=7), max_size=4))
def test_any_table_is_read_whole_or_refused(shared: Path, rows: list[list[str]]) -> None:
    """Whatever the cells: only our own error; else every image is there once, and every row is accounted for."""
    text = io.StringIO()
    csv.writer(text).writerows([HEADER[:7], *([*row, ""][:7] for row in ROWS[:2]), *rows])
    (shared / "labels.csv").write_bytes(text.getvalue().encode())
    try:
        dataset = datasets.read("table", shared.parent, "own", table=ALL)
    except RadtransferError as error:
        assert "labels.csv" in str(error)
        return
    placed = [record.file for record in dataset.records]
    listed = [file for file, _ in dataset.rejected]
    assert len(set(placed + listed)) == len(placed + listed)
    assert {"own/a/1.png", "own/a/2.JPG", "own/c.dcm"} <= {*placed, *listed}
    assert set(placed) <= {"own/a/1.png", "own/a/2.JPG", "own/IM0003", "own/c.dcm"}
    assert all(reason for _, reason in dataset.rejected)
    for record in dataset.records:
        assert record.label in (0, 1) and record.official in ("train", "test")
        assert record.patient_id and len(record.patient_id) == 16
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in record.boxes)
