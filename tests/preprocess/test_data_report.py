"""The data report: what is in the stores, shown as text whatever it is."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.preprocess import store
from radtransfer.preprocess.data_report import LISTED, NAMED, DataReport
from radtransfer.problems import Rejected, policies

HOSTILE = "<script>alert(1)</script>|`*[x](http://e.org)"


class Page(HTMLParser):
    """Tags and attributes of a page, and its text outside of styles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data


def made(path: Path, role: str, *, hostile: str = "", count: int = 6, empty: int = 2, capped: int = 0) -> Path:
    """A store with `count` images, one of them truncated and one a label conflict, and `empty` files left out."""
    classes = ("normal" + hostile, "abnormal" + hostile)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        name = f"set/{role}{i}{hostile}.png"
        rows.append(
            {
                "image_id": name, "label": i % 2, "label_name": classes[i % 2], "body_part": "hand" + hostile,
                "patient_id": None, "study_id": None, "group_id": f"image-{max(i, 1)}", "split": "train", "boxes": [],
                "source_file": name, "sha256": "0" * 64, "width": 100 + i, "height": 50,
                "flags": {0: ["truncated"], 1: ["label_conflict", "dicom"]}.get(i, []),
            }
        )  # fmt: skip
    rejected = [Rejected(f"set/e{i}{hostile}.png", "empty", f"empty file{hostile}") for i in range(empty)]
    rejected += [Rejected(f"set/c{i}.png", "", "left out by max_images") for i in range(capped)]
    found = count + len(rejected)
    settings = {"on_problem": policies({})}
    with artifacts.writing(path, "image-store", step="preprocess", settings=settings) as (folder, content):
        store.write(folder, rows, [np.zeros((8, 8), np.uint8)] * count, 8, rejected, found)
        counts = {classes[0]: (count + 1) // 2, classes[1]: count // 2}
        figures = {name: [1.0, 2.0, 3.0] for name in ("mean", "deviation", "black", "saturated")}
        content |= {
            "role": role, "name": "set" + hostile, "part": "hand" + hostile, "layout": "table", "modality": "X-ray",
            "synthetic": bool(hostile), "images": count, "size": 8, "grouping": "near_duplicate",
            "classes": {"0": classes[0], "1": classes[1]}, "positive_class": classes[1], "counts": {"train": counts},
            "parts": {"hand" + hostile: counts}, "groups": {"train": count - 1}, "flags": {"hostile" + hostile: 1},
            "grey_levels": dict.fromkeys(classes, figures), "files_found": found, "notes": ["a note" + hostile],
            "rejected": [one._asdict() for one in rejected],
        }  # fmt: skip
    return path


def test_counts_add_up_and_problems_are_found_with_their_files(tmp_path: Path) -> None:
    target, source = made(tmp_path / "t", "target", capped=3), made(tmp_path / "s", "source", empty=0)
    report = DataReport.of(target, source)
    for one in report.stores:
        assert one["files_found"] == one["images"] + sum(one["left_out"].values())
    assert report.stores[0]["left_out"] == {"": 3, "empty": 2}
    assert report.stores[0]["grouped"] == {"groups": 5, "single": 4, "largest": 2, "mixed": 1}
    assert report.stores[0]["sizes"]["width"] == [100.0, 100.25, 102.5, 104.75, 105.0]
    assert Counter((one.store, one.problem, one.outcome) for one in report.findings) == {
        ("target", "empty", "left out"): 2,
        ("target", "truncated", "kept"): 1,
        ("source", "truncated", "kept"): 1,
        ("target", "label_conflict", "kept"): 1,
        ("source", "label_conflict", "kept"): 1,
    }
    assert not report.stopping
    rows = list(csv.DictReader(io.StringIO(report.problems_csv())))
    assert [row["problem"] for row in rows] == ["empty"] * 2 + ["truncated"] * 2 + ["label_conflict"] * 2
    assert rows[2]["file"] == "set/target0.png" and rows[2]["group"] == "image-1" and rows[0]["reason"] == "empty file"
    assert "11 files found = 6 images + 5 left out (3 by max_images, 2 empty)." in Page(report.html()).text
    assert "11 files found = 6 images + 5 left out (3 max_images, 2 empty)." in report.markdown()


def test_what_stops_a_run_comes_first(tmp_path: Path) -> None:
    report = DataReport.of(
        made(tmp_path / "t", "target"), made(tmp_path / "s", "source"), on_problem={"truncated": "fail"}
    )
    assert report.stopping == {"truncated": 2}
    assert {one.outcome for one in report.of_problem("truncated")} == {"stops the run"}
    text = Page(report.html()).text
    assert text.index("These stop a run") < text.index("What may be wrong")
    assert "truncated: 2 files, policy fail" in text
    assert "**2 files stop a run: `truncated` has the policy `fail`.**" in report.markdown()


def test_names_from_data_sets_are_text(tmp_path: Path) -> None:
    stores = (made(tmp_path / "t", "target", hostile=HOSTILE), made(tmp_path / "s", "source", hostile=HOSTILE))
    report = DataReport.of(*stores)
    page = Page(report.html())
    assert "script" not in page.tags and page.text.count("<script>alert(1)</script>") > 20
    markdown = report.markdown()
    assert "<script" not in markdown and not re.search(r"(?<!\\)\]\(", markdown)
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| empty")}
    assert cells == {5}


def test_the_page_loads_nothing_and_says_that_images_are_synthetic(tmp_path: Path) -> None:
    real = DataReport.of(made(tmp_path / "t", "target"), made(tmp_path / "s", "source"))
    page = Page(real.html())
    assert not {"script", "img", "link", "iframe", "form"} & set(page.tags)
    links = [value or "" for name, value in page.attributes if name in {"href", "src", "srcset", "action"}]
    assert all(link.startswith("#") for link in links)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in (value or ""))
    assert policy and "default-src 'none'" in policy and "script-src" not in policy
    assert "Synthetic" not in page.text + real.markdown()
    drawn = DataReport.of(tmp_path / "t", made(tmp_path / "p", "source", hostile="x"))
    assert "Synthetic images" in Page(drawn.html()).text and "**Synthetic images.**" in drawn.markdown()


def test_long_lists_are_cut_on_the_page_and_whole_in_the_table(tmp_path: Path) -> None:
    report = DataReport.of(made(tmp_path / "t", "target", empty=LISTED + 50), made(tmp_path / "s", "source", empty=0))
    page = report.html()
    assert f"The first {LISTED} are shown." in page and page.count("set/e") == LISTED
    assert report.markdown().count("set/e") == NAMED
    assert report.problems_csv().count("set/e") == LISTED + 50


def test_a_store_that_did_not_record_enough_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "t", "target")
    with artifacts.writing(tmp_path / "s", "image-store", step="preprocess", settings={}) as (folder, _):
        store.write(folder, [], [], 8, [], 0)
    with pytest.raises(RadtransferError, match="s: image store of an earlier version"):
        DataReport.of(tmp_path / "t", tmp_path / "s")
